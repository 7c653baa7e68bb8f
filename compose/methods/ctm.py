"""Compress, then merge: one basis of the wanted rank for all updates, TIES inside it."""

from __future__ import annotations

import torch

from adaptrix.compose.core import Core, canonical
from adaptrix.compose.elements import in_basis
from adaptrix.compose.method import Cores, Method, Product
from adaptrix.compose.methods.ties import begin
from adaptrix.compose.settings import DENSITY, RANK, SCALE, Parameter, Settings

BALANCE = Parameter(
    name="balance", summary="1 keeps the updates' own sizes, 0 makes them equal", default=0.5,
    low=0.0, high=1.0,
)  # fmt: skip
SWEEPS = Parameter(
    name="sweeps", summary="alternations while looking for the basis", default=5, low=0, high=100,
    whole=True,
)  # fmt: skip


def common_basis(
    parts: list[torch.Tensor], rank: int, sweeps: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """``(p, k), (q, k)``: Tucker-2 by HOSVD and alternating least squares (HOOI)."""
    left = torch.linalg.svd(torch.cat(parts, dim=1), full_matrices=False)[0][:, :rank]
    right = torch.linalg.svd(torch.cat(parts), full_matrices=False)[2][:rank].T
    for _ in range(sweeps):
        inner = torch.cat([part @ right for part in parts], dim=1)
        left = torch.linalg.svd(inner, full_matrices=False)[0][:, :rank]
        inner = torch.cat([left.T @ part for part in parts])
        right = torch.linalg.svd(inner, full_matrices=False)[2][:rank].T
    return left, right


def _merge(core: Core, weights: tuple[float, ...], settings: Settings) -> Product:
    sizes = [float(part.norm()) for part in core.parts]
    mean = sum(sizes) / len(sizes)
    balance = settings["balance"]
    scales = [balance + (1 - balance) * mean / size if size > 0 else 0.0 for size in sizes]
    parts = [scale * part for scale, part in zip(scales, core.parts, strict=True)]
    full = min(core.left.shape[1], core.right.shape[1])
    rank = min(int(settings.get("rank") or -(-full // len(parts))), full)
    left, right = common_basis(parts, rank, int(settings["sweeps"]))
    small = canonical(
        Core(
            left=core.left @ left,
            right=core.right @ right,
            parts=tuple(left.T @ part @ right for part in parts),
        )
    )
    entries = in_basis(small.parts, _no_draws)
    merged = begin(entries, weights, settings)()(list(small.parts))
    return Product(left=small.left, middle=merged, right=small.right)


def _no_draws() -> list[torch.Generator]:
    return []


METHOD = Method(
    name="ctm",
    how=Cores(merge=_merge),
    summary="one basis of rank K for all updates, TIES inside it: the result has rank K",
    reference="Compress then merge, ICML 2026",
    laws=("identity", "absence", "order", "refactoring"),
    parameters=(RANK, DENSITY, BALANCE, SWEEPS, SCALE),
)
