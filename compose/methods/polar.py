"""The nearest matrix with orthonormal columns (or rows), shared by the isotropic methods."""

from __future__ import annotations

import torch

from adaptrix.compose.core import NULL


def polar(matrix: torch.Tensor) -> torch.Tensor:
    """The orthogonal polar factor, shape kept; zero directions stay zero."""
    u, sizes, v = torch.linalg.svd(matrix, full_matrices=False)
    # Where two adapters share a direction, what is left of it is rounding: it must not be
    # blown up to full length.
    kept = sizes > float(sizes[0]) * NULL
    result: torch.Tensor = u[:, kept] @ v[kept]
    return result


def spectrum(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Singular triplets ``(p, k), (k,), (q, k)`` without the numerically null ones."""
    u, sizes, v = torch.linalg.svd(matrix, full_matrices=False)
    kept = sizes > float(sizes[0]) * NULL
    return u[:, kept], sizes[kept], v[kept].T
