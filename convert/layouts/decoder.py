"""Where a decoder's matrices are in the transformers classes, by the part they play.

LitGPT, torchtune and NeMo name modules by their part in any decoder; transformers names
them per architecture. Families that fuse q, k and v, or gate and up, are not in the table:
their factors would have to be fused as well.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_GATED = {
    "q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj",
    "o": "self_attn.o_proj", "gate": "mlp.gate_proj", "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}  # fmt: skip
_PHI = {
    "q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj",
    "o": "self_attn.dense", "fc": "mlp.fc1", "down": "mlp.fc2",
}  # fmt: skip
DECODERS: Mapping[str, Mapping[str, str]] = {
    **dict.fromkeys(
        ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "stablelm",
         "minicpm"),
        _GATED,
    ),
    "phi": _PHI,
}  # fmt: skip
"""Tail in ``model.layers.N`` by part, for each family whose matrices are all apart."""
OUTER: Mapping[str, str] = {"embed": "model.embed_tokens", "head": "lm_head"}
_BLOCK = re.compile(r"model\.layers\.(\d{1,4})\.(.+)")


def module_path(family: str, part: str, layer: int | None) -> str | None:
    """Path of a part in the current class; None when the family has no such part."""
    if layer is None:
        return OUTER.get(part)
    tail = DECODERS.get(family, {}).get(part)
    return None if tail is None else f"model.layers.{layer}.{tail}"


def part_of(family: str, path: str) -> tuple[str, int | None] | None:
    """Inverse of :func:`module_path`: ``(part, layer)``, or None for another module."""
    for part, outer in OUTER.items():
        if path == outer:
            return part, None
    match = _BLOCK.fullmatch(path)
    if match is None:
        return None
    for part, tail in DECODERS.get(family, {}).items():
        if match[2] == tail:
            return part, int(match[1])
    return None
