"""Factors paired by a rule that takes one key apart; used by the formats beside PEFT."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

from adaptrix.convert.arrays import transpose
from adaptrix.convert.contents import Contents
from adaptrix.convert.draft import Factors
from adaptrix.convert.formats.peft_config import finite_alpha
from adaptrix.convert.options import ReadOptions
from adaptrix.convert.sidecars import setting
from adaptrix.schema.adapter import ModuleKind, Scale
from adaptrix.schema.report import Problem
from adaptrix.schema.tensor import LazyTensor

KeyRule: TypeAlias = Callable[[str], "tuple[str, str] | None"]
"""``(module path, leaf)`` of a key, the leaf being ``a``, ``b``, ``m`` or ``bias``."""
EMBEDDINGS = frozenset({"embed_tokens", "wte", "word_embeddings", "embed_in", "tok_embeddings"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """What a rule made of a file's keys.

    Attributes:
        factors: One entry per module that has both factors, without scales.
        unknown: Tensors that the rule does not explain, and halves of pairs.
        problems: One per half pair, one for all unexplained tensors.
    """

    factors: tuple[Factors, ...]
    unknown: tuple[str, ...]
    problems: tuple[Problem, ...]


def suffix_rule(a: str, b: str, **more: str) -> KeyRule:
    """A rule for keys that end in ``a`` or ``b``; ``more`` names further leaves."""
    leaves = {a: "a", b: "b", **{suffix: leaf for leaf, suffix in more.items()}}
    pattern = re.compile(r"(.+)(" + "|".join(map(re.escape, leaves)) + r")")

    def rule(name: str) -> tuple[str, str] | None:
        match = pattern.fullmatch(name)
        return (match[1], leaves[match[2]]) if match else None

    return rule


def paired(tensors: Mapping[str, LazyTensor], rule: KeyRule, *, transposed: bool = False) -> Pairs:
    """Pair the factors of ``tensors``.

    Args:
        tensors: Tensors by name.
        rule: Takes one name apart.
        transposed: Whether the file stores ``(in, r)`` and ``(r, out)``.
    """
    groups: dict[str, dict[str, str]] = {}
    unknown: list[str] = []
    problems: list[Problem] = []
    for name in tensors:
        found = rule(name)
        if found is None:
            unknown.append(name)
        elif found[1] in groups.setdefault(found[0], {}):
            message = f"{groups[found[0]][found[1]]} and {name} are the same tensor of one module"
            problems.append(Problem.of("duplicate_module", message, where=found[0]))
            unknown.append(name)
        else:
            groups[found[0]][found[1]] = name
    if unknown:
        message = f"{len(unknown)} tensors that no rule explains, first {unknown[0]}"
        problems.append(Problem.of("unknown_tensors", message, where=unknown[0]))
    factors = []
    for path, leaves in groups.items():
        if {"a", "b"} <= leaves.keys():
            factors.append(_factors(path, {k: tensors[n] for k, n in leaves.items()}, transposed))
        else:
            message = f"has {', '.join(sorted(leaves.values()))} and lacks the rest of its pair"
            problems.append(Problem.of("unpaired_factor", message, where=path))
            unknown += leaves.values()
    return Pairs(factors=tuple(factors), unknown=tuple(unknown), problems=tuple(problems[:20]))


def _factors(path: str, leaves: Mapping[str, LazyTensor], transposed: bool) -> Factors:
    a, b = leaves["a"], leaves["b"]
    if transposed and len(a.shape) == len(b.shape) == 2:
        a, b = transpose(a), transpose(b)
    kind = ModuleKind.EMBEDDING if path.rpartition(".")[2] in EMBEDDINGS else ModuleKind.LINEAR
    return Factors(
        path=path,
        source=path,
        a=a,
        b=b,
        kind=kind,
        magnitude=leaves.get("m"),
        bias_delta=leaves.get("bias"),
    )


def stored_number(contents: Contents, *names: str) -> float | None:
    """A number from the files beside the weights, or from what a pickle holds beside them."""
    config = {f"config:{key}": value for key, value in (contents.config or {}).items()}
    inside = {f"weights:{key}": value for key, value in contents.metadata.items()}
    for place in (config, contents.settings, inside):
        if (found := finite_alpha(setting(place, *names))) is not None:
            return found
    return None


def stored_flag(contents: Contents, *names: str) -> bool | None:
    """A switch from the files beside the weights."""
    value = setting(contents.settings, *names)
    return value if isinstance(value, bool) else None


def stored_text(contents: Contents, *names: str) -> str:
    """A text from the configuration or the files beside the weights, or ``""``."""
    config = {f"config:{key}": value for key, value in (contents.config or {}).items()}
    for place in (config, contents.settings):
        if isinstance(value := setting(place, *names), str):
            return value
    return ""


def with_alpha(
    factors: tuple[Factors, ...], alpha: float | None, options: ReadOptions, where: str
) -> tuple[tuple[Factors, ...], tuple[Problem, ...]]:
    """Give every pair the scale ``alpha / r``; ``--alpha`` fills in what no file says."""
    problems: tuple[Problem, ...] = ()
    if alpha is not None and options.alpha not in (None, alpha):
        message = f"--alpha {options.alpha} is not used: the files say {alpha}"
        problems = (Problem.of("alpha_rule", message),)
    used = options.alpha if alpha is None else alpha
    if used is None:
        message = f"alpha is in none of the files ({where})"
        return factors, (Problem.of("missing_alpha", message),)
    scaled = tuple(
        replace(f, scale=Scale.from_alpha(used, f.rank)) if f.a.shape and f.rank else f
        for f in factors
    )
    return scaled, problems
