"""The update of one module from its parts: always one exact pair of factors, or a reason.

========  ==============================================  ==========================
LoRA      ``α/r · up·down``, with ``mid``: ``up·mid·down``  rank r
LoHa      ``α/r · (w1a·w1b)∘(w2a·w2b)``, ``t1``/``t2``      rank r²
LoKr      ``α/r · w1 ⊗ w2``, each full or of low rank       product of their ranks
full      ``diff``                                          ``diff·I`` or ``I·diff``
========  ==============================================  ==========================

Formulas as in LyCORIS 3 (``lycoris/functional``): LoKr's scale is 1 when neither of its
factors is decomposed. A full matrix is its own product with the identity, so that nothing is
ever approximated; products are computed in float64 and rounded once to float32.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from adaptrix.convert.arrays import from_array, is_zero, reshape, to_numpy_f64
from adaptrix.convert.computed import Array, computed, row_products
from adaptrix.convert.diffusion.leaves import ALPHA, BIAS, DOWN, MAGNITUDE, MID, UP
from adaptrix.convert.formats.peft_config import MAX_RANK
from adaptrix.convert.numeric import np
from adaptrix.schema.adapter import Scale
from adaptrix.schema.tensor import DType, LazyTensor

Parts = Mapping[str, LazyTensor]
_ONE = {DType.F64: 0x3FF << 52, DType.F32: 0x3F800000, DType.F16: 0x3C00, DType.BF16: 0x3F80}
_MOST_ELEMENTS = 1 << 27
"""Largest computed factor: few bytes of a file can stand for a product of any size."""
_NEEDS_BASE = {
    "oft_blocks": "OFT multiplies the base weight by a rotation",
    "oft_diag": "OFT multiplies the base weight by a rotation",
    "a1.weight": "GLoRA's update is a product with the base weight",
    "a2.weight": "GLoRA's update is a product with the base weight",
    "on_input": "IA³ multiplies activations",
    "w_norm": "a difference of normalisation weights has no factors",
    "b_norm": "a difference of normalisation weights has no factors",
    "bias_indices": "sparse biases of LyCORIS have no factors",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """One module's update.

    Attributes:
        a: ``(r, in)`` or ``(r, in, *kernel)``.
        b: ``(out, r)`` or ``(out, r, 1…)``.
        scale: Effective scale.
        magnitude: DoRA magnitude of the rows, or None.
        bias: Added to the output times the scale, or None.
        exact: Whether all tensors are the file's own, or copies of parts of them.
        assumed: Whether the scale follows from the rank alone, for want of an alpha.
        method: ``lora``, ``loha``, ``lokr`` or ``full``.
    """

    a: LazyTensor
    b: LazyTensor
    scale: Scale
    magnitude: LazyTensor | None = None
    bias: LazyTensor | None = None
    exact: bool = True
    assumed: bool = False
    method: str = "lora"


def update_of(parts: Parts, kernel: tuple[int, ...], asked: float | None) -> Update | str | None:
    """The update, why there is none, or None when the parts change nothing.

    Args:
        parts: Tensors by part.
        kernel: Kernel of the module when it is known to be a convolution, else ``()``.
        asked: ``--alpha``, used where the file has none.

    Raises:
        KeyError: a part is missing.
        ValueError: shapes do not fit.
    """
    for part, reason in _NEEDS_BASE.items():
        if part in parts:
            zero = part.endswith("_norm") and all(is_zero(tensor) for tensor in parts.values())
            return None if zero else f"{reason}: it needs the base weights"
    if "diff" in parts or ("diff_b" in parts and len(parts) == 1):
        made = _full(parts, kernel)
    elif any(part.startswith("hada_") for part in parts):
        made = _loha(parts, kernel)
    elif any(part.startswith("lokr_") for part in parts):
        made = _lokr(parts, kernel)
    else:
        made = _lora(parts, kernel)
    if isinstance(made, str) or made is None:
        return made
    if made.rank > MAX_RANK:
        return f"its exact form has rank {made.rank}, more than {MAX_RANK}"
    if made.method != "lora" and max(made.a.count, made.b.count) > _MOST_ELEMENTS:
        return f"its exact form has {max(made.a.count, made.b.count)} elements in one factor"
    return _finished(made, parts, asked)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pair:
    """Factors before scale; ``divisor`` is the method's rank, 0 where the scale is 1."""

    a: LazyTensor
    b: LazyTensor
    divisor: int
    method: str
    exact: bool = True

    @property
    def rank(self) -> int:
        return self.a.shape[0] if self.a.shape else 0


