"""NeMo and Megatron-Bridge: ``linear_in (r, in)``, ``linear_out (out, r)`` on Megatron's names.

``linear_qkv`` is de-interleaved into q, k and v, which needs the number of heads and groups;
``linear_fc1`` of a gated MLP holds gate, then up. Both share ``A``. Alpha is in
``model_config.yaml`` (NeMo 1) or the run's configuration. Source: Megatron-Bridge,
``models/conversion/peft_bridge.py``; NeMo 1, ``adapters/parallel_adapters.py``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from adaptrix.convert.architecture.base import NamedBase, model_id, named_base
from adaptrix.convert.arrays import row_blocks, take_rows
from adaptrix.convert.contents import Contents
from adaptrix.convert.draft import Draft, Factors, Format, Recognition, placed_draft
from adaptrix.convert.keys import strip_wrappers
from adaptrix.convert.layouts.decoder import DECODERS, module_path
from adaptrix.convert.layouts.grouped import group_rows, head_size
from adaptrix.convert.options import ReadOptions
from adaptrix.convert.pairs import paired, stored_number, stored_text, suffix_rule, with_alpha
from adaptrix.schema.report import Problem

_RULE = suffix_rule(".linear_in.weight", ".linear_out.weight")
_BLOCK = re.compile(
    r"(?:.*\.)?(?:decoder|encoder)\.layers\.(\d{1,4})\.(?:self_attention|mlp)\.(.+)"
)
_PARTS: Mapping[str, str] = {
    "linear_qkv.adapter": "qkv", "adapter_layer.lora_kqv_adapter": "qkv",
    "linear_proj.adapter": "o", "adapter_layer.lora_dense_attention_adapter": "o",
    "linear_fc1.adapter": "fc1", "adapter_layer.lora_hto4h_adapter": "fc1",
    "linear_fc2.adapter": "down", "adapter_layer.lora_4htoh_adapter": "down",
    **{f"linear_qkv.adapter.adapter_{p}": p for p in "qkv"},
    **{f"linear_qkv.adapter_{p}": p for p in "qkv"},
    **{f"adapter_layer.lora_unfused_kqv_adapter.{p}_adapter": p for p in "qkv"},
    **{f"linear_fc1.adapter.adapter_{p}": p for p in ("gate", "up")},
    **{f"linear_fc1.adapter_{p}": p for p in ("gate", "up")},
    **{f"adapter_layer.lora_unfused_hto4h_adapter.{p}_adapter": p for p in ("gate", "up")},
}  # fmt: skip
_ALPHA = ("peft.lora_tuning.alpha", "lora_tuning.alpha", "peft.alpha", "lora_alpha")


def recognise(contents: Contents) -> Recognition | None:
    """Factors named ``linear_in``/``linear_out``."""
    hits = [n for n in contents.tensors if n.endswith((".linear_in.weight", ".linear_out.weight"))]
    if not hits or not any("adapter" in name for name in hits):
        return None
    evidence = f"{len(hits)} of {len(contents.tensors)} keys are Megatron's linear_in/linear_out"
    return Recognition(score=0.97, evidence=(evidence,))


def read(contents: Contents, options: ReadOptions) -> Draft:
    """Name every part as the base's transformers class does, fused ones taken apart."""
    pairs = paired(contents.tensors, lambda name: _RULE(strip_wrappers(name)))
    place = model_id(stored_text(contents, "base_model_name_or_path", "hf_model_id", "model_id"))
    base = named_base(options, place)
    alpha = stored_number(contents, *_ALPHA)
    factors, problems = with_alpha(pairs.factors, alpha, options, "model_config.yaml has it")
    found: list[Problem] = []
    placed: list[Factors] = []
    if base.family not in DECODERS:
        found.append(_family_problem(base))
    else:
        heads = _heads(contents, base)
        for pair in factors:
            placed += _placed(pair, base.family, heads, found)
    noted = (*pairs.problems, *problems)
    return placed_draft(
        contents, placed, pairs.unknown, noted, found, base_name=place, layout="megatron"
    )


def _family_problem(base: NamedBase) -> Problem:
    if base.family:
        message = (
            f"Megatron's factors for {base.family}, whose projections are fused in transformers"
        )
        hint = "Export them with Megatron-Bridge, which writes PEFT's files."
        return Problem.of("unsupported_method", message, hint=hint)
    message = "Megatron names modules the same way for every model; which model is not told"
    hint = "Pass --base with the base model's folder or id."
    return Problem.of("ambiguous_layout", message, hint=hint)


def _heads(contents: Contents, base: NamedBase) -> tuple[int, int] | None:
    """Query heads and groups: of the base, else of ``model_config.yaml``."""
    if base.sizes.heads:
        return base.sizes.heads, base.sizes.kv_heads or base.sizes.heads
    heads = stored_number(contents, "num_attention_heads")
    groups = stored_number(contents, "num_query_groups") or heads
    return (int(heads), int(groups)) if heads and groups else None


def _placed(
    pair: Factors, family: str, heads: tuple[int, int] | None, found: list[Problem]
) -> list[Factors]:
    match = _BLOCK.fullmatch(pair.path)
    part = _PARTS.get(match[2], "") if match else ""
    if match is None or not part:
        message = "no module of a Megatron decoder that is converted"
        found.append(Problem.of("unsupported_method", message, where=pair.path))
        return []
    layer = int(match[1])
    if len(pair.b.shape) != 2:
        return [pair]  # the check of shapes reports it
    if part == "qkv":
        return _split_qkv(pair, family, layer, heads, found)
    if part == "fc1" and "gate" in DECODERS[family]:
        return _split_gate(pair, family, layer, found)
    name = module_path(family, "fc" if part == "fc1" else part, layer)
    return [replace(pair, path=str(name))]


def _split_qkv(
    pair: Factors, family: str, layer: int, heads: tuple[int, int] | None, found: list[Problem]
) -> list[Factors]:
    rows = pair.b.shape[0]
    if heads is None:
        message = "rows of linear_qkv are interleaved by group; the number of heads is not known"
        hint = "Pass --base with the base model's folder or id."
        found.append(Problem.of("ambiguous_layout", message, where=pair.path, hint=hint))
        return []
    if head_size(rows, *heads) is None:
        message = (
            f"{rows} rows are no {heads[0]} heads in {heads[1]} groups (one shard of several?)"
        )
        found.append(Problem.of("shape_mismatch", message, where=pair.path))
        return []
    return [
        replace(pair, path=str(module_path(family, part, layer)), b=take_rows(pair.b, chosen))
        for part, chosen in group_rows(rows, *heads).items()
    ]


def _split_gate(pair: Factors, family: str, layer: int, found: list[Problem]) -> list[Factors]:
    if pair.b.shape[0] % 2:
        message = f"{pair.b.shape[0]} rows are no gate and up"
        found.append(Problem.of("shape_mismatch", message, where=pair.path))
        return []
    return [
        replace(pair, path=str(module_path(family, part, layer)), b=b)
        for part, b in zip(("gate", "up"), row_blocks(pair.b, 2), strict=True)
    ]


FORMAT = Format(name="nemo", recognise=recognise, read=read)
