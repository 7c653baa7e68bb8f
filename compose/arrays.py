"""Values of lazy tensors as float32 arrays, without torch: a plan must not wait for it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from adaptrix.schema.tensor import DType, LazyTensor

Array = NDArray[np.float32]
_NUMPY = {DType.F64: np.float64, DType.F32: np.float32, DType.F16: np.float16}


def float32_of(tensor: LazyTensor) -> Array:
    """``tensor`` as float32, dimensions beyond the first flattened: ``(n, …)``."""
    rows = tensor.shape[0]
    if tensor.dtype in _NUMPY:
        found = np.frombuffer(tensor.load(), dtype=_NUMPY[tensor.dtype])
        return found.reshape(rows, -1).astype(np.float32, copy=False)
    if tensor.dtype is DType.BF16:
        # bfloat16 is the upper half of float32.
        halves = np.frombuffer(tensor.load(), dtype=np.uint16).astype(np.uint32)
        return (halves << 16).view(np.float32).reshape(rows, -1)
    from adaptrix.compose.tensors import to_torch  # noqa: PLC0415 - the rare types

    wide: Array = to_torch(tensor).float().flatten(1).numpy()
    return wide
