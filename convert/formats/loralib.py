"""microsoft/LoRA (loralib): ``<path>.lora_A`` and ``.lora_B``, plain and merged linear.

``lora_state_dict`` saves factors (and biases, on request) and nothing else: alpha is not in
the file. A merged layer (``MergedLinear``, GPT-2's ``c_attn``) holds ``A (n·r, in)`` and
``B (n·o, r)`` for its ``n`` enabled parts of ``o`` rows each (loralib, ``layers.py``,
``MergedLinear.merge_AB``); which parts those are is known when all of them are enabled, or
from ``enable_lora`` in a file of ours beside it, or from the user.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from adaptrix.convert.contents import Contents
from adaptrix.convert.draft import Draft, Factors, Format, Recognition, refuse
from adaptrix.convert.formats.peft_replacements import HEADS
from adaptrix.convert.keys import strip_wrappers
from adaptrix.convert.merged_rows import PARTS, block_diagonal, blocks_of
from adaptrix.convert.options import ReadOptions
from adaptrix.convert.pairs import paired, stored_number, stored_text, suffix_rule, with_alpha
from adaptrix.convert.writers.loralib import FUSED_NAMES, write
from adaptrix.schema.adapter import ModuleKind, Replacement, ReplacementRole, Scale
from adaptrix.schema.report import Problem
from adaptrix.schema.tensor import LazyTensor

_RULE = suffix_rule(".lora_A", ".lora_B")
_EMBEDDINGS = ("embed_tokens", "wte", "word_embeddings", "shared")


def recognise(contents: Contents) -> Recognition | None:
    """Most keys are factors without ``.weight``, and nothing says that it is PEFT's."""
    hits = [n for n in contents.tensors if n.endswith((".lora_A", ".lora_B"))]
    if not hits or "peft_type" in (contents.config or {}):
        return None
    others = ("lora_E", ".loras.", ":")
    if any(mark in name for name in contents.tensors for mark in others):
        return None
    evidence = f"{len(hits)} of {len(contents.tensors)} keys end in lora_A/lora_B without weight"
    return Recognition(score=0.9, evidence=(evidence,))


def read(contents: Contents, options: ReadOptions) -> Draft:
    """Pair the factors, spread merged layers over their parts, keep trained biases and heads."""
    absolute, rest = _absolute(contents.tensors)
    pairs = paired(rest, _rule)
    alpha = stored_number(contents, "lora_alpha")
    factors, problems = with_alpha(pairs.factors, alpha, options, "loralib saves none")
    spread: list[Factors] = []
    merged_problems: list[Problem] = []
    flags = (contents.config or {}).get("enable_lora")
    enabled = tuple(f is True for f in flags) if isinstance(flags, list) else ()
    for pair in factors:
        one = _spread(_embedding(pair), enabled or _flags(options))
        if isinstance(one, Problem):
            merged_problems.append(one)
        else:
            spread.append(one)
    if merged_problems:
        return refuse(
            contents,
            method="lora",
            problems=(*pairs.problems, *problems, merged_problems[0]),
            reason="which parts have factors is not told",
            hints=(f.path for f in factors),
        )
    return Draft(
        total=len(contents.tensors),
        factors=tuple(spread),
        replacements=absolute,
        unknown=pairs.unknown,
        problems=(*pairs.problems, *problems),
        base_name=stored_text(contents, "base_model_name_or_path"),
        task_type=stored_text(contents, "task_type"),
    )


def _rule(name: str) -> tuple[str, str] | None:
    return _RULE(strip_wrappers(name))


def _absolute(
    tensors: Mapping[str, LazyTensor],
) -> tuple[tuple[Replacement, ...], dict[str, LazyTensor]]:
    """Trained biases (``bias="all"``) and classifier heads: absolute values."""
    found, rest = [], {}
    for name, tensor in tensors.items():
        path = strip_wrappers(name)
        module, _, leaf = path.rpartition(".")
        if HEADS & set(module.split(".")) and leaf in {"weight", "bias"}:
            role = ReplacementRole.MODULES_TO_SAVE
        elif leaf == "bias" and len(tensor.shape) == 1:
            role = ReplacementRole.BIAS
        else:
            rest[name] = tensor
            continue
        found.append(Replacement(parameter=path, tensor=tensor, role=role))
    return tuple(sorted(found, key=lambda r: r.parameter)), rest


def _flags(options: ReadOptions) -> tuple[bool, ...]:
    parts = options.merged_parts
    return tuple(part in parts for part in PARTS) if parts else ()


def _embedding(pair: Factors) -> Factors:
    embedding = pair.path.rpartition(".")[2] in _EMBEDDINGS
    return replace(pair, kind=ModuleKind.EMBEDDING) if embedding else pair


def _spread(pair: Factors, enabled: tuple[bool, ...]) -> Factors | Problem:
    """A merged layer as one pair of rank ``n·r``; any other pair as it is."""
    count = blocks_of(pair)
    fused = pair.path.endswith(FUSED_NAMES)
    single = count == 1 and fused and pair.b.shape[0] == pair.a.shape[1]
    if count < 2 and not single:
        return pair
    blocks = [i for i, flag in enumerate(enabled) if flag]
    if count == len(PARTS) and not enabled:
        blocks = list(range(count))
    if len(blocks) != count or pair.b.shape[0] % count:
        message = f"{count} parts of a merged layer have factors, which ones is not in the file"
        hint = "Pass --source-layout merged-qv (or -q, -k, -v, -qk, -kv), as it was trained."
        return Problem.of("ambiguous_layout", message, where=pair.path, hint=hint)
    rank = pair.b.shape[1]
    scale = pair.scale and Scale.from_alpha(pair.scale.alpha, rank)
    total = max(len(enabled), len(PARTS))
    return replace(pair, b=block_diagonal(pair.b, blocks, total), scale=scale)


FORMAT = Format(name="loralib", recognise=recognise, read=read, write=write)
