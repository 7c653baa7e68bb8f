"""Names that transformers gave up: what PEFT loads of them, and what it silently does not."""

import json

import pytest
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from adaptrix.convert.layouts.renames import fill, moves
from adaptrix.convert.reading import ReadOptions, read_adapter
from adaptrix.convert.source import open_path
from adaptrix.convert.writing import tensors_digest, write_adapter

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore:The following .*_pattern keys:RuntimeWarning"),
]
TEXT = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": False,
}  # fmt: skip
VISION = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "image_size": 16, "patch_size": 8,
}  # fmt: skip
PIXELS = torch.linspace(-1, 1, 3 * 16 * 16).reshape(1, 3, 16, 16)
IDS = torch.arange(12).reshape(2, 6)


def llava():
    config = transformers.LlavaConfig(
        text_config=transformers.LlamaConfig(**TEXT).to_dict(),
        vision_config=transformers.CLIPVisionConfig(**VISION).to_dict(),
    )
    return transformers.LlavaForConditionalGeneration(config)


def gemma3():
    text = {**TEXT, "head_dim": 8, "pad_token_id": 0}
    config = transformers.Gemma3Config(
        text_config=transformers.Gemma3TextConfig(**text).to_dict(),
        vision_config=transformers.SiglipVisionConfig(**VISION).to_dict(),
    )
    return transformers.Gemma3ForConditionalGeneration(config)


def qwen2_vl():
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
    config = transformers.Qwen2VLConfig(
        text_config={**TEXT, "rope_parameters": rope},
        vision_config={"depth": 1, "embed_dim": 16, "num_heads": 2, "hidden_size": 32},
    )
    return transformers.Qwen2VLForConditionalGeneration(config)


def vit():
    return transformers.ViTForImageClassification(transformers.ViTConfig(**VISION, num_labels=3))


def dinov2():
    return transformers.Dinov2Model(transformers.Dinov2Config(**VISION))


def clip_text():
    sizes = {k: v for k, v in VISION.items() if k not in ("image_size", "patch_size")}
    return transformers.CLIPTextModel(
        transformers.CLIPTextConfig(**sizes, vocab_size=64, eos_token_id=63)
    )


MODELS = {
    "llava": (llava, ["q_proj", "v_proj", "down_proj"], IDS),
    "gemma3": (gemma3, ["q_proj", "o_proj", "gate_proj"], IDS),
    "qwen2_vl": (qwen2_vl, ["q_proj", "k_proj", "up_proj"], IDS),
    "vit": (vit, ["q_proj", "v_proj", "o_proj", "fc1", "fc2"], PIXELS),
    "dinov2": (dinov2, ["q_proj", "k_proj", "o_proj"], PIXELS),
    "clip_text_model": (clip_text, ["q_proj", "v_proj", "fc1"], IDS),
}


def build(kind):
    torch.manual_seed(0)
    return MODELS[kind][0]().eval()


def run(model, kind):
    with torch.no_grad():
        return model(MODELS[kind][2])[0].double()


def trained(kind):
    base = build(kind)
    torch.manual_seed(1)
    model = get_peft_model(base, LoraConfig(r=3, lora_alpha=7, target_modules=MODELS[kind][1]))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn_like(parameter) * 0.3)
    return model.eval()


def old_names(kind, tensors):
    """The file as the earlier release would have saved it, by the shortest old name."""
    table = {}
    for old, move in moves(kind).items():
        if move.parts == 1 and len(move.to) == 1:
            table.setdefault(move.to[0], []).append(old)
    found = {}
    for name, tensor in tensors.items():
        path, _, leaf = name.removeprefix("base_model.model.").partition(".lora_")
        numbers = [part for part in path.split(".") if part.isdigit()]
        template = ".".join("{}" if part.isdigit() else part for part in path.split("."))
        olds = table.get(template)
        new = fill(min(olds, key=len), numbers) if olds else path
        found[f"base_model.model.{new}.lora_{leaf}"] = tensor
    assert found.keys() != tensors.keys()
    return found


