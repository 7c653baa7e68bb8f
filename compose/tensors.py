"""Between lazy tensors and torch: copies of bytes, never of meaning."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch

from adaptrix.schema.errors import FormatError
from adaptrix.schema.tensor import DType, LazyTensor

_TORCH = {
    DType.F64: torch.float64,
    DType.F32: torch.float32,
    DType.F16: torch.float16,
    DType.BF16: torch.bfloat16,
    DType.F8_E4M3: torch.float8_e4m3fn,
    DType.F8_E5M2: torch.float8_e5m2,
    DType.I64: torch.int64,
    DType.I32: torch.int32,
    DType.I16: torch.int16,
    DType.I8: torch.int8,
    DType.U8: torch.uint8,
    DType.BOOL: torch.bool,
}
_OURS = {ours: name for name, ours in _TORCH.items()}


def torch_dtype(dtype: DType) -> torch.dtype:
    """The torch dtype that ``dtype`` is.

    Raises:
        FormatError: torch has no such type.
    """
    if dtype not in _TORCH:
        raise FormatError(f"torch has no element type {dtype.long_name}")
    return _TORCH[dtype]


def to_torch(tensor: LazyTensor) -> torch.Tensor:
    """Read ``tensor`` into a writable torch tensor of the same dtype and shape."""
    dtype = torch_dtype(tensor.dtype)
    if not tensor.count:
        return torch.empty(tensor.shape, dtype=dtype)
    return torch.frombuffer(bytearray(tensor.load()), dtype=dtype).reshape(tensor.shape)


def lazy(
    compute: Callable[[], torch.Tensor],
    *,
    dtype: torch.dtype,
    shape: tuple[int, ...],
    source: str,
    keep: bool = True,
) -> LazyTensor:
    """A lazy tensor whose bytes are those of ``compute()``, computed when wanted.

    With ``keep`` they are computed once and stay; without, each time anew.
    """

    def load() -> memoryview:
        value = compute().to(dtype).contiguous()
        if tuple(value.shape) != shape:
            raise FormatError(f"expected shape {shape}, got {tuple(value.shape)}", where=source)
        return memoryview(value.view(torch.uint8).flatten().numpy().data).cast("B")

    loader = cache(load) if keep else load
    return LazyTensor(dtype=_OURS[dtype], shape=shape, source=source, load=loader)


def held(value: torch.Tensor, source: str) -> LazyTensor:
    """A tensor that is in memory, as a lazy one."""
    return lazy(lambda: value, dtype=value.dtype, shape=tuple(value.shape), source=source)


def widest(dtypes: list[DType]) -> torch.dtype:
    """The narrowest floating type that holds every one of ``dtypes`` exactly.

    float16 and bfloat16 hold neither the other, so together they need float32.
    """
    result = torch_dtype(dtypes[0])
    for dtype in dtypes[1:]:
        result = torch.promote_types(result, torch_dtype(dtype))
    return result
