"""Tensor names of diffusion adapters taken apart: the module, and the part of its update.

Every tool has its own words for the same parts; the module's name is what stands before
them. Parts of LyCORIS's methods keep LyCORIS's names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

DOWN, UP, MID, ALPHA, MAGNITUDE, BIAS = "down", "up", "mid", "alpha", "magnitude", "bias"
_WRAP = r"(?:lora\.|lora_linear_layer\.)?"
_PARTS: Mapping[str, str] = {
    DOWN: rf"lora_down\.weight|lora_A(?:\.[\w-]+)?\.weight|{_WRAP}down\.weight",
    UP: rf"lora_up\.weight|lora_B(?:\.[\w-]+)?\.weight|{_WRAP}up\.weight",
    MID: r"lora_mid\.weight",
    ALPHA: rf"{_WRAP}alpha",
    MAGNITUDE: r"dora_scale|lora_magnitude_vector(?:\.[\w-]+){0,2}",
    BIAS: r"lora_B(?:\.[\w-]+)?\.bias|lora_up\.bias",
    "lycoris": r"hada_(?:w[12]_[ab]|t[12])|lokr_(?:w[12](?:_[ab])?|t[12])|diff(?:_b)?|[wb]_norm"
    r"|oft_blocks|oft_diag|rescale|[ab][12]\.weight|on_input|bias_indices|bias_size|bias_values",
}  # fmt: skip
_LEAF = re.compile(
    r"(?P<name>.+?)\.(?:" + "|".join(f"(?P<{k}>{v})" for k, v in _PARTS.items()) + ")"
)
_TOKEN = re.compile(
    r"<[^<>]+>|emb_params|(?:clip_[lg]|t5)|string_to_param\..+|bundle_emb\..+|.*\btoken_embedding\b.*"
)
LYCORIS = re.compile(r"(?:hada|lokr|oft)_|diff$|diff_b$|[wb]_norm$|[ab][12]\.weight$|on_input$")
"""Parts that only LyCORIS's methods have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaves:
    """All tensors of a file by module.

    Attributes:
        groups: Tensor name by part, by module name.
        tokens: Embeddings of new words.
        unknown: What is none of these, and parts that stand twice.
    """

    groups: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    tokens: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()


def part_of(name: str) -> tuple[str, str] | None:
    """``(module, part)`` of one tensor's name, or None."""
    match = _LEAF.fullmatch(name)
    if match is None or match.lastgroup is None:
        return None
    kind = match.lastgroup
    return match["name"], match[kind] if kind == "lycoris" else kind


def is_token(name: str) -> bool:
    """Whether it is the embedding of a word that the adapter adds."""
    return _TOKEN.fullmatch(name) is not None


def leaves_of(names: Iterable[str]) -> Leaves:
    """Group the tensors of a file by module."""
    groups: dict[str, dict[str, str]] = {}
    tokens, unknown = [], []
    for name in names:
        found = part_of(name)
        if found is not None and found[1] not in groups.get(found[0], {}):
            groups.setdefault(found[0], {})[found[1]] = name
        elif found is None and is_token(name):
            tokens.append(name)
        else:
            unknown.append(name)
    return Leaves(groups=groups, tokens=tuple(tokens), unknown=tuple(unknown))
