"""Views of lazy tensors, without torch: cut, transpose, join, and look at the values.

Bytes are moved as unsigned integers of the element's width, so every function but the
``to_numpy`` ones is exact to the bit for every dtype, bfloat16, float8 and NaN payloads
included. Nothing is read before the result's ``load`` is called. Stable.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any, TypeAlias

from adaptrix.convert.numeric import np
from adaptrix.convert.source import RESIDENT_BYTES, let_go
from adaptrix.schema.errors import FormatError
from adaptrix.schema.tensor import DType, LazyTensor

if TYPE_CHECKING:
    import numpy.typing as npt

Bits: TypeAlias = "npt.NDArray[np.unsignedinteger[Any]]"
Rows: TypeAlias = "slice | Sequence[int] | npt.NDArray[np.integer[Any]]"

UINT = {1: "<u1", 2: "<u2", 4: "<u4", 8: "<u8"}
"""Unsigned integers by their width, as numpy names them."""
_NUMPY: dict[DType, str] = {
    DType.F64: "<f8", DType.F32: "<f4", DType.F16: "<f2", DType.I64: "<i8", DType.I32: "<i4",
    DType.I16: "<i2", DType.I8: "<i1", DType.U64: "<u8", DType.U32: "<u4", DType.U16: "<u2",
    DType.U8: "<u1", DType.BOOL: "<u1",
}  # fmt: skip
_EXPONENT = {
    DType.F64: 0x7FF << 52, DType.F32: 0xFF << 23, DType.F16: 0x1F << 10, DType.BF16: 0xFF << 7,
    DType.F8_E5M2: 0x1F << 2, DType.F8_E4M3: 0x7F,
}  # fmt: skip
"""Bits that are all set in infinities and NaN, and only there."""
_BLOCK_ELEMENTS = 1 << 16


def bits(tensor: LazyTensor) -> Bits:
    """The elements as unsigned integers of their width, in the tensor's shape; read-only.

    Raises:
        FormatError: ``load`` returned another number of bytes than the shape needs.
    """
    return np.frombuffer(_loaded(tensor), dtype=UINT[tensor.dtype.itemsize]).reshape(tensor.shape)


def _loaded(tensor: LazyTensor) -> memoryview:
    content = memoryview(tensor.load()).cast("B")
    if len(content) != tensor.size_bytes:
        raise FormatError(
            f"{len(content)} bytes, its shape {list(tensor.shape)} needs {tensor.size_bytes}",
            where=tensor.source,
            code="truncated",
        )
    return content


def content(array: npt.NDArray[Any]) -> memoryview:
    """Row-major bytes of ``array``, copied only when it is not contiguous."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def from_array(array: npt.NDArray[Any], dtype: DType, source: str) -> LazyTensor:
    """A tensor over the bits of ``array``, whose elements have the width of ``dtype``.

    Raises:
        FormatError: the widths differ.
    """
    if array.dtype.itemsize != dtype.itemsize:
        raise FormatError(f"{array.dtype} elements are not {dtype.long_name}", where=source)
    return LazyTensor(dtype=dtype, shape=array.shape, source=source, load=lambda: content(array))


def transpose(tensor: LazyTensor) -> LazyTensor:
    """``(m, n)`` to ``(n, m)``.

    Raises:
        FormatError: the tensor is not a matrix.
    """
    rows, columns = _matrix(tensor)
    return replace(tensor, shape=(columns, rows), load=lambda: content(bits(tensor).T))


def take_rows(tensor: LazyTensor, rows: Rows) -> LazyTensor:
    """Rows by slice or by index, in the order given: ``(m, …)`` to ``(k, …)``.

    Raises:
        FormatError: the tensor has no rows, or an index is outside of it.
    """
    count = _indices(tensor, rows, 0)
    shape = (count, *tensor.shape[1:])
    if isinstance(rows, slice) and rows.step in (None, 1):
        start, stop, _ = rows.indices(tensor.shape[0])
        width = math.prod(tensor.shape[1:]) * tensor.dtype.itemsize
        return replace(
            tensor,
            shape=shape,
            load=lambda: memoryview(tensor.load())[start * width : max(start, stop) * width],
        )
    return replace(tensor, shape=shape, load=lambda: content(bits(tensor)[_key(rows)]))


