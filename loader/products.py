"""Float32 products on a CPU by whichever of torch's two libraries is faster there.

torch multiplies float32 matrices with MKL, which on a CPU of another maker leaves half of
its vector units idle; oneDNN, in the same wheel, does not (Zen 5, rank 32: 240 GFLOP/s a
core beside 109). The operator is the one that torch's own compiler calls.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache

import torch

_ROWS, _RANK, _COLUMNS = 128, 32, 1024
_TURNS = 5


def product(left: torch.Tensor, turned: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    """``left · turnedᵀ``: ``(m, R)`` times ``(n, R)``, in their own type.

    Returns:
        ``(m, n)``: ``out``, or memory of its own.
    """
    if left.dtype is torch.float32 and _by_onednn():
        return _onednn(left.contiguous(), turned)
    return torch.mm(left, turned.T, out=out)


def _onednn(left: torch.Tensor, turned: torch.Tensor) -> torch.Tensor:
    found: torch.Tensor = torch.ops.mkldnn._linear_pointwise(left, turned, None, "none", [], "")
    return found


@cache
def _by_onednn() -> bool:
    """Whether oneDNN is there, right, and faster; tried once a process."""
    generator = torch.Generator().manual_seed(0)
    left = torch.randn(_ROWS, _RANK, generator=generator)
    turned = torch.randn(_COLUMNS, _RANK, generator=generator)
    try:
        found = _onednn(left, turned)
    except (AttributeError, RuntimeError, NotImplementedError):
        return False
    exact = left.double() @ turned.double().T
    if found.dtype is not torch.float32 or not torch.allclose(found.double(), exact, atol=1e-4):
        return False
    out = torch.empty(_ROWS, _COLUMNS)
    return _fastest_s(lambda: _onednn(left, turned)) < _fastest_s(
        lambda: torch.mm(left, turned.T, out=out)
    )


def _fastest_s(call: Callable[[], object]) -> float:
    taken = []
    for _ in range(_TURNS):
        began = time.perf_counter()
        call()
        taken.append(time.perf_counter() - began)
    return min(taken)