def read(folder, kind):
    config = json.loads(build(kind).config.to_json_string())
    reading = read_adapter(open_path(folder), ReadOptions(base_config=config))
    assert reading.adapter is not None, reading.inspection.problems
    return reading


def written(adapter, folder, **options):
    folder.mkdir()
    for file in write_adapter(adapter, "peft", **options).files:
        (folder / file.path).write_bytes(b"".join(bytes(chunk) for chunk in file.chunks()))
    return folder


@pytest.mark.parametrize("kind", MODELS)
def test_old_names_become_todays(kind, tmp_path):
    peft = trained(kind)
    peft.save_pretrained(tmp_path / "new")
    tensors = load_file(tmp_path / "new" / "adapter_model.safetensors")
    old = tmp_path / "old"
    old.mkdir()
    save_file(
        old_names(kind, tensors), old / "adapter_model.safetensors", metadata={"format": "pt"}
    )
    config = json.loads((tmp_path / "new" / "adapter_config.json").read_text())
    config["target_modules"] = sorted(
        {n.rpartition(".lora_")[0].rpartition(".")[2] for n in old_names(kind, tensors)}
    )
    (old / "adapter_config.json").write_text(json.dumps(config))
    reading = read(old, kind)
    assert "renamed_modules" in [p.code for p in reading.inspection.problems]
    assert reading.inspection.architecture.layout == "transformers-4"
    assert reading.inspection.architecture.family == kind
    new = read(tmp_path / "new", kind)
    assert "renamed_modules" not in [p.code for p in new.inspection.problems]
    assert tensors_digest(reading.adapter) == tensors_digest(new.adapter)
    loaded = PeftModel.from_pretrained(
        build(kind), written(reading.adapter, tmp_path / "ours")
    ).eval()
    expected = run(peft, kind)
    assert (expected - run(build(kind), kind)).abs().max() > 1e-3
    torch.testing.assert_close(run(loaded, kind), expected, rtol=1e-5, atol=1e-5)
    # And back to the old names: the very file it came from.
    back = load_file(
        written(reading.adapter, tmp_path / "back", layout="transformers-4")
        / "adapter_model.safetensors"
    )
    before = load_file(old / "adapter_model.safetensors")
    assert back.keys() == before.keys()
    assert all(torch.equal(back[name], before[name]) for name in before)