def take_columns(tensor: LazyTensor, columns: Rows) -> LazyTensor:
    """Columns by slice or by index, in the order given: ``(m, n)`` to ``(m, k)``.

    Raises:
        FormatError: the tensor is not a matrix, or an index is outside of it.
    """
    rows, _ = _matrix(tensor)
    count = _indices(tensor, columns, 1)
    return replace(
        tensor, shape=(rows, count), load=lambda: content(bits(tensor)[:, _key(columns)])
    )


def row_blocks(tensor: LazyTensor, blocks: int) -> tuple[LazyTensor, ...]:
    """``blocks`` equal parts along the rows: ``(blocks·m, …)`` to ``(m, …)`` each.

    Raises:
        FormatError: the rows do not divide.
    """
    if not tensor.shape or blocks < 1 or tensor.shape[0] % blocks:
        raise _misfit(tensor, f"cannot be cut into {blocks} equal blocks of rows")
    height = tensor.shape[0] // blocks
    return tuple(take_rows(tensor, slice(i * height, (i + 1) * height)) for i in range(blocks))


def reshape(tensor: LazyTensor, shape: tuple[int, ...]) -> LazyTensor:
    """The same elements in the same order under another shape.

    Raises:
        FormatError: the number of elements differs.
    """
    if any(n < 0 for n in shape) or math.prod(shape) != tensor.count:
        raise _misfit(tensor, f"has {tensor.count} elements, shape {list(shape)} needs another")
    return replace(tensor, shape=shape)


def concat_rows(tensors: Sequence[LazyTensor]) -> LazyTensor:
    """One tensor from parts along the rows: ``(m_i, …)`` to ``(Σ m_i, …)``.

    Raises:
        FormatError: no parts, or their dtypes or row shapes differ.
    """
    if not tensors:
        raise FormatError("no parts to join")
    first = tensors[0]
    for part in tensors:
        if not part.shape or part.shape[1:] != first.shape[1:] or part.dtype is not first.dtype:
            raise _misfit(part, f"cannot be joined to {first.dtype.value} {list(first.shape)}")
    rows = sum(part.shape[0] for part in tensors)
    parts = tuple(tensors)
    return replace(
        first, shape=(rows, *first.shape[1:]), load=lambda: b"".join(part.load() for part in parts)
    )


def to_numpy_f64(tensor: LazyTensor) -> npt.NDArray[np.float64]:
    """The values as float64, exact for every dtype.

    Raises:
        FormatError: a 64-bit integer that float64 cannot hold.
    """
    return _widen(tensor, np.dtype(np.float64))


def to_numpy_f32(tensor: LazyTensor) -> npt.NDArray[np.float32]:
    """The values as float32; exact for float16, bfloat16, float8 and 8/16-bit integers.

    float64 values are rounded to nearest.

    Raises:
        FormatError: an integer that float32 cannot hold.
    """
    return _widen(tensor, np.dtype(np.float32))


def widened(tensor: LazyTensor) -> LazyTensor:
    """The same values as float32; see :func:`to_numpy_f32` for when they are the same."""
    return replace(tensor, dtype=DType.F32, load=lambda: content(to_numpy_f32(tensor)))


def is_finite(tensor: LazyTensor) -> bool:
    """Whether no element is NaN or infinite; integers always are. Streams in blocks."""
    mask = _EXPONENT.get(tensor.dtype)
    if mask is None:
        return True
    exponent = np.dtype(UINT[tensor.dtype.itemsize]).type(mask)
    return not any(((block & exponent) == exponent).any() for block in _blocks(tensor))


def is_zero(tensor: LazyTensor) -> bool:
    """Whether every element is +0 or -0 (or integer 0). Streams in blocks."""
    width = tensor.dtype.itemsize * 8
    mask = (1 << (width - 1 if tensor.dtype in _EXPONENT else width)) - 1
    magnitude = np.dtype(UINT[tensor.dtype.itemsize]).type(mask)
    return not any((block & magnitude).any() for block in _blocks(tensor))


