"""PEFT's other methods: recognised by ``peft_type`` and refused with their reason."""

from __future__ import annotations

import re
from collections.abc import Mapping

from adaptrix.convert.contents import CONFIG_NAME, Contents
from adaptrix.convert.formats.peft_config import PeftConfig
from adaptrix.convert.formats.peft_exact import METHODS
from adaptrix.convert.keys import FACTOR_LEAVES, parse_key, strip_wrappers
from adaptrix.schema.report import Problem

_SOFT_PROMPTS = {
    "PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "CPT",
    "ADAPTION_PROMPT", "CARTRIDGE",
}  # fmt: skip
_ROUTED = {"XLORA", "POLY"}
_REASONS: Mapping[str, str] = {
    "OFT": "OFT rotates the base weights", "BOFT": "BOFT rotates the base weights",
    "HRA": "HRA reflects the base weights", "ROAD": "RoAd rotates the outputs",
    "PSOFT": "PSOFT rotates the base weights", "HIRA": "HiRA multiplies the base weights",
    "LN_TUNING": "LN tuning replaces the layer norms; it is no low-rank update",
    "TRAINABLE_TOKENS": "it replaces rows of the embedding; it is no low-rank update",
    "FINEGATES": "FineGates scales rows and columns of the base weights",
}  # fmt: skip
_LEAF = re.compile(
    r"\.(?:(?:lora|ia3|hada|lokr|oft|boft|vera|hra|miss|bone|vblora|randlora|finegates|fourierft"
    r"|ln_tuning|c3a|road|hira|delora|gralora|psoft|shira|frod|glora|pvera|waveft|deft)_\w+"
    r"|loras?|trainable_tokens_delta)(?:\..*)?$"
)
_UNET = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
_PLACES = (
    (re.compile(r"\.processor\.(to_[a-z]+)_lora\..*"), r".\1"),
    (re.compile(r"\.adapters\..*"), ".dense"),
    (re.compile(r"^lora_unet_(?:(?:down|up|input|output)_blocks|mid(?:dle)?_block)_.*"), _UNET),
    (re.compile(r"^unet:\d+:(?:up|down)$"), _UNET),
)
"""Keys whose modules cannot be read off, and a module of the same family."""


def method_problem(contents: Contents, config: PeftConfig) -> Problem | None:
    """Why the declared method is refused; None for LoRA."""
    kind, where = config.peft_type, f"{CONFIG_NAME}:peft_type"
    if kind == "LORA" or kind in METHODS:
        return None
    if any(parse_key(name).leaf == "lora_A.weight" for name in contents.tensors):
        message = f"peft_type {kind[:40]}, and the tensors are plain LoRA factors"
        return Problem.of("invalid_config", message, where=where)
    if kind in _SOFT_PROMPTS:
        message = f"{kind} stores virtual tokens, not weight updates"
        return Problem.of("soft_prompt", message, where=where)
    if kind == "IA3":
        return Problem.of(
            "ia3", "IA³ stores factors of activations, no low-rank update", where=where
        )
    if kind in _ROUTED:
        message = f"{kind} mixes several adapters by a router"
        return Problem.of("routed_adapter", message, where=where)
    message = _REASONS.get(kind, f"PEFT's method {kind[:40]} is not converted")
    return Problem.of("unsupported_method", message, where=where)


def module_hints(contents: Contents) -> tuple[str, ...]:
    """Paths of the modules that any method's tensors belong to."""
    found: dict[str, None] = {}
    for file in contents.tensor_files:
        for name in file.tensors:
            bare = strip_wrappers(name)
            path = _LEAF.sub("", bare)
            for pattern, place in _PLACES:
                path = pattern.sub(place, path)
            if path != bare:
                found[path] = None
            elif parse_key(name).leaf in FACTOR_LEAVES:
                found[parse_key(name).path] = None
    return tuple(found)