def test_phi3_on_its_split_copy(tmp_path):
    """One network as Phi-3 and as Llama: the adapter goes from one to the other and back."""
    torch.manual_seed(0)
    phi3 = transformers.Phi3ForCausalLM(transformers.Phi3Config(**TEXT, pad_token_id=0)).eval()
    llama = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(**TEXT, rms_norm_eps=phi3.config.rms_norm_eps)
    ).eval()
    state = {}
    for name, value in phi3.state_dict().items():
        if "qkv_proj" in name:
            for part, rows in zip("qkv", value.split([32, 16, 16]), strict=True):
                state[name.replace("qkv_proj", f"{part}_proj")] = rows
        elif "gate_up_proj" in name:
            gate, up = value.chunk(2)
            state[name.replace("gate_up", "gate")], state[name.replace("gate_up", "up")] = gate, up
        else:
            state[name] = value
    llama.load_state_dict(state)
    torch.testing.assert_close(llama(IDS).logits, phi3(IDS).logits)
    peft = get_peft_model(
        phi3, LoraConfig(r=4, lora_alpha=6, target_modules=["qkv_proj", "gate_up_proj", "o_proj"])
    )
    with torch.no_grad():
        for name, parameter in peft.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn_like(parameter) * 0.3)
    peft.eval().save_pretrained(tmp_path / "fused")
    config = json.loads(phi3.config.to_json_string())
    reading = read_adapter(open_path(tmp_path / "fused"), ReadOptions(base_config=config))
    folder = written(reading.adapter, tmp_path / "split", layout="llama")
    expected = peft(IDS).logits
    loaded = PeftModel.from_pretrained(llama, folder).eval()
    torch.testing.assert_close(loaded(IDS).logits, expected, rtol=1e-5, atol=1e-5)
    # Read for Phi-3 again, the split file is the fused one, bit for bit.
    again = read_adapter(open_path(folder), ReadOptions(base_config=config))
    assert again.inspection.architecture.family == "phi3"
    assert "renamed_modules" in [p.code for p in again.inspection.problems]
    assert tensors_digest(again.adapter) == tensors_digest(reading.adapter)
    # And an adapter made on the split copy fits Phi-3, at the sum of the ranks.
    made = get_peft_model(
        loaded.unload(),
        LoraConfig(r=2, lora_alpha=6, target_modules=["q_proj", "v_proj", "up_proj"]),
    )
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn_like(parameter) * 0.3)
    made.eval().save_pretrained(tmp_path / "made")
    reading = read_adapter(open_path(tmp_path / "made"), ReadOptions(base_config=config))
    assert {m.rank for m in reading.adapter.modules} == {4, 2}
    whole = PeftModel.from_pretrained(
        peft.unload(), written(reading.adapter, tmp_path / "whole")
    ).eval()
    torch.testing.assert_close(whole(IDS).logits, made(IDS).logits, rtol=1e-5, atol=1e-5)


REMOTE = {
    "baichuan": ("model.layers.{}.self_attn.W_pack", 4, 96),
    "qwen": ("transformer.h.{}.attn.c_attn", 4, 96),
    "internlm2": ("model.layers.{}.attention.wqkv", 2, 64),
}


@pytest.mark.parametrize("kind", REMOTE)
def test_remote_code_on_a_llama_copy(kind, tmp_path):
    """A fused pair of code that transformers does not have, read for the split copy of its base."""
    path, groups, total = REMOTE[kind]
    torch.manual_seed(3)
    tensors = {}
    for layer in range(2):
        key = "base_model.model." + path.format(layer)
        tensors[f"{key}.lora_A.weight"] = torch.randn(4, 32)
        tensors[f"{key}.lora_B.weight"] = torch.randn(total, 4)
    folder = tmp_path / "remote"
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {
        "peft_type": "LORA",
        "r": 4,
        "lora_alpha": 6,
        "target_modules": [path.rpartition(".")[2]],
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    base = transformers.LlamaConfig(**{**TEXT, "num_key_value_heads": groups})
    reading = read_adapter(
        open_path(folder), ReadOptions(base_config=json.loads(base.to_json_string()))
    )
    assert reading.adapter is not None, reading.inspection.problems
    assert reading.inspection.architecture.layout == kind
    model = transformers.LlamaForCausalLM(base)
    loaded = PeftModel.from_pretrained(model, written(reading.adapter, tmp_path / "llama"))
    for layer in range(2):
        key = "base_model.model." + path.format(layer)
        dense = (
            1.5
            * tensors[f"{key}.lora_B.weight"].double()
            @ tensors[f"{key}.lora_A.weight"].double()
        )
        if kind == "internlm2":
            rows = dense.view(groups, 4, 8, 32)  # two heads, one key, one value of each group
            parts = [
                rows[:, :2].reshape(-1, 32),
                rows[:, 2].reshape(-1, 32),
                rows[:, 3].reshape(-1, 32),
            ]
        else:
            parts = dense.chunk(3)
        attention = loaded.base_model.model.model.layers[layer].self_attn
        for module, part in zip(
            (attention.q_proj, attention.k_proj, attention.v_proj), parts, strict=True
        ):
            torch.testing.assert_close(
                module.get_delta_weight("default").double(), part, rtol=0, atol=1e-5
            )
