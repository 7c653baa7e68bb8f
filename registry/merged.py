"""Verify a merged model: base plus update, weight by weight, in float64.

Somebody else may have merged it, in whatever precision: every weight of an adapted module may
be off by one step of its own type, of the weight and of the update; every other tensor is the
base's. Stable.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from adaptrix.convert.arrays import bits, to_numpy_f64
from adaptrix.convert.base_weights import BaseWeights
from adaptrix.convert.numeric import np
from adaptrix.schema.adapter import AdaptedModule, Adapter, ModuleKind
from adaptrix.schema.report import Problem
from adaptrix.schema.tensor import DType, LazyTensor

_STEPS = {
    DType.F64: (2.0**-52, 2.0**-1074), DType.F32: (2.0**-23, 2.0**-149),
    DType.F16: (2.0**-10, 2.0**-24), DType.BF16: (2.0**-7, 2.0**-133),
}  # fmt: skip
"""Distance from 1 to the next number, and the least number, of each type."""
_KINDS = (ModuleKind.LINEAR, ModuleKind.CONV1D, ModuleKind.EMBEDDING)
_BLOCK_VALUES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class MergedCheck:
    """What was compared.

    Attributes:
        checks: Names of the tensors.
        problems: What does not hold, or could not be compared.
    """

    checks: tuple[str, ...]
    problems: tuple[Problem, ...]


def check_merged(adapter: Adapter, base: BaseWeights, merged: BaseWeights) -> MergedCheck:
    """Whether ``merged`` is ``base`` with ``adapter`` merged at weight 1."""
    if problem := _obstacle(adapter):
        return MergedCheck(checks=(), problems=(problem,))
    problems: list[Problem] = []
    touched: dict[str, AdaptedModule] = {}
    for module in adapter.modules:
        name = base.name_of(module.path)
        sides = (module.out_features, module.in_features)
        if module.kind is not ModuleKind.LINEAR:
            sides = sides[::-1]
        if name is None or base.tensors[name].shape != sides:
            text = f"the base has no weight {list(sides)} for this module"
            problems.append(Problem.of("claim_broken", text, where=module.path, hint=_OTHER))
        else:
            touched[name] = module
    for name in sorted(base.tensors.keys() | merged.tensors.keys()):
        one, other = base.tensors.get(name), merged.tensors.get(name)
        problems += _compared(name, one, other, touched.get(name))
    return MergedCheck(checks=tuple(sorted(base.tensors)), problems=tuple(problems))


_OTHER = "It is a merge of something else: other weights, another adapter, or another base."


def _obstacle(adapter: Adapter) -> Problem | None:
    odd = [
        str(module.path)
        for module in adapter.modules
        if module.magnitude is not None or module.bias_delta is not None
        or module.kind not in _KINDS
    ]  # fmt: skip
    odd += [replacement.parameter for replacement in adapter.replacements]
    if not odd and adapter.modules and not adapter.obstacle:
        return None
    text = "DoRA, biases, convolutions, experts, replaced tensors and carried methods"
    return Problem.of(
        "unchecked_merge", f"not compared: {text}", where=odd[0] if odd else adapter.method
    )


def _compared(
    name: str, one: LazyTensor | None, other: LazyTensor | None, module: AdaptedModule | None
) -> Iterator[Problem]:
    if one is None or other is None:
        text = "only the merged model has it" if one is None else "the merged model lacks it"
        yield Problem.of("claim_broken", text, where=name, hint=_OTHER)
    elif one.shape != other.shape:
        text = f"the base has {list(one.shape)}, the merged model {list(other.shape)}"
        yield Problem.of("claim_broken", text, where=name, hint=_OTHER)
    elif other.dtype not in _STEPS or one.dtype not in _STEPS:
        if one.dtype != other.dtype or bytes(one.load()) != bytes(other.load()):
            yield Problem.of("claim_broken", "not the base's values", where=name, hint=_OTHER)
    elif off := _worst(one, other, module):
        what = "the base" if module is None else "base plus update"
        text = f"{off[0]} values are not {what}; the worst is off by {off[1]:.3g}"
        yield Problem.of("claim_broken", text, where=name, hint=_OTHER)


def _worst(
    one: LazyTensor, other: LazyTensor, module: AdaptedModule | None
) -> tuple[int, float] | None:
    """How many values are off by more than rounding, and by how much the worst; None if none."""
    if module is None and one.dtype == other.dtype and np.array_equal(bits(one), bits(other)):
        return None
    step, least = _STEPS[other.dtype]
    before, after = (to_numpy_f64(t).reshape(*one.shape[:1], -1) for t in (one, other))
    left = right = None
    if module is not None:
        a, b = to_numpy_f64(module.a), to_numpy_f64(module.b)
        turned = module.kind is not ModuleKind.LINEAR
        left, right = (a.T, b.T) if turned else (b, a)
    count, worst = 0, 0.0
    for rows in _blocks(before.shape):
        wanted = before[rows]
        if module is not None and left is not None and right is not None:
            scale = module.scale.value
            wanted = wanted + scale * (left[rows] @ right)
            # The update may have been summed in float32, and rounded to this type on its own.
            unit = step + module.rank * 2.0**-23
            allowed = abs(scale) * (abs(left[rows]) @ abs(right)) * unit
        else:
            allowed = np.zeros_like(wanted)
        if module is not None or one.dtype != other.dtype:
            allowed += (step + 2.0**-23) * abs(wanted) + least
        error = abs(after[rows] - wanted)
        off = ~(error <= allowed)  # also where it is no number
        count += int(off.sum())
        worst = max(worst, float(error[off].max(initial=0.0)))
    return (count, worst) if count else None


def _blocks(shape: tuple[int, ...]) -> Iterator[slice]:
    rows = max(1, _BLOCK_VALUES // max(1, shape[1]))
    for start in range(0, shape[0], rows):
        yield slice(start, start + rows)
