"""PEFT's other methods: recognised by ``peft_type``, refused with their reason or carried."""

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
_ROUTED = {"XLORA", "POLY", "LILY"}
_NEEDS_BASE, _NOT_LOW_RANK = "needs_base_weights", "not_low_rank"
_REASONS: Mapping[str, tuple[str, str]] = {
    "IA3": ("ia3", "IA³ stores factors of activations, no low-rank update"),
    "OFT": (_NEEDS_BASE, "OFT rotates the base weights"),
    "BOFT": (_NEEDS_BASE, "BOFT rotates and scales the base weights"),
    "HRA": (_NEEDS_BASE, "HRA reflects the base weights"),
    "ROAD": (_NEEDS_BASE, "RoAd rotates the outputs of the base weights"),
    "PSOFT": (_NEEDS_BASE, "PSOFT rotates the base weights in their principal subspace"),
    "HIRA": (_NEEDS_BASE, "HiRA multiplies the base weights element by element"),
    "OSF": (_NEEDS_BASE, "OSF replaces the small singular components of the base weights"),
    "FROD": (_NEEDS_BASE, "FRoD replaces the base weights in a basis taken from them"),
    "PEANUT": (_NEEDS_BASE, "PEANuT computes its update from the base weights"),
    "DEFT": (_NEEDS_BASE, "DEFT projects the base weights"),
    "GLORA": (_NEEDS_BASE, "GLoRA multiplies the base weights"),
    "TINYLORA": (_NEEDS_BASE, "TinyLoRA moves between singular vectors of the base weights"),
    "ADAMSS": (_NEEDS_BASE, "AdaMSS works in subspaces taken from the base weights"),
    "FINEGATES": (_NEEDS_BASE, "FineGates scales rows and columns of the base weights"),
    "SHADOW": (_NEEDS_BASE, "Shadow runs a second model beside the base"),
    "PVERA": (_NOT_LOW_RANK, "PVeRA samples its update from a distribution"),
    "RANDLORA": (_NOT_LOW_RANK, "RandLoRA's sum of random bases has full rank"),
    "FOURIERFT": (_NOT_LOW_RANK, "FourierFT's update is sparse in frequencies, not of low rank"),
    "WAVEFT": (_NOT_LOW_RANK, "WaveFT's update is sparse in wavelets, not of low rank"),
    "C3A": (_NOT_LOW_RANK, "C3A's block-circulant update has full rank"),
    "SHIRA": (_NOT_LOW_RANK, "SHiRA's sparse update has high rank"),
    "SUPERTUNING": (_NOT_LOW_RANK, "SuperTuning's sparse update has high rank"),
    "UNILORA": (_NOT_LOW_RANK, "Uni-LoRA draws its factors from one vector by random indices"),
    "LN_TUNING": (_NOT_LOW_RANK, "LN tuning replaces the layer norms; it is no low-rank update"),
    "BEFT": (_NOT_LOW_RANK, "BEFT trains biases; it is no low-rank update"),
    "TRAINABLE_TOKENS": (
        _NOT_LOW_RANK, "it replaces rows of the embedding; it is no low-rank update",
    ),
}  # fmt: skip
_HRA_HINT = (
    "Pass --base with the folder of the base model's weights: then it is a LoRA. "
    "Or pull it with --carry to keep it unchanged."
)
_LEAF = re.compile(
    r"\.(?:(?:lora|ia3|hada|lokr|oft|boft|vera|hra|miss|bone|vblora|randlora|finegates|fourierft"
    r"|ln_tuning|c3a|road|hira|delora|gralora|psoft|shira|frod|glora|pvera|waveft|deft|osf"
    r"|supertuning|unilora|tinylora|adamss|lily|peanut|beft|shadow)_\w+"
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
    if kind in _ROUTED:
        message = f"{kind} mixes several adapters by a router"
        return Problem.of("routed_adapter", message, where=where)
    unknown = ("unsupported_method", f"PEFT's method {kind[:40]} is not known here")
    code, message = _REASONS.get(kind, unknown)
    hint = _HRA_HINT if kind == "HRA" else ""
    return Problem.of(code, message, where=where, hint=hint)


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
