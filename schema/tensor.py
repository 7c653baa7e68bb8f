"""A tensor that has not been read yet.

A reader hands out :class:`LazyTensor` values: name of the dtype, shape, where it comes
from, and a function that yields its bytes when they are wanted. Bytes are always
little-endian and row-major, so a copy, a slice of rows or a transposition needs no
arithmetic and no torch, bfloat16 included.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable
from dataclasses import dataclass


class DType(enum.StrEnum):
    """Element types, named as safetensors names them."""

    F64 = "F64"
    F32 = "F32"
    F16 = "F16"
    BF16 = "BF16"
    F8_E4M3 = "F8_E4M3"
    F8_E5M2 = "F8_E5M2"
    I64 = "I64"
    I32 = "I32"
    I16 = "I16"
    I8 = "I8"
    U64 = "U64"
    U32 = "U32"
    U16 = "U16"
    U8 = "U8"
    BOOL = "BOOL"

    @property
    def itemsize(self) -> int:
        """Bytes per element."""
        return _ITEMSIZE[self]

    @property
    def is_floating(self) -> bool:
        """Whether values of this type can be LoRA factors."""
        return self in _LONG_NAME and self.value[0] in "FB" and self is not DType.BOOL

    @property
    def long_name(self) -> str:
        """The name people and torch use: ``float32``, ``bfloat16``."""
        return _LONG_NAME.get(self, self.value.lower())

    @classmethod
    def from_long_name(cls, name: str) -> DType:
        """Inverse of :attr:`long_name`.

        Raises:
            KeyError: no such type.
        """
        return _BY_LONG_NAME[name]


_ITEMSIZE = {
    DType.F64: 8, DType.F32: 4, DType.F16: 2, DType.BF16: 2, DType.F8_E4M3: 1,
    DType.F8_E5M2: 1, DType.I64: 8, DType.I32: 4, DType.I16: 2, DType.I8: 1,
    DType.U64: 8, DType.U32: 4, DType.U16: 2, DType.U8: 1, DType.BOOL: 1,
}  # fmt: skip
_LONG_NAME = {
    DType.F64: "float64", DType.F32: "float32", DType.F16: "float16", DType.BF16: "bfloat16",
    DType.F8_E4M3: "float8_e4m3fn", DType.F8_E5M2: "float8_e5m2", DType.I64: "int64",
    DType.I32: "int32", DType.I16: "int16", DType.I8: "int8", DType.U64: "uint64",
    DType.U32: "uint32", DType.U16: "uint16", DType.U8: "uint8", DType.BOOL: "bool",
}  # fmt: skip
_BY_LONG_NAME = {name: dtype for dtype, name in _LONG_NAME.items()}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LazyTensor:
    """A tensor whose bytes are read on demand.

    Attributes:
        dtype: Element type.
        shape: Dimensions, outermost first.
        source: Where it comes from, for messages: ``adapter_model.safetensors:<key>``.
        load: Returns ``size_bytes`` bytes, little-endian, row-major. May be called again.
    """

    dtype: DType
    shape: tuple[int, ...]
    source: str
    load: Callable[[], bytes | memoryview]

    @property
    def count(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def size_bytes(self) -> int:
        """Number of bytes that :attr:`load` returns."""
        return self.count * self.dtype.itemsize