def _finished(made: _Pair, parts: Parts, asked: float | None) -> Update | str:
    scale, assumed = _scale(made, parts, asked)
    if scale is None:
        return "its alpha is not a finite number"
    magnitude = parts.get(MAGNITUDE)
    if magnitude is not None:
        if not _by_rows(magnitude, made.b.shape[0]):
            return (
                f"a magnitude of shape {list(magnitude.shape)} scales the columns of the weight: "
                "it needs the base weights"
            )
        magnitude = reshape(magnitude, (magnitude.count,))
    bias, exact = parts.get(BIAS), made.exact
    if "diff_b" in parts:
        bias = parts["diff_b"]
        if scale.value != 1:
            bias, exact = _divided(bias, scale.value), False
    if bias is not None:
        bias = reshape(bias, (bias.count,))
    return Update(
        a=made.a,
        b=made.b,
        scale=scale,
        magnitude=magnitude,
        bias=bias,
        exact=exact,
        assumed=assumed,
        method=made.method,
    )


def _by_rows(magnitude: LazyTensor, rows: int) -> bool:
    """``(out,)`` or ``(out, 1…)``; LyCORIS's other kind, of the columns, is ``(1, in…)``.

    PEFT's own ``(1, out, 1, 1)`` of a convolution has another name, and comes flattened.
    """
    shape = magnitude.shape
    return magnitude.count == rows and (len(shape) == 1 or shape[0] == rows)


def _scale(made: _Pair, parts: Parts, asked: float | None) -> tuple[Scale | None, bool]:
    """``α / r`` with the method's rank; alpha missing or 0 means alpha = r."""
    if not made.divisor:
        return Scale.absolute(1.0, made.rank), False
    alpha = float(to_numpy_f64(parts[ALPHA]).reshape(())) if ALPHA in parts else asked
    if alpha is not None and not math.isfinite(alpha):
        return None, False
    used = alpha or float(made.divisor)
    if made.divisor == made.rank:
        return Scale.from_alpha(used, made.divisor), not alpha
    return Scale.absolute(used / made.divisor, made.rank), not alpha


def _divided(tensor: LazyTensor, value: float) -> LazyTensor:
    return computed(tensor.shape, tensor.source, lambda: to_numpy_f64(tensor) / value)


def _lora(parts: Parts, kernel: tuple[int, ...]) -> _Pair:
    a, b = parts[DOWN], parts[UP]
    if MID not in parts:
        rank = a.shape[0] if a.shape else 0
        return _as_convolution(_Pair(a=a, b=b, divisor=rank, method="lora"), kernel)
    mid = parts[MID]  # (r, r, *kernel): LoCon's Tucker form
    plain = all(n == 1 for t in (a, b) for n in t.shape[2:])
    if len(mid.shape) < 3 or mid.shape[:2] != (b.shape[1], a.shape[0]) or not plain:
        raise ValueError("lora_mid does not stand between the two factors")
    shape = (mid.shape[0], a.shape[1], *mid.shape[2:])

    def through() -> Array:
        down = to_numpy_f64(a).reshape(a.shape[0], -1)
        joined: Array = np.einsum("rs...,si->ri...", to_numpy_f64(mid), down)
        return joined

    wide = reshape(b, (b.shape[0], b.shape[1], *(1 for _ in mid.shape[2:])))
    whole = computed(shape, a.source, through)
    return _Pair(a=whole, b=wide, divisor=a.shape[0], method="lora", exact=False)


