"""Storages and the strided views of them that torch calls tensors, without torch.

A storage is a run of elements in the file; a tensor is an offset, a shape and strides
into it. Every view is checked against its storage when it is built, and its bytes are
read when they are wanted. Shared storages, slices, transposed and expanded views work.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from adaptrix.convert.arrays import UINT, content
from adaptrix.convert.limits import check_shape
from adaptrix.convert.numeric import np
from adaptrix.schema.errors import FormatError
from adaptrix.schema.tensor import DType, LazyTensor

STORAGE_DTYPES: dict[str, DType | None] = {
    "DoubleStorage": DType.F64, "FloatStorage": DType.F32, "HalfStorage": DType.F16,
    "BFloat16Storage": DType.BF16, "LongStorage": DType.I64, "IntStorage": DType.I32,
    "ShortStorage": DType.I16, "CharStorage": DType.I8, "ByteStorage": DType.U8,
    "BoolStorage": DType.BOOL, "UntypedStorage": None,
}  # fmt: skip
"""Element types by torch's storage classes; None where the tensor names its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Storage:
    """A run of elements in a file.

    Attributes:
        key: Its key in the file.
        dtype: Element type; None for an untyped storage.
        size_bytes: Its length.
        load: Returns its bytes.
    """

    key: str
    dtype: DType | None
    size_bytes: int
    load: Callable[[], bytes | memoryview]


class View(NamedTuple):
    """Where a tensor's elements are: offset, shape and strides, in elements."""

    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


def strided(storage: Storage, dtype: DType, view: View, where: str) -> LazyTensor:
    """``view`` of ``storage``, in elements of ``dtype``.

    Raises:
        FormatError: ``bad_shape`` or ``out_of_bounds``: it reaches outside of the storage.
    """
    offset, shape, stride = view
    count = check_shape(shape, where)
    if len(stride) != len(shape) or min((offset, *stride)) < 0:
        raise FormatError("shape and strides do not fit", where=where, code="bad_shape")
    available = storage.size_bytes // dtype.itemsize
    last = offset + sum((n - 1) * step for n, step in zip(shape, stride, strict=True))
    if count and last >= available:
        raise FormatError(
            f"a tensor reaches element {last} of a storage of {available}",
            where=where,
            code="out_of_bounds",
        )

    def load() -> bytes | memoryview:
        if not count:
            return b""
        whole = memoryview(storage.load())
        if len(whole) != storage.size_bytes:
            raise FormatError("a storage is shorter than it declares", where=where)
        start = offset * dtype.itemsize
        if _is_contiguous(shape, stride):
            return whole[start : start + count * dtype.itemsize]
        unit = UINT[dtype.itemsize]
        flat = np.frombuffer(whole[start : (last + 1) * dtype.itemsize], dtype=unit)
        steps = tuple(step * dtype.itemsize for step in stride)
        return content(np.lib.stride_tricks.as_strided(flat, shape, steps, writeable=False))

    return LazyTensor(dtype=dtype, shape=shape, source=where, load=load)


def _is_contiguous(shape: tuple[int, ...], stride: tuple[int, ...]) -> bool:
    expected = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    return all(n == 1 or s == e for n, s, e in zip(shape, stride, expected, strict=True))
