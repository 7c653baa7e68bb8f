"""One pickle of factors per layer: ``layer_6.pt`` with ``attn.c_attn.lora_A``.

Rank and alpha stand beside the factors of each module, in each file. The number in the file
name is taken as the index of the block, counted from 0, and that is said.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from adaptrix.convert.contents import Contents
from adaptrix.convert.draft import Draft, Factors, Format, Recognition
from adaptrix.convert.formats.peft_config import finite_alpha
from adaptrix.convert.options import ReadOptions
from adaptrix.convert.pairs import paired
from adaptrix.schema.adapter import Scale
from adaptrix.schema.canonical import Json
from adaptrix.schema.report import Problem

_KEY = re.compile(r"(?:.*/)?layer_?(\d{1,4})\.\w+:(.+)\.lora_([AB])(?:\.weight)?")
_GPT = re.compile(r"(?:attn\.c_(?:attn|proj)|mlp\.c_(?:fc|proj))")


def recognise(contents: Contents) -> Recognition | None:
    """Weight files ``layer_N`` that hold factors."""
    hits = [name for name in _qualified(contents) if _KEY.fullmatch(name)]
    if not hits:
        return None
    evidence = f"{len(hits)} of {len(contents.tensors)} tensors are factors in layer_N files"
    return Recognition(score=0.96, evidence=(evidence,))


def read(contents: Contents, options: ReadOptions) -> Draft:
    """Pair the factors of all files; alpha is each module's own."""
    tensors = {
        f"{file.name}:{name}": tensor
        for file in contents.tensor_files
        for name, tensor in file.tensors.items()
    }
    pairs = paired(tensors, _rule)
    stored = {
        f"{file.name}:{name}": value
        for file in contents.tensor_files
        for name, value in file.metadata.items()
    }
    problems = list(pairs.problems)
    factors = [_scaled(pair, stored, options, problems) for pair in pairs.factors]
    files = ", ".join(file.name for file in contents.tensor_files[:6])
    message = f"{files}: the number is taken as the block's index, counted from 0"
    problems.append(Problem.of("renamed_modules", message))
    return Draft(
        total=len(tensors),
        factors=tuple(factors),
        unknown=pairs.unknown,
        problems=tuple(problems),
        task_type="CAUSAL_LM",
        layout="per-layer",
    )


def _qualified(contents: Contents) -> list[str]:
    return [f"{file.name}:{name}" for file in contents.tensor_files for name in file.tensors]


def _rule(name: str) -> tuple[str, str] | None:
    match = _KEY.fullmatch(name)
    if match is None:
        return None
    root = "transformer.h" if _GPT.fullmatch(match[2]) else "model.layers"
    return f"{root}.{int(match[1])}.{match[2]}", match[3].lower()


def _scaled(
    pair: Factors, stored: Mapping[str, Json], options: ReadOptions, problems: list[Problem]
) -> Factors:
    """Alpha and rank stand beside the factors, under the module's name."""
    place = pair.a.source.removesuffix(".weight").removesuffix(".lora_A")
    alpha, rank = finite_alpha(stored.get(f"{place}.alpha")), stored.get(f"{place}.rank")
    alpha = options.alpha if alpha is None else alpha
    if not pair.a.shape or not pair.rank:
        return pair
    if isinstance(rank, int) and rank != pair.rank:
        message = f"the file says rank {rank}, the tensors have {pair.rank}"
        problems.append(Problem.of("rank_mismatch", message, where=pair.path))
    if alpha is None:
        if not any(p.code == "missing_alpha" for p in problems):
            problems.append(Problem.of("missing_alpha", f"no alpha beside {place}"))
        return pair
    return replace(pair, source=place, scale=Scale.from_alpha(alpha, pair.rank))


FORMAT = Format(name="per-layer", recognise=recognise, read=read, several_files=True)
