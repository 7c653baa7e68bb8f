"""Tunix and qwix (JAX): ``w_lora_a``, ``kernel_lora_a``, transposed, perhaps three-dimensional.

``ΔW (in, out) = a·b·α/r`` with ``a (in, r)``; einsum weights keep their heads apart, so
``b (r, N, H)`` becomes ``(r, N·H)`` and ``a (N, H, r)`` becomes ``(N·H, r)``, heads first as
in transformers. Names are joined by dots or slashes, as the dump was made.
"""

from __future__ import annotations

import math
import re
from dataclasses import replace

from adaptrix.convert.architecture.base import named_base
from adaptrix.convert.arrays import reshape, transpose
from adaptrix.convert.contents import Contents
from adaptrix.convert.draft import Draft, Factors, Format, Recognition
from adaptrix.convert.layouts.decoder import DECODERS, module_path
from adaptrix.convert.options import ReadOptions
from adaptrix.convert.pairs import paired, stored_number, stored_text, with_alpha
from adaptrix.schema.report import Problem

_LEAF = re.compile(r"(.+)\.(?:w|kernel)_lora_([ab])(?:\.(?:raw_value|value))?")
_BLOCK = re.compile(r"(?:.*\.)?layers\.(\d{1,4})\.(?:attn|self_attn|mlp)\.(\w+)")
_PARTS = {
    "q_proj": "q", "k_proj": "k", "v_proj": "v", "o_proj": "o", "gate_proj": "gate",
    "up_proj": "up", "down_proj": "down",
}  # fmt: skip


def recognise(contents: Contents) -> Recognition | None:
    """Leaves named ``w_lora_a`` or ``kernel_lora_a``."""
    hits = [n for n in contents.tensors if _LEAF.fullmatch(n.replace("/", "."))]
    if not hits or len(hits) * 2 < len(contents.tensors):
        return None
    evidence = f"{len(hits)} of {len(contents.tensors)} keys are Tunix's w_lora/kernel_lora leaves"
    return Recognition(score=0.95, evidence=(evidence,))


def read(contents: Contents, options: ReadOptions) -> Draft:
    """Flatten the heads, transpose, rename."""
    pairs = paired(contents.tensors, _rule)
    declared = stored_text(contents, "base_model_name_or_path", "model_id", "model_name")
    base = named_base(options, declared)
    found: list[Problem] = []
    # Tunix's names are the same for all decoders whose projections are apart.
    family = base.family or "llama"
    if "gate" not in DECODERS.get(family, {}):
        message = f"Tunix's factors for {family}, whose projections are fused in transformers"
        found.append(Problem.of("unsupported_method", message))
    placed = [_placed(pair, found) for pair in pairs.factors]
    alpha = stored_number(contents, "lora_alpha", "lora_config.alpha", "alpha")
    factors, problems = with_alpha(tuple(placed), alpha, options, "Tunix's LoRA settings have it")
    return Draft(
        total=len(contents.tensors),
        factors=factors,
        unknown=pairs.unknown,
        problems=(*pairs.problems, *problems, *found[:1]),
        base_name=declared,
        task_type="CAUSAL_LM",
        layout="tunix",
    )


def _rule(name: str) -> tuple[str, str] | None:
    match = _LEAF.fullmatch(name.replace("/", "."))
    return (match[1], match[2]) if match else None


def _placed(pair: Factors, found: list[Problem]) -> Factors:
    match = _BLOCK.fullmatch(pair.path)
    part = _PARTS.get(match[2]) if match else None
    if match is None or part is None:
        message = "a weight whose axes are not those of one projection (Gemma's einsums, experts)"
        found.append(Problem.of("unsupported_method", message, where=pair.path))
        return pair
    a, b = pair.a, pair.b
    if len(a.shape) not in (2, 3) or len(b.shape) not in (2, 3):
        return replace(pair, path=str(module_path("llama", part, int(match[1]))))
    flat_a = reshape(a, (math.prod(a.shape[:-1]), a.shape[-1]))  # (in, r)
    flat_b = reshape(b, (b.shape[0], math.prod(b.shape[1:])))  # (r, out)
    path = str(module_path("llama", part, int(match[1])))
    return replace(pair, path=path, a=transpose(flat_a), b=transpose(flat_b))


FORMAT = Format(name="tunix", recognise=recognise, read=read)
