"""LitGPT: ``lit_model.pth.lora`` beside ``hyperparameters.yaml``.

``transformer.h.N.attn.qkv.lora_A`` holds one block of ``r`` rows per enabled part and
``lora_B (rows of the enabled parts, r)`` all rows of q, then of k, then of v (litgpt,
``lora.py``, ``LoRAQKVLinear``); ``attn.attn`` before 0.5.5 had the same order. Rotary
embedding is rotate-half as in transformers, so no row moves inside a head.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from adaptrix.convert.architecture.base import NamedBase, model_id, named_base
from adaptrix.convert.contents import Contents
from adaptrix.convert.draft import Draft, Factors, Format, Recognition, placed_draft
from adaptrix.convert.keys import strip_wrappers
from adaptrix.convert.layouts.decoder import DECODERS, module_path
from adaptrix.convert.merged_rows import PARTS, Enabled, blocks_of, enabled_parts, separate
from adaptrix.convert.options import ReadOptions
from adaptrix.convert.pairs import (
    paired,
    stored_flag,
    stored_number,
    stored_text,
    suffix_rule,
    with_alpha,
)
from adaptrix.convert.writers.litgpt import write
from adaptrix.schema.adapter import Scale
from adaptrix.schema.report import Problem

_RULE = suffix_rule(".lora_A", ".lora_B")
_MODULE = re.compile(
    r"transformer\.h\.(\d{1,4})\.(attn\.(?:qkv|attn|proj)|mlp\.(?:fc(?:_[12])?|proj|gate))|lm_head"
)
TAILS = {"attn.proj": "o", "mlp.fc_1": "gate", "mlp.fc_2": "up", "mlp.proj": "down", "mlp.fc": "fc"}
_QKV = ("attn.qkv", "attn.attn")
_FLAGS = {"q": "lora_query", "k": "lora_key", "v": "lora_value"}


def recognise(contents: Contents) -> Recognition | None:
    """All factors are of LitGPT's GPT class."""
    found = [r for name in contents.tensors if (r := _rule(name)) is not None]
    hits = [path for path, _ in found if (m := _MODULE.fullmatch(path)) and m[1]]
    if not hits and found and stored_flag(contents, "lora_head"):
        hits = [path for path, _ in found if path == "lm_head"]
    if not hits or len(hits) * 2 < len(found):
        return None
    evidence = f"{len(hits)} of {len(contents.tensors)} keys are factors of LitGPT's GPT class"
    return Recognition(score=0.92, evidence=(evidence,))


def read(contents: Contents, options: ReadOptions) -> Draft:
    """Take q, k and v apart, name every part as the base's transformers class does."""
    pairs = paired(contents.tensors, _rule)
    place = model_id(stored_text(contents, "checkpoint_dir", "base_model_name_or_path"))
    base = named_base(options, place)
    alpha = stored_number(contents, "lora_alpha")
    factors, problems = with_alpha(pairs.factors, alpha, options, "hyperparameters.yaml")
    placed: list[Factors] = []
    found: list[Problem] = []
    if base.family not in DECODERS:
        found = [_family_problem(base)]
    else:
        flags = tuple(p for p in PARTS if stored_flag(contents, _FLAGS[p]))
        for pair in factors:
            placed += _placed(pair, base, options.merged_parts or flags, found)
    noted = (*pairs.problems, *problems)
    return placed_draft(
        contents, placed, pairs.unknown, noted, found, base_name=place, layout="litgpt"
    )


def _rule(name: str) -> tuple[str, str] | None:
    bare = strip_wrappers(name)
    inside = bare.startswith(("model.transformer.", "model.lm_head."))
    return _RULE(bare.removeprefix("model.") if inside else bare)


def _family_problem(base: NamedBase) -> Problem:
    if not base.family:
        message = "LitGPT names modules the same way for every model; which model is not told"
        hint = "Pass --base with the base model's folder or id."
        return Problem.of("ambiguous_layout", message, hint=hint)
    message = f"LitGPT's factors for {base.family}, whose q, k and v are fused in transformers"
    hint = "Merge them with litgpt merge_lora and convert the merged checkpoint."
    return Problem.of("unsupported_method", message, hint=hint)


def _placed(
    pair: Factors, base: NamedBase, enabled: Enabled, found: list[Problem]
) -> list[Factors]:
    match = _MODULE.fullmatch(pair.path)
    if match is None or match[1] is None:
        path = "lm_head" if match else None
    elif match[2] in _QKV:
        return _split(pair, int(match[1]), base, enabled, found)
    else:
        path = module_path(base.family, TAILS.get(match[2], ""), int(match[1]))
    if path is None:
        message = f"{base.family} has no such module in LitGPT"
        found.append(Problem.of("unknown_tensors", message, where=pair.path))
        return []
    return [replace(pair, path=path)]


def _split(
    pair: Factors, layer: int, base: NamedBase, enabled: Enabled, found: list[Problem]
) -> list[Factors]:
    count, sizes = blocks_of(pair), _sizes(base)
    choices = enabled_parts(count, pair.b.shape[0], sizes) if sizes and 0 < count <= 3 else []
    if enabled in choices:
        choices = [enabled]
    if len(choices) != 1 or sizes is None:
        found.append(_unclear(pair, choices, sizes))
        return []
    rank = pair.b.shape[1]
    scale = pair.scale and Scale.from_alpha(pair.scale.alpha, rank)
    return [
        replace(part, path=str(module_path(base.family, name, layer)), scale=scale)
        for name, part in separate(pair, choices[0], sizes).items()
    ]


def _sizes(base: NamedBase) -> tuple[int, int, int] | None:
    q, k = base.sizes.query_width, base.sizes.kv_width
    return (q, k, k) if q and k else None


def _unclear(pair: Factors, choices: Sequence[Enabled], sizes: Sequence[int] | None) -> Problem:
    if sizes is None:
        message = "the sizes of q, k and v are not in the file"
        hint = "Pass --base with the base model's folder or id."
    elif not choices:
        message = f"{pair.b.shape[0]} rows are no choice of q, k, v with {list(sizes)} rows"
        return Problem.of("shape_mismatch", message, where=pair.path)
    else:
        message = f"{len(choices[0])} of q, k, v have factors, and no file says which"
        hint = "Pass --source-layout merged-qv (or -q, -k, -v, -qk, -kv), as it was trained."
    return Problem.of("ambiguous_layout", message, where=pair.path, hint=hint)


FORMAT = Format(name="litgpt", recognise=recognise, read=read, write=write)
