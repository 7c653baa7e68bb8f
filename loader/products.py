"""Float32 products on a CPU by whichever of torch's two libraries is faster there.

torch multiplies float32 matrices with MKL, which on a CPU of another maker leaves half of
its vector units idle; oneDNN, in the same wheel, does not (Zen 5, rank 32: 240 GFLOP/s a
core beside 109). The operators are those that torch's own compiler calls.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache

import torch

_ROWS, _RANK, _COLUMNS = 128, 32, 1024
_TURNS = 5


class RightFactor:
    """The right factor of many products, laid out once."""

    def __init__(self, right: torch.Tensor, rows: int) -> None:
        """Lay out ``right (R, n)`` for left factors of up to ``rows`` rows.

        oneDNN would otherwise do so in every product: a quarter of its time where ``n`` is
        large beside ``rows``.
        """
        self._right = right
        self._packed = None
        if right.dtype is torch.float32 and _by_onednn():
            self._packed = _packed(right, rows)

    def product(self, left: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        """``left · right``, ``left`` being ``(m, R)``.

        Returns:
            ``(m, n)``: ``out``, or memory of its own.
        """
        if self._packed is None:
            return torch.mm(left, self._right, out=out)
        return _onednn(left.contiguous(), self._packed)

    def added(self, base: torch.Tensor, left: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        """``base + left · right`` with the sum made where the product is.

        Returns:
            ``(m, n)``: ``out``, or memory of its own.
        """
        if self._packed is None:
            return torch.addmm(base, left, self._right, out=out)
        return _onednn_added(base, left.contiguous(), self._packed)


def _packed(right: torch.Tensor, rows: int) -> torch.Tensor:
    found: torch.Tensor = torch.ops.mkldnn._reorder_linear_weight(right.T.contiguous(), rows)
    return found


def _onednn(left: torch.Tensor, packed: torch.Tensor) -> torch.Tensor:
    found: torch.Tensor = torch.ops.mkldnn._linear_pointwise(left, packed, None, "none", [], "")
    return found


def _onednn_added(base: torch.Tensor, left: torch.Tensor, packed: torch.Tensor) -> torch.Tensor:
    found: torch.Tensor = torch.ops.mkldnn._linear_pointwise.binary(left, base, packed, None, "add")
    return found


@cache
def _by_onednn() -> bool:
    """Whether oneDNN is there, right, and faster; tried once a process."""
    generator = torch.Generator().manual_seed(0)
    left = torch.randn(_ROWS, _RANK, generator=generator)
    right = torch.randn(_RANK, _COLUMNS, generator=generator)
    try:
        packed = _packed(right, _ROWS)
        found = _onednn(left, packed)
        added = _onednn_added(found, left, packed)
    except (AttributeError, RuntimeError):
        # Operators of torch's own compiler, not of its interface: MKL computes the same.
        return False
    exact = left.double() @ right.double()
    for got, wanted in ((found, exact), (added, 2 * exact)):
        if got.dtype is not torch.float32 or not torch.allclose(got.double(), wanted, atol=1e-4):
            return False
    out = torch.empty(_ROWS, _COLUMNS)
    return _fastest_s(lambda: _onednn(left, packed)) < _fastest_s(
        lambda: torch.mm(left, right, out=out)
    )


def _fastest_s(call: Callable[[], object]) -> float:
    taken = []
    for _ in range(_TURNS):
        began = time.perf_counter()
        call()
        taken.append(time.perf_counter() - began)
    return min(taken)
