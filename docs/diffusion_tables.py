"""Makes ``convert/diffusion/models.txt``: the modules of real diffusion models.

Models are built on the meta device from their published configurations, with the installed
diffusers and transformers; only names and shapes are kept. Run it after a new release of
either: ``python docs/diffusion_tables.py``. ``--check`` says whether the file is up to date.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import diffusers
import torch
import transformers
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, T5Config, T5EncoderModel

TARGET = Path(__file__).resolve().parent.parent / "convert" / "diffusion" / "models.txt"
NUMBER = re.compile(r"(?<=[._])\d+(?=[._]|$)")
LINEAR, CONVS = torch.nn.Linear, (torch.nn.Conv2d, torch.nn.Conv3d)
Row = tuple[str, int, int, str]

SD = {"down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
      "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3}  # fmt: skip
XL = {"down_block_types": ["DownBlock2D"] + ["CrossAttnDownBlock2D"] * 2,
      "up_block_types": ["CrossAttnUpBlock2D"] * 2 + ["UpBlock2D"],
      "block_out_channels": [320, 640, 1280], "use_linear_projection": True,
      "attention_head_dim": [5, 10, 20], "transformer_layers_per_block": [1, 2, 10],
      "cross_attention_dim": 2048, "addition_embed_type": "text_time",
      "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816}  # fmt: skip
REFINER = {"block_out_channels": [384, 768, 1536, 1536], "attention_head_dim": [6, 12, 24, 24],
           "down_block_types": ["DownBlock2D"] + ["CrossAttnDownBlock2D"] * 2 + ["DownBlock2D"],
           "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 2 + ["UpBlock2D"],
           "cross_attention_dim": 1280, "transformer_layers_per_block": 4,
           "projection_class_embeddings_input_dim": 2560}  # fmt: skip
SD3 = {"attention_head_dim": 64, "joint_attention_dim": 4096, "pooled_projection_dim": 2048,
       "patch_size": 2, "in_channels": 16, "sample_size": 128}  # fmt: skip
NETWORKS = {
    "sd1-unet": ("UNet2DConditionModel", {**SD, "cross_attention_dim": 768}),
    "sd2-unet": ("UNet2DConditionModel", {**SD, "cross_attention_dim": 1024, "use_linear_projection": True, "attention_head_dim": [5, 10, 20, 20]}),
    "sdxl-unet": ("UNet2DConditionModel", XL),
    "sdxl-refiner-unet": ("UNet2DConditionModel", {**XL, **REFINER}),
    "sd3-medium": ("SD3Transformer2DModel", {**SD3, "num_layers": 24, "num_attention_heads": 24, "caption_projection_dim": 1536}),
    "sd35-medium": ("SD3Transformer2DModel", {**SD3, "num_layers": 24, "num_attention_heads": 24, "caption_projection_dim": 1536, "dual_attention_layers": tuple(range(13)), "qk_norm": "rms_norm"}),
    "sd35-large": ("SD3Transformer2DModel", {**SD3, "num_layers": 38, "num_attention_heads": 38, "caption_projection_dim": 2432, "qk_norm": "rms_norm"}),
    "flux-dev": ("FluxTransformer2DModel", {"guidance_embeds": True}),
    "flux-schnell": ("FluxTransformer2DModel", {"guidance_embeds": False}),
    "flux2-dev": ("Flux2Transformer2DModel", {}),
    "flux2-klein-4b": ("Flux2Transformer2DModel", {"num_layers": 5, "num_single_layers": 20, "num_attention_heads": 24, "joint_attention_dim": 7680, "guidance_embeds": False}),
    "flux2-klein-9b": ("Flux2Transformer2DModel", {"num_layers": 8, "num_single_layers": 24, "num_attention_heads": 32, "joint_attention_dim": 12288, "guidance_embeds": False}),
    "chroma": ("ChromaTransformer2DModel", {}),
    "qwen-image": ("QwenImageTransformer2DModel", {}),
    "qwen-image-2.1": ("QwenImage21Transformer2DModel", {}),
    "wan-14b": ("WanTransformer3DModel", {}),
    "wan-i2v-14b": ("WanTransformer3DModel", {"in_channels": 36, "image_dim": 1280, "added_kv_proj_dim": 5120}),
    "wan22-i2v-a14b": ("WanTransformer3DModel", {"in_channels": 36}),
    "wan22-ti2v-5b": ("WanTransformer3DModel", {"num_attention_heads": 24, "ffn_dim": 14336, "num_layers": 30, "in_channels": 48, "out_channels": 48}),
    "wan-vace-14b": ("WanVACETransformer3DModel", {}),
    "wan-1.3b": ("WanTransformer3DModel", {"num_attention_heads": 12, "ffn_dim": 8960, "num_layers": 30}),
    "hunyuan-video": ("HunyuanVideoTransformer3DModel", {}),
    "framepack": ("HunyuanVideoFramepackTransformer3DModel", {}),
    "hunyuan-video-1.5": ("HunyuanVideo15Transformer3DModel", {}),
    "hunyuan-image": ("HunyuanImageTransformer2DModel", {"text_embed_2_dim": 1472}),
    "hunyuan-dit": ("HunyuanDiT2DModel", {"in_channels": 4, "patch_size": 2, "hidden_size": 1408, "num_layers": 40, "mlp_ratio": 4.3637}),
    "ltx-video": ("LTXVideoTransformer3DModel", {}),
    "ltx-2": ("LTX2VideoTransformer3DModel", {}),
    "lumina2": ("Lumina2Transformer2DModel", {}),
    "z-image": ("ZImageTransformer2DModel", {}),
    "cogvideox-2b": ("CogVideoXTransformer3DModel", {}),
    "cogvideox-5b": ("CogVideoXTransformer3DModel", {"num_attention_heads": 48, "num_layers": 42}),
    "cogview3-plus": ("CogView3PlusTransformer2DModel", {}),
    "cogview4": ("CogView4Transformer2DModel", {"num_layers": 28, "attention_head_dim": 128, "num_attention_heads": 32}),
    "lumina-next": ("LuminaNextDiT2DModel", {"num_layers": 24, "num_kv_heads": 8}),
    "auraflow": ("AuraFlowTransformer2DModel", {}),
    "pixart-alpha": ("PixArtTransformer2DModel", {"caption_channels": 4096}),
    "pixart-sigma": ("PixArtTransformer2DModel", {"caption_channels": 4096, "use_additional_conditions": False}),
    "hidream-i1": ("HiDreamImageTransformer2DModel", {"patch_size": 2, "in_channels": 16, "out_channels": 16, "caption_channels": [4096, 4096], "llama_layers": list(range(48))}),
    "mochi": ("MochiTransformer3DModel", {}),
    "cosmos-7b": ("CosmosTransformer3DModel", {}),
    "cosmos-predict2-2b": ("CosmosTransformer3DModel", {"num_attention_heads": 16}),
    "kandinsky5-lite": ("Kandinsky5Transformer3DModel", {"in_visual_dim": 16, "out_visual_dim": 16, "model_dim": 1792, "ff_dim": 7168}),
    "kandinsky5-pro": ("Kandinsky5Transformer3DModel", {"in_visual_dim": 16, "out_visual_dim": 16, "model_dim": 4096, "ff_dim": 16384, "time_dim": 1024, "num_text_blocks": 4, "num_visual_blocks": 60}),
    "omnigen": ("OmniGenTransformer2DModel", {"rope_scaling": {"short_factor": [1.0] * 48, "long_factor": [1.0] * 48}}),
    "ideogram4": ("Ideogram4Transformer2DModel", {}),
    "krea2": ("Krea2Transformer2DModel", {}),
    "ernie-image": ("ErnieImageTransformer2DModel", {}),
    "longcat-image": ("LongCatImageTransformer2DModel", {}),
    "ovis-image": ("OvisImageTransformer2DModel", {}),
    "bria-3.2": ("BriaTransformer2DModel", {}),
    "bria-fibo": ("BriaFiboTransformer2DModel", {}),
    "ace-step": ("AceStepTransformer1DModel", {}),
    "stable-audio": ("StableAudioDiTModel", {}),
    "sana": ("SanaTransformer2DModel", {}),
}  # fmt: skip
CLIPS = {  # hidden, intermediate, layers, heads, projection
    "clip-l": (768, 3072, 12, 12, 768),
    "clip-h": (1024, 4096, 23, 16, 512),
    "clip-bigg": (1280, 5120, 32, 20, 1280),
}
DECODERS = {  # class, hidden, intermediate, layers, heads, key-value heads, size of a head
    "gemma2-2b": ("Gemma2", 2304, 9216, 26, 8, 4, 256),
    "qwen3-0.6b": ("Qwen3", 1024, 3072, 28, 16, 8, 128),
    "qwen3-4b": ("Qwen3", 2560, 9728, 36, 32, 8, 128),
}
PIPELINES = """
stable-diffusion-v1-5/stable-diffusion-v1-5 stable-diffusion 0.30 unet=sd1-unet text_encoder=clip-l
stabilityai/stable-diffusion-2-1 stable-diffusion 0.04 unet=sd2-unet text_encoder=clip-h
stabilityai/stable-diffusion-xl-base-1.0 stable-diffusion-xl 0.30 unet=sdxl-unet text_encoder=clip-l text_encoder_2=clip-bigg
stabilityai/stable-diffusion-xl-refiner-1.0 stable-diffusion-xl 0.005 unet=sdxl-refiner-unet text_encoder_2=clip-bigg
stabilityai/stable-diffusion-3-medium-diffusers stable-diffusion-3 0.01 transformer=sd3-medium text_encoder=clip-l text_encoder_2=clip-bigg text_encoder_3=t5-xxl
stabilityai/stable-diffusion-3.5-medium stable-diffusion-3 0.01 transformer=sd35-medium text_encoder=clip-l text_encoder_2=clip-bigg text_encoder_3=t5-xxl
stabilityai/stable-diffusion-3.5-large stable-diffusion-3 0.01 transformer=sd35-large text_encoder=clip-l text_encoder_2=clip-bigg text_encoder_3=t5-xxl
black-forest-labs/FLUX.1-dev flux 0.20 transformer=flux-dev text_encoder=clip-l text_encoder_2=t5-xxl
black-forest-labs/FLUX.1-schnell flux 0.02 transformer=flux-schnell text_encoder=clip-l text_encoder_2=t5-xxl
black-forest-labs/FLUX.2-dev flux2 0.01 transformer=flux2-dev
black-forest-labs/FLUX.2-klein-4B flux2 0.01 transformer=flux2-klein-4b text_encoder=qwen3-4b
black-forest-labs/FLUX.2-klein-9B flux2 0.01 transformer=flux2-klein-9b
lodestones/Chroma chroma 0.002 transformer=chroma text_encoder=t5-xxl
Qwen/Qwen-Image qwen-image 0.03 transformer=qwen-image
Qwen/Qwen-Image-2.1 qwen-image 0.002 transformer=qwen-image-2.1
Wan-AI/Wan2.1-T2V-14B-Diffusers wan 0.03 transformer=wan-14b
Wan-AI/Wan2.1-T2V-1.3B-Diffusers wan 0.01 transformer=wan-1.3b
Wan-AI/Wan2.1-I2V-14B-720P-Diffusers wan 0.01 transformer=wan-i2v-14b
Wan-AI/Wan2.2-T2V-A14B-Diffusers wan 0.01 transformer=wan-14b transformer_2=wan-14b
Wan-AI/Wan2.2-I2V-A14B-Diffusers wan 0.01 transformer=wan22-i2v-a14b transformer_2=wan22-i2v-a14b
Wan-AI/Wan2.2-TI2V-5B-Diffusers wan 0.005 transformer=wan22-ti2v-5b
Wan-AI/Wan2.1-VACE-14B-diffusers wan 0.001 transformer=wan-vace-14b
hunyuanvideo-community/HunyuanVideo hunyuan-video 0.02 transformer=hunyuan-video text_encoder_2=clip-l
lllyasviel/FramePackI2V_HY hunyuan-video 0.002 transformer=framepack text_encoder_2=clip-l
hunyuanvideo-community/HunyuanVideo-1.5-Diffusers-480p_t2v hunyuan-video-1.5 0.003 transformer=hunyuan-video-1.5
hunyuanvideo-community/HunyuanImage-2.1-Diffusers hunyuan-image 0.002 transformer=hunyuan-image
Tencent-Hunyuan/HunyuanDiT-v1.2-Diffusers hunyuan-dit 0.002 transformer=hunyuan-dit
Lightricks/LTX-Video ltx-video 0.01 transformer=ltx-video text_encoder=t5-xxl
Lightricks/LTX-2 ltx-2 0.005 transformer=ltx-2
Alpha-VLLM/Lumina-Image-2.0 lumina2 0.005 transformer=lumina2 text_encoder=gemma2-2b
Alpha-VLLM/Lumina-Next-SFT-diffusers lumina-next 0.0005 transformer=lumina-next
Tongyi-MAI/Z-Image z-image 0.01 transformer=z-image text_encoder=qwen3-4b
zai-org/CogVideoX-2b cogvideox 0.005 transformer=cogvideox-2b text_encoder=t5-xxl
zai-org/CogVideoX-5b cogvideox 0.005 transformer=cogvideox-5b text_encoder=t5-xxl
zai-org/CogView3-Plus-3B cogview3 0.0005 transformer=cogview3-plus text_encoder=t5-xxl
zai-org/CogView4-6B cogview4 0.001 transformer=cogview4
fal/AuraFlow auraflow 0.002 transformer=auraflow
PixArt-alpha/PixArt-XL-2-1024-MS pixart 0.002 transformer=pixart-alpha text_encoder=t5-xxl
PixArt-alpha/PixArt-Sigma-XL-2-1024-MS pixart 0.002 transformer=pixart-sigma text_encoder=t5-xxl
HiDream-ai/HiDream-I1-Full hidream 0.005 transformer=hidream-i1 text_encoder=clip-l text_encoder_2=clip-bigg text_encoder_3=t5-xxl
genmo/mochi-1-preview mochi 0.002 transformer=mochi text_encoder=t5-xxl
nvidia/Cosmos-1.0-Diffusion-7B-Text2World cosmos 0.0005 transformer=cosmos-7b
nvidia/Cosmos-Predict2-2B-Text2Image cosmos 0.001 transformer=cosmos-predict2-2b
circlestone-labs/Anima cosmos 0.003 transformer=cosmos-predict2-2b text_encoder=qwen3-0.6b
kandinskylab/Kandinsky-5.0-T2V-Lite-sft-5s-Diffusers kandinsky5 0.001 transformer=kandinsky5-lite text_encoder_2=clip-l
kandinskylab/Kandinsky-5.0-T2V-Pro-sft-5s-Diffusers kandinsky5 0.001 transformer=kandinsky5-pro text_encoder_2=clip-l
Shitao/OmniGen-v1-diffusers omnigen 0.001 transformer=omnigen
ideogram-ai/ideogram-v4 ideogram4 0.002 transformer=ideogram4
krea/Krea-2 krea2 0.002 transformer=krea2
baidu/ERNIE-Image ernie-image 0.001 transformer=ernie-image
meituan-longcat/LongCat-Image longcat-image 0.0001 transformer=longcat-image
AIDC-AI/Ovis-Image-7B ovis-image 0.0001 transformer=ovis-image
briaai/BRIA-3.2 bria 0.0001 transformer=bria-3.2 text_encoder=t5-xxl
briaai/FIBO bria-fibo 0.0001 transformer=bria-fibo
ACE-Step/acestep-v15-base ace-step 0.001 transformer=ace-step
stabilityai/stable-audio-open-1.0 stable-audio 0.0005 transformer=stable-audio
Efficient-Large-Model/Sana_1600M_1024px_diffusers sana 0.003 transformer=sana
"""


def rows_of(model: torch.nn.Module) -> Iterator[Row]:
    """``(path, out, in, kind)`` of every layer that a LoRA can adapt."""
    for path, layer in model.named_modules():
        if isinstance(layer, LINEAR):
            yield path, layer.out_features, layer.in_features, "linear"
        elif isinstance(layer, CONVS):
            kernel = "x".join(map(str, layer.kernel_size))
            yield path, layer.out_channels, layer.in_channels // layer.groups, f"conv{kernel}"


def built() -> Iterator[tuple[str, list[Row]]]:
    """Every network with its rows."""
    for name, (kind, config) in NETWORKS.items():
        with torch.device("meta"):
            model = getattr(diffusers, kind)(**config)
        yield name, list(rows_of(model))
    for name, (hidden, inner, layers, heads, projection) in CLIPS.items():
        settings = CLIPTextConfig(
            hidden_size=hidden,
            intermediate_size=inner,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            projection_dim=projection,
        )
        with torch.device("meta"):
            clip = CLIPTextModelWithProjection(settings)
        yield name, list(rows_of(clip))
    for name, (kind, hidden, inner, layers, heads, groups, size) in DECODERS.items():
        decoder = getattr(transformers, f"{kind}Config")(
            hidden_size=hidden,
            intermediate_size=inner,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=groups,
            head_dim=size,
        )
        with torch.device("meta"):
            yield name, list(rows_of(getattr(transformers, f"{kind}Model")(decoder)))
    settings = T5Config(
        d_model=4096,
        d_ff=10240,
        num_layers=24,
        num_heads=64,
        d_kv=64,
        feed_forward_proj="gated-gelu",
    )
    with torch.device("meta"):
        encoder = T5EncoderModel(settings)
    yield "t5-xxl", list(rows_of(encoder))


def folded(rows: list[Row]) -> list[str]:
    """Rows that differ in numbers only, as one line with ranges: ``a.{0-2}.b out in kind``."""
    groups: dict[tuple[str, int, int, str], list[tuple[int, ...]]] = {}
    for path, out, into, kind in rows:
        numbers = tuple(int(n) for n in NUMBER.findall(path))
        groups.setdefault((NUMBER.sub("{}", path), out, into, kind), []).append(numbers)
    lines = []
    for (template, out, into, kind), found in groups.items():
        lines += [f"{template.format(*box)} {out} {into} {kind}" for box in boxes(found)]
    return lines


def boxes(points: list[tuple[int, ...]]) -> list[list[str]]:
    """Index tuples as products of ranges: the whole when it is one, else by the first index."""
    if not points or not points[0]:
        return [[]]
    sides = [sorted({point[i] for point in points}) for i in range(len(points[0]))]
    size = 1
    for side in sides:
        size *= len(side)
    if size == len(points) and all(side[-1] - side[0] == len(side) - 1 for side in sides):
        return [[span(side) for side in sides]]
    found: dict[tuple[tuple[str, ...], ...], list[int]] = {}
    for first in sides[0]:
        rest = boxes([point[1:] for point in points if point[0] == first])
        found.setdefault(tuple(tuple(box) for box in rest), []).append(first)
    return [
        [span(run), *box] for rest, firsts in found.items() for run in runs(firsts) for box in rest
    ]


def runs(numbers: list[int]) -> list[list[int]]:
    """Consecutive numbers together."""
    found: list[list[int]] = []
    for number in numbers:
        if found and number == found[-1][-1] + 1:
            found[-1].append(number)
        else:
            found.append([number])
    return found


def span(side: list[int]) -> str:
    """``{0-2}``, or ``{4}``."""
    return f"{{{side[0]}}}" if len(side) == 1 else f"{{{side[0]}-{side[-1]}}}"


def text() -> str:
    """The whole file."""
    made = f"made by docs/{Path(__file__).name} with diffusers {diffusers.__version__}"
    parts = [f"# Modules of diffusion models, {made}:\n# path, outputs, inputs, kind."]
    for name, rows in built():
        parts.append("\n".join([f"[{name}]", *folded(rows)]))
    parts.append("[pipelines]" + PIPELINES.rstrip())
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    made = text()
    if "--check" in sys.argv[1:]:
        same = TARGET.exists() and TARGET.read_text() == made
        print(f"{TARGET.name} is {'up to date' if same else 'out of date'}")
        sys.exit(not same)
    TARGET.write_text(made)
    print(f"{TARGET.name}: {len(made)} bytes")