def _loha(parts: Parts, kernel: tuple[int, ...]) -> _Pair:
    """Rank r²: products of columns of ``w1a``, ``w2a`` and of rows of ``w1b``, ``w2b``."""
    one, two = (_hada_side(parts, side) for side in "12")
    b = row_products(one[0], two[0])
    rank, inputs = one[1].shape[0] * two[1].shape[0], one[1].shape[1:]
    if two[1].shape[1:] != inputs or one[0].shape[0] != two[0].shape[0]:
        raise ValueError("the two products have different shapes")

    def a() -> Array:
        left, right = to_numpy_f64(one[1]), to_numpy_f64(two[1])
        return (left[:, None] * right[None, :]).reshape(rank, *inputs)

    joined = computed((rank, *inputs), one[1].source, a)
    divisor = parts["hada_w1_b"].shape[0]
    pair = _Pair(a=joined, b=b, divisor=divisor, method="loha", exact=False)
    return _as_convolution(pair, kernel)


def _hada_side(parts: Parts, side: str) -> tuple[LazyTensor, LazyTensor]:
    up, down = parts[f"hada_w{side}_a"], parts[f"hada_w{side}_b"]
    core = parts.get(f"hada_t{side}")
    _matrices(up, down)
    if core is None:
        if up.shape[1] != down.shape[0]:
            raise ValueError("its factors have different ranks")
        return up, down
    return _turned(up), _cored(core, down)


def _matrices(*tensors: LazyTensor) -> None:
    for tensor in tensors:
        if len(tensor.shape) != 2:
            raise ValueError(f"a factor of shape {list(tensor.shape)} is no matrix")


def _turned(up: LazyTensor) -> LazyTensor:
    """Tucker forms keep the up factor as ``(r, out)``."""
    _matrices(up)
    return computed((up.shape[1], up.shape[0]), up.source, lambda: to_numpy_f64(up).T)


def _cored(core: LazyTensor, down: LazyTensor) -> LazyTensor:
    """``core (r, r, *kernel)`` through ``down (r, in)``: ``(r, in, *kernel)``."""
    _matrices(down)
    if len(core.shape) < 3 or core.shape[1] != down.shape[0]:
        raise ValueError("the core tensor does not fit its factor")
    shape = (core.shape[0], down.shape[1], *core.shape[2:])
    return computed(
        shape,
        core.source,
        lambda: np.einsum("ij...,jn->in...", to_numpy_f64(core), to_numpy_f64(down)),
    )


