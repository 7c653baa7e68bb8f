"""Whose naming the keys of a file are in, counted key by key."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping

from adaptrix.convert.contents import Contents
from adaptrix.convert.diffusion.leaves import LYCORIS, is_token, part_of
from adaptrix.convert.draft import Recognition

KOHYA, LYCORIS_NAME, XLABS, COMFYUI, DIFFUSERS = "kohya", "lycoris", "xlabs", "comfyui", "diffusers"
_STYLES: Mapping[str, re.Pattern[str]] = {
    KOHYA: re.compile(r"(lora_(?:prior_)?unet|lora_transformer|lora_(?:prior_)?te[123]?|lycoris)_\w+"),
    XLABS: re.compile(r"(diffusion_model\.)?(double|single)_blocks\.\d+\.processor\..+"),
    COMFYUI: re.compile(
        r"(model\.)?diffusion_model\..+|text_encoders\.(clip_l|clip_g|t5xxl)\.transformer\..+"
        r"|(transformer\.)?(double_blocks|single_blocks|joint_blocks|final_layer"
        r"|(img|txt|time|vector|guidance)_in)\b.*"
        r"|(transformer\.)?blocks\.\d+\.(self_attn\.[qkvo]|cross_attn\.\w+|ffn\.\d)"
        r"|(input_blocks|middle_block|output_blocks)\..+"
    ),
    DIFFUSERS: re.compile(
        r"(unet|text_encoder(_[23])?)\..+"
        r"|transformer(_2)?\.\w+_blocks\.\d+\..+"
        r"|(transformer(_2)?\.)?((single_|joint_)?transformer_blocks\.\d+\..+"
        r"|(x_embedder|context_embedder|proj_out|proj_in|norm_out|pos_embed|time_text_embed"
        r"|condition_embedder|caption_projection|patch_embed)(\..+)?"
        r"|blocks\.\d+\.(attn[12]|ffn\.net)\..+"
        r"|(noise_refiner|context_refiner|layers)\.\d+\.(attn|attention)\.to_.+|img_in|txt_in)"
        r"|(down_blocks|mid_block|up_blocks|conv_in|conv_out|time_embedding|add_embedding)\b.*"
        r"|text_model\.encoder\..*lora_linear_layer.*"
    ),
}  # fmt: skip


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
    # Not ``contents.tensors``: with several files its names begin with the file's.
    for name in (name for file in contents.tensor_files for name in file.tensors):
        found = part_of(name)
        if found is not None:
            counts[_style(*found)] += 1
        elif not is_token(name):
            counts["other"] += 1
    return counts


def _style(module: str, part: str) -> str:
    style = next((name for name, keys in _STYLES.items() if keys.fullmatch(module)), "other")
    return LYCORIS_NAME if LYCORIS.match(part) and style != "other" else style
