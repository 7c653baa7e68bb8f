"""Whose naming the keys of a file are in, counted key by key."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping

from adaptrix.convert.contents import Contents
from adaptrix.convert.diffusion.leaves import LYCORIS, is_token, part_of
from adaptrix.convert.diffusion.models import COMPONENTS
from adaptrix.convert.diffusion.naming import unwrapped
from adaptrix.convert.draft import Recognition

KOHYA, LYCORIS_NAME, XLABS, COMFYUI, DIFFUSERS = "kohya", "lycoris", "xlabs", "comfyui", "diffusers"
_STYLES: Mapping[str, re.Pattern[str]] = {
    KOHYA: re.compile(r"(lora_(?:prior_)?unet|lora_transformer|lora_(?:prior_)?te[123]?|lycoris)_[\w-]+"),
    XLABS: re.compile(r"(diffusion_model\.)?(double|single)_blocks\.\d+\.processor\..+"),
    COMFYUI: re.compile(
        r"(model\.)?diffusion_model\..+|conditional_transformer\..+|text_encoders\.\w+\.transformer\..+"
        r"|(transformer\.)?(double_blocks|single_blocks|joint_blocks|final_layer"
        r"|(img|txt|time|vector|guidance)_in)\b.*"
        r"|(transformer\.)?(vace_)?blocks\.\d+\.(self_attn\.[qkvo]|cross_attn\.[qkvo]\w*|ffn\.\d)"
        r"|(transformer\.)?(noise_refiner|context_refiner|layers)\.\d+\.attention\.(qkv|out)"
        r"|(txtfusion\.\w+_)?blocks\.\d+\.(attn\.(w[qkvo]|gate)|mlp\.(gate|up|down))"
        r"|(input_blocks|middle_block|output_blocks)\..+"
    ),
    DIFFUSERS: re.compile(
        r"(unet|text_encoder(_[23])?)\..+"
        r"|transformer(_2)?\.\w+_blocks\.\d+\..+"
        r"|(transformer(_2)?\.)?((single_|joint_)?transformer_blocks\.\d+\..+"
        r"|(x_embedder|context_embedder|proj_out|proj_in|norm_out|pos_embed|time_text_embed"
        r"|condition_embedder|caption_projection|patch_embed)(\..+)?"
        r"|blocks\.\d+\.(attn[12]|ffn\.net)\..+"
        r"|\w+\.\d+\.(\w*attn\d?|\w*attention)\.(to|add)_.+|img_in|txt_in)"
        r"|(down_blocks|mid_block|up_blocks|conv_in|conv_out|time_embedding|add_embedding)\b.*"
        r"|text_model\.encoder\..*lora_linear_layer.*"
    ),
}  # fmt: skip


_ATTENTION = re.compile(
    r".+\.(to_[qkv]|to_qkv|to_out(\.0)?|to_query|to_key|to_value|add_[qkv]_proj)"
)
"""Layers that every network of diffusers has, and no language model of transformers."""


def recognised_as(style: str, contents: Contents, *, what: str) -> Recognition | None:
    """How well ``style`` explains the keys, or None."""
    if isinstance((contents.config or {}).get("peft_type"), str):
        return None  # PEFT's own files on a bare network
    counts = styles_of(contents)
    total = sum(counts.values())
    hits = counts[style]
    if style == LYCORIS_NAME and hits:
        hits = total - counts["other"]
    elif counts[LYCORIS_NAME]:
        return None
    if not hits or hits * 2 < total:
        return None
    evidence = f"{hits} of {total} keys are {what}"
    return Recognition(score=0.9 + 0.085 * hits / total, evidence=(evidence,))


def styles_of(contents: Contents) -> Counter[str]:
    """Number of keys by style; ``other`` for what is of none. Words of prompts do not count."""
    counts: Counter[str] = Counter()
    below: Counter[str] = Counter()
    # Not ``contents.tensors``: with several files its names begin with the file's.
    for name in (name for file in contents.tensor_files for name in file.tensors):
        found = part_of(name)
        if found is not None:
            module = unwrapped(found[0])
            style = _style(module, found[1])
            counts[style] += 1
            if style == "other" and module.partition(".")[0] in COMPONENTS:
                below[module] += 1
        elif not is_token(name):
            counts["other"] += 1
    if any(map(_ATTENTION.fullmatch, below)):
        # A network that is in no pattern: the component and its attentions tell whose it is.
        counts[DIFFUSERS] += below.total()
        counts["other"] -= below.total()
    return +counts


def _style(module: str, part: str) -> str:
    style = next((name for name, keys in _STYLES.items() if keys.fullmatch(module)), "other")
    return LYCORIS_NAME if LYCORIS.match(part) and style != "other" else style