def _as_convolution(pair: _Pair, kernel: tuple[int, ...]) -> _Pair:
    """A convolution's factors were flattened to ``(r, in·kernel)``; give them its axes."""
    a, b = pair.a, pair.b
    if len(a.shape) == 2 and kernel:
        area = math.prod(kernel)
        if a.shape[1] % area:
            raise ValueError(f"{a.shape[1]} inputs are no multiple of the kernel's {area}")
        a = reshape(a, (a.shape[0], a.shape[1] // area, *kernel))
    if len(a.shape) > 2 and len(b.shape) == 2:
        b = reshape(b, (*b.shape, *(1 for _ in a.shape[2:])))
    return replace(pair, a=a, b=b)


def _full(parts: Parts, kernel: tuple[int, ...]) -> _Pair | str | None:
    """``diff (out, in, *kernel)`` times the identity on its smaller side: bit for bit."""
    diff = parts.get("diff")
    if diff is None or len(diff.shape) < 2:
        zero = all(is_zero(t) for n, t in parts.items() if n in ("diff", "diff_b"))
        return None if zero else "a difference of biases or norms alone has no factors"
    out, width = diff.shape[:2]
    if len(diff.shape) == 2 and width < out:
        pair = _Pair(a=identity(width, diff), b=diff, divisor=0, method="full")
        return _as_convolution(pair, kernel)
    ones = identity(out, diff)
    wide = reshape(ones, (out, out, *(1 for _ in diff.shape[2:])))
    return _as_convolution(_Pair(a=diff, b=wide, divisor=0, method="full"), kernel)


def identity(size: int, like: LazyTensor) -> LazyTensor:
    """An identity matrix of ``like``'s dtype.

    Raises:
        ValueError: a dtype without a bit pattern for 1 here.
    """
    if like.dtype not in _ONE:
        raise ValueError(f"a full difference in {like.dtype.long_name}")
    shape, one = (size, size), _ONE[like.dtype]
    empty = from_array(np.zeros((0, 0), f"<u{like.dtype.itemsize}"), like.dtype, like.source)

    def load() -> memoryview:
        ones = np.zeros(shape, f"<u{like.dtype.itemsize}")
        np.fill_diagonal(ones, one)
        return ones.reshape(-1).view(np.uint8).data

    return replace(empty, shape=shape, load=load)


@dataclass(frozen=True, slots=True)
class _Side:
    """One factor of a Kronecker product as ``up (m, r)`` times ``down (r, n, kernel)``.

    None stands for the identity of the other's size.
    """

    up: LazyTensor | None
    down: LazyTensor | None

    @property
    def rank(self) -> int:
        if self.up is not None:
            return self.up.shape[1]
        return self.down.shape[0] if self.down is not None else 0

    @property
    def rows(self) -> int:
        return self.up.shape[0] if self.up is not None else self.rank

    @property
    def inputs(self) -> tuple[int, ...]:
        return self.down.shape[1:] if self.down is not None else (self.rank,)

    def up_values(self) -> Array:
        return np.eye(self.rank, dtype="f8") if self.up is None else to_numpy_f64(self.up)

    def down_values(self) -> Array:
        """``(r, n, kernel)`` with the kernel's axes as one."""
        values = np.eye(self.rank) if self.down is None else to_numpy_f64(self.down)
        return values.reshape(self.rank, self.inputs[0], -1)


def _lokr(parts: Parts, kernel: tuple[int, ...]) -> _Pair:
    """``w1 ⊗ w2`` at the smallest of the ranks that its parts allow."""
    options = [(one, two) for one in _sides(parts, "1") for two in _sides(parts, "2")]
    one, two = min(options, key=lambda pair: pair[0].rank * pair[1].rank)
    rank, inputs = one.rank * two.rank, (one.inputs[0] * two.inputs[0], *two.inputs[1:])
    if len(one.inputs) != 1:
        raise ValueError("lokr_w1 is no matrix")

    def a() -> Array:
        left, right = one.down_values()[:, :, 0], two.down_values()
        wide: Array = np.einsum("jg,ink->jignk", left, right)
        return wide.reshape(rank, *inputs)

    def b() -> Array:
        return np.kron(one.up_values(), two.up_values()).astype(np.float64, copy=False)

    name = next(iter(parts.values())).source
    pair = _Pair(
        a=computed((rank, *inputs), name, a),
        b=computed((one.rows * two.rows, rank), name, b),
        divisor=_lokr_rank(parts),
        method="lokr",
        exact=False,
    )
    return _as_convolution(pair, kernel)


def _lokr_rank(parts: Parts) -> int:
    """LyCORIS's rank; 0 when both factors are full, whose scale is 1."""
    for name in ("lokr_w2_b", "lokr_w1_b"):
        if name in parts:
            return parts[name].shape[0]
    return 0


def _sides(parts: Parts, side: str) -> list[_Side]:
    full = parts.get(f"lokr_w{side}")
    if full is not None:
        if len(full.shape) < 2:
            raise ValueError(f"lokr_w{side} is no matrix")
        sides = [_Side(None, full)]
        return [*sides, _Side(full, None)] if len(full.shape) == 2 else sides
    up, down = parts[f"lokr_w{side}_a"], parts[f"lokr_w{side}_b"]
    core = parts.get(f"lokr_t{side}")
    if core is not None:
        return [_Side(_turned(up), _cored(core, down))]
    _matrices(up, down)
    if up.shape[1] != down.shape[0]:
        raise ValueError(f"the factors of lokr_w{side} have different ranks")
    return [_Side(up, down)]
