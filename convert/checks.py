"""Checks that hold for every format: shapes of a pair, ranks, element types, values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from adaptrix.convert.arrays import is_finite, is_zero
from adaptrix.convert.draft import Draft, Factors
from adaptrix.convert.formats.peft_config import MAX_RANK
from adaptrix.schema.adapter import ModuleKind
from adaptrix.schema.report import Problem
from adaptrix.schema.tensor import DType, LazyTensor

_MOST = 20
"""Problems of one kind that are listed; a broken file repeats one problem per module."""


def check_structure(draft: Draft) -> tuple[Problem, ...]:
    """Ranks, shapes and element types of every pair, from the headers alone."""
    problems: list[Problem] = []
    for factors in draft.factors:
        problem = _structure(factors)
        if problem is not None:
            problems.append(problem)
    counts = Counter(f.path for f in draft.factors)
    twice = sorted(path for path, count in counts.items() if count > 1)
    problems += [Problem.of("duplicate_module", "has two pairs of factors", where=p) for p in twice]
    wide = [t for f in draft.factors for t in f.tensors() if t.dtype is DType.F64]
    if wide:
        message = f"{len(wide)} tensors are float64, twice the size of anything a model computes in"
        problems.append(Problem.of("wide_dtype", message))
    return tuple(problems[:_MOST])


def _structure(factors: Factors) -> Problem | None:
    """The first thing wrong with one pair."""
    a, b, path = factors.a, factors.b, factors.path
    shapes = f"factors of shapes {list(a.shape)} and {list(b.shape)}"
    if any(len(t.shape) < 2 for t in (a, b)):
        return Problem.of("sharded_state", f"{shapes}: not gathered", where=path)
    rank = a.shape[0]
    if not 1 <= min(rank, b.shape[1]) <= MAX_RANK:
        message = f"{shapes}: a rank is from 1 to {MAX_RANK}"
        return Problem.of("invalid_rank", message, where=path)
    if 0 in a.shape or 0 in b.shape:
        return Problem.of("sharded_state", f"{shapes}: not gathered", where=path)
    if len(b.shape) == 3 and len(a.shape) == 2:
        message = f"a merged linear layer of PEFT 0.2 whose blocks are not known ({list(b.shape)})"
        return Problem.of("unsupported_method", message, where=path)
    if b.shape[1] != rank:
        message = f"A has {rank} rows and B {b.shape[1]} columns"
        return Problem.of("rank_mismatch", message, where=path)
    return _sizes(factors) or _dtypes(factors)


def _sizes(factors: Factors) -> Problem | None:
    a, b, path = factors.a, factors.b, factors.path
    is_conv = factors.kind is ModuleKind.CONV
    plain = len(a.shape) == len(b.shape) == 2
    conv = is_conv and len(a.shape) == len(b.shape) and all(n == 1 for n in b.shape[2:])
    if not (conv or (plain and not is_conv)):
        message = f"factors of shapes {list(a.shape)} and {list(b.shape)} are no pair"
        return Problem.of("shape_mismatch", message, where=path)
    for name, tensor in (("magnitude", factors.magnitude), ("bias", factors.bias_delta)):
        # DoRA on a convolution keeps its magnitude as (1, out, 1, 1).
        if tensor is not None and tensor.count != b.shape[0]:
            message = f"{name} of shape {list(tensor.shape)}, {b.shape[0]} outputs"
            return Problem.of("shape_mismatch", message, where=path)
    return None


def _dtypes(factors: Factors) -> Problem | None:
    for tensor in factors.tensors():
        if not tensor.dtype.is_floating:
            message = f"{tensor.source} holds {tensor.dtype.long_name}"
            return Problem.of("non_float_factor", message, where=factors.path)
    return None


def check_values(draft: Draft) -> tuple[Problem, ...]:
    """NaN and infinity anywhere; all-zero ``B``. Reads every tensor once, in blocks."""
    problems = list(_not_finite(draft))
    zero = [f.path for f in draft.factors if _is_zero_update(f)]
    if zero and len(zero) == len(draft.factors):
        replaced = f"; {len(draft.replacements)} parameters are replaced" * bool(draft.replacements)
        message = f"the update of all {len(zero)} modules is zero{replaced}"
        problems.append(Problem.of("zero_update", message))
    elif zero:
        message = f"the update of {len(zero)} of {len(draft.factors)} modules is zero"
        problems.append(Problem.of("zero_module", message, where=zero[0]))
    return tuple(problems[:_MOST])


def _is_zero_update(factors: Factors) -> bool:
    if factors.magnitude is not None or factors.bias_delta is not None:
        return False
    if factors.scale is not None and factors.scale.value == 0:
        return True
    return is_zero(factors.b) or is_zero(factors.a)


def _not_finite(draft: Draft) -> Iterable[Problem]:
    every: list[LazyTensor] = [t for f in draft.factors for t in f.tensors()]
    every += [r.tensor for r in draft.replacements]
    every += list(draft.carried.named.values()) if draft.carried else []
    for tensor in every:
        if tensor.dtype.is_floating and not is_finite(tensor):
            yield Problem.of("non_finite", "holds NaN or infinity", where=tensor.source)
