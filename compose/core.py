"""The core of a set of low-rank updates: small matrices that hold all of them exactly.

With orthonormal ``L (out, p)`` and ``R (in, q)`` that span all ``B`` and all ``Aᵀ``,
``ΔW_t = L · M_t · Rᵀ`` with ``M_t (p, q)``, where p and q are at most the sum of the ranks.
Norms, inner products and singular values of any combination of updates are those of the
same combination of cores. (Core Space: Panariello et al. 2025, arXiv 2509.17786, section 3.)
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from adaptrix.compose.inputs import Share

_WELL_CONDITIONED = 1e-8
"""Least eigenvalue of a Gram matrix over its greatest, above which it may be inverted."""
_WELL_SPREAD = 1e-3
"""The same ratio, above which the basis is orthonormal to 1e-13 at once."""
NULL = 1e-10
"""A singular value this much smaller than the greatest is rounding, of the factors' own too."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Core:
    """Updates of one module in common orthonormal bases; all float64.

    Attributes:
        left: ``(out, p)``, orthonormal columns.
        right: ``(in, q)``, orthonormal columns.
        parts: One ``(p, q)`` core per update, scale folded in, weight not.
    """

    left: torch.Tensor
    right: torch.Tensor
    parts: tuple[torch.Tensor, ...]

    def gram(self) -> torch.Tensor:
        """Inner products of the updates ``(T, T)``."""
        flat = torch.stack([part.flatten() for part in self.parts])
        return flat @ flat.T

    def sum(self, weights: Sequence[float]) -> torch.Tensor:
        """``Σ wₜ Mₜ``."""
        return torch.stack([w * m for w, m in zip(weights, self.parts, strict=True)]).sum(0)

    def turned(self, left: torch.Tensor, right: torch.Tensor) -> Core:
        """The same updates in the bases ``L·left`` and ``R·right``, columns orthonormal.

        Both must span all parts, else something would be lost.
        """
        return Core(
            left=self.left @ left,
            right=self.right @ right,
            parts=tuple(left.T @ part @ right for part in self.parts),
        )


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Matrices this small run many times slower when threads fight over them."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def core_of(shares: Sequence[Share]) -> Core:
    """The core of some updates of one module."""
    ups, downs = [share.up() for share in shares], [share.down() for share in shares]
    left, left_parts = _orthonormal(torch.cat(ups, dim=1))
    right, right_parts = _orthonormal(torch.cat(downs).T)
    ranks = [up.shape[1] for up in ups]
    return Core(
        left=left,
        right=right,
        parts=tuple(
            b @ a.T
            for b, a in zip(
                left_parts.split(ranks, dim=1), right_parts.split(ranks, dim=1), strict=True
            )
        ),
    )


def canonical(core: Core) -> Core:
    """The core in the singular directions of all updates side by side and on top of each other.

    They depend on the updates alone, not on how these were factored or ordered, so what is
    done to single entries there does not either. The common bases: left singular vectors of
    ``[ΔW₁ … ΔW_T]`` and right ones of ``[ΔW₁; …; ΔW_T]``.
    """
    left = torch.linalg.svd(torch.cat(core.parts, dim=1), full_matrices=False)[0]
    right = torch.linalg.svd(torch.cat(core.parts), full_matrices=False)[2].T
    return core.turned(_signed(left), _signed(right))


def published(core: Core, shares: Sequence[Share]) -> Core:
    """The core in the bases of the Core Space paper: SVD of all ``B`` and of all ``A``.

    These change when an adapter is written with other factors.
    """
    left = torch.linalg.svd(core.left.T @ torch.cat([s.up() for s in shares], dim=1))[0]
    right = torch.linalg.svd(core.right.T @ torch.cat([s.down() for s in shares]).T)[0]
    return core.turned(_signed(left), _signed(right))


def _orthonormal(stack: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """``Q (n, k)`` and ``C (k, R)`` with ``stack = Q·C`` and orthonormal columns of Q."""
    lengths = stack.norm(dim=0)
    lengths = torch.where(lengths > 0, lengths, torch.ones_like(lengths))
    unit = stack / lengths
    if unit.shape[0] >= unit.shape[1]:
        values, vectors = torch.linalg.eigh(unit.T @ unit)
        if float(values[0]) > _WELL_CONDITIONED * float(values[-1]):
            basis = unit @ (vectors / values.sqrt())
            coordinates = (vectors * values.sqrt()).T
            if float(values[0]) < _WELL_SPREAD * float(values[-1]):
                # A second pass takes the squared condition number out of the error.
                again = torch.linalg.cholesky(basis.T @ basis)
                basis = torch.linalg.solve_triangular(again, basis.T, upper=False).T
                coordinates = again.T @ coordinates
            return basis, coordinates * lengths
    basis, triangle = torch.linalg.qr(unit)
    u, sizes, v = torch.linalg.svd(triangle, full_matrices=False)
    # A direction that two adapters share must count once, however it was rounded.
    kept = max(1, int((sizes > float(sizes[0]) * NULL).sum()))
    return basis @ u[:, :kept], (sizes[:kept, None] * v[:kept]) * lengths


def _signed(vectors: torch.Tensor) -> torch.Tensor:
    return vectors * signs_of(vectors)


def signs_of(vectors: torch.Tensor) -> torch.Tensor:
    """Per column the sign of its greatest entry: singular vectors have none of their own."""
    greatest = vectors.abs().argmax(dim=0)
    signs = vectors.gather(0, greatest[None])[0].sign()
    return torch.where(signs == 0, torch.ones_like(signs), signs)
