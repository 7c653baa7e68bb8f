"""RegMean: the update whose outputs are nearest to every adapter's on its own inputs.

``ΔW = (Σ wₜ ΔW_t Gₜ)(Σ Gₜ)⁻¹`` with ``Gₜ = XₜᵀXₜ`` minimises ``Σ ‖Xₜ(ΔW − wₜΔW_t)ᵀ‖²``. In
factor space: ``B = [wₜBₜ]`` and ``A = [AₜGₜ](Σ G)⁻¹``.
"""

from __future__ import annotations

import torch

from adaptrix.compose.inputs import Group
from adaptrix.compose.method import Factors, Method
from adaptrix.compose.settings import Parameter, Settings
from adaptrix.compose.tensors import to_torch
from adaptrix.schema.errors import Refused
from adaptrix.schema.tensor import LazyTensor

ALPHA = Parameter(
    name="alpha", summary="factor on the entries of Gram matrices beside the diagonal",
    default=0.9, low=0.0, high=1.0,
)  # fmt: skip
RIDGE = 1e-9
"""Share of the mean square added to every diagonal: where no adapter has seen an input, the
plain mean is taken."""


def _gram(lazy: LazyTensor, alpha: float) -> torch.Tensor:
    """``αG + (1−α) diag G (in, in)``, or ``diag G (in,)`` where only that is known."""
    gram = to_torch(lazy).double()
    if gram.dim() == 1:
        return gram
    diagonal = gram.diagonal().clone()
    gram = alpha * gram
    gram.diagonal().copy_(diagonal)
    return gram


def _times(rows: torch.Tensor, gram: torch.Tensor) -> torch.Tensor:
    return rows * gram if gram.dim() == 1 else rows @ gram


def _merge(group: Group, settings: Settings) -> tuple[torch.Tensor, torch.Tensor]:
    lazies = [share.gram for share in group.shares] + list(group.others)
    grams = [lazy for lazy in lazies if lazy is not None]
    flat = all(len(lazy.shape) == 1 for lazy in grams)
    width = group.shares[0].module.in_features
    total = torch.zeros(width if flat else (width, width), dtype=torch.float64)
    downs = []
    for index, lazy in enumerate(grams):
        gram = _gram(lazy, settings["alpha"])
        if index < len(group.shares):
            downs.append(_times(group.shares[index].down(), gram))
        _diagonal(total).add_(_diagonal(gram))
        if gram.dim() == 2:
            total += gram - torch.diag(gram.diagonal())
    ridge = RIDGE * float(_diagonal(total).mean())
    _diagonal(total).add_(ridge * len(grams))
    rows = torch.cat([down + ridge * share.down() for down, share in zip(
        downs, group.shares, strict=True)])  # fmt: skip
    up = torch.cat([share.weight * share.up() for share in group.shares], dim=1)
    return up, _divided(rows, total, group.path)


def _diagonal(gram: torch.Tensor) -> torch.Tensor:
    return gram if gram.dim() == 1 else gram.diagonal()


def _divided(rows: torch.Tensor, total: torch.Tensor, path: str) -> torch.Tensor:
    """``rows · total⁻¹``."""
    if total.dim() == 1:
        if float(total.min()) <= 0:
            raise Refused("the Gram matrices are not positive", where=path)
        return rows / total
    triangle, failed = torch.linalg.cholesky_ex(total)
    if int(failed):
        raise Refused(
            "the sum of the Gram matrices is not positive definite",
            where=path,
            hint="Use more prompts, or --param alpha=0.5.",
        )
    return torch.cholesky_solve(rows.T, triangle).T


METHOD = Method(
    name="regmean",
    how=Factors(merge=_merge, mean=True, needs_grams=True),
    summary="nearest to every adapter's outputs on its own inputs; a mean; needs Gram matrices",
    reference="Jin et al. 2023, arXiv 2212.09849, equation 2",
    laws=("identity", "absence", "order", "refactoring"),
    parameters=(ALPHA,),
)