def _blocks(tensor: LazyTensor) -> Iterator[Bits]:
    content, used = _loaded(tensor), 0
    step = _BLOCK_ELEMENTS * tensor.dtype.itemsize
    for start in range(0, len(content), step):
        if start - used >= RESIDENT_BYTES:
            let_go(content)
            used = start
        yield np.frombuffer(content[start : start + step], dtype=UINT[tensor.dtype.itemsize])


def _widen(tensor: LazyTensor, target: np.dtype[Any]) -> npt.NDArray[Any]:
    raw = bits(tensor)
    if tensor.dtype is DType.BF16:
        values = (raw.astype("<u4") << 16).view("<f4")
    elif tensor.dtype in (DType.F8_E4M3, DType.F8_E5M2):
        values = _float8_tables()[tensor.dtype][raw]
    else:
        values = raw.view(_NUMPY[tensor.dtype])
    # A signalling NaN makes the cast warn; whether values are finite is asked elsewhere.
    with np.errstate(all="ignore"):
        wide = values.astype(target, copy=False)
    if values.dtype.kind in "iu" and not _same_integers(values, wide):
        raise FormatError(f"an integer that {target} cannot hold", where=tensor.source)
    return wide


def _same_integers(values: npt.NDArray[Any], wide: npt.NDArray[Any]) -> bool:
    limit = 1 << (np.finfo(wide.dtype).nmant + 1)
    return bool((values <= limit).all() and (values >= -limit).all()) if values.size else True


def _float8(exponent_bits: int, mantissa_bits: int) -> npt.NDArray[np.float32]:
    """Values of all 256 codes of a float8 type (Micikevicius et al. 2022, table 1)."""
    bias, scale = (1 << (exponent_bits - 1)) - 1, 1 << mantissa_bits
    table = np.empty(256, np.float32)
    for code in range(256):
        exponent, mantissa = code >> mantissa_bits & ((1 << exponent_bits) - 1), code & (scale - 1)
        if exponent:
            value = math.ldexp(1 + mantissa / scale, exponent - bias)
        else:
            value = math.ldexp(mantissa / scale, 1 - bias)
        table[code] = math.copysign(value, -1.0 if code & 0x80 else 1.0)
    return table


@cache
def _float8_tables() -> dict[DType, npt.NDArray[np.float32]]:
    e4m3, e5m2 = _float8(4, 3), _float8(5, 2)
    e4m3[[0x7F, 0xFF]] = np.nan
    e5m2[[0x7C, 0xFC]] = np.inf, -np.inf
    e5m2[[0x7D, 0x7E, 0x7F, 0xFD, 0xFE, 0xFF]] = np.nan
    return {DType.F8_E4M3: e4m3, DType.F8_E5M2: e5m2}


def _matrix(tensor: LazyTensor) -> tuple[int, int]:
    if len(tensor.shape) != 2:
        raise _misfit(tensor, "is not a matrix")
    return tensor.shape[0], tensor.shape[1]


def _key(indices: Rows) -> slice | npt.NDArray[np.intp]:
    return indices if isinstance(indices, slice) else np.asarray(indices, dtype=np.intp)


def _indices(tensor: LazyTensor, indices: Rows, axis: int) -> int:
    """Number of rows or columns taken, once every index is known to be inside."""
    if len(tensor.shape) <= axis:
        raise _misfit(tensor, f"has no axis {axis}")
    length = tensor.shape[axis]
    if isinstance(indices, slice):
        return len(range(*indices.indices(length)))
    chosen = np.asarray(indices, dtype=np.intp)
    if chosen.ndim != 1 or not ((chosen >= 0) & (chosen < length)).all():
        raise _misfit(tensor, f"has no such index on axis {axis}")
    return int(chosen.size)


def _misfit(tensor: LazyTensor, problem: str) -> FormatError:
    return FormatError(
        f"tensor of shape {list(tensor.shape)} {problem}", where=tensor.source, code="bad_shape"
    )
