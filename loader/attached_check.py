"""Whether an attached module adds what was planned: its update, measured on random inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from adaptrix.compose.tensors import to_torch
from adaptrix.loader.attached_forward import Forward, adding, looking_up
from adaptrix.loader.checks import ModuleCheck
from adaptrix.loader.plan import ModulePlan
from adaptrix.loader.stacked import Stacked

PROBES = 4
# Far above what rounding to 16 bits does to a product, far below what a lost scale does.
WRONG_ABOVE = 0.05


def check(
    module: nn.Module,
    stacked: Stacked,
    sets: Sequence[ModulePlan | None],
    rows: Sequence[int] | None,
) -> list[ModuleCheck | None]:
    """Compare what the attached forward adds with the plan's own products in float64.

    The module's output is stood in for by random numbers: reading its weights again would
    cost as much as generating a token.

    Returns:
        One check for each of ``sets``, None where it leaves the module alone.
    """
    used = [index for index, plan in enumerate(sets) if plan is not None]
    plans = [plan for plan in sets if plan is not None]
    shown = stacked if rows is None else _of_rows(stacked, [rows.index(index) for index in used])
    probe, forward = _probe(module, shown, len(used))
    output = torch.randn(
        *probe.shape[:2], stacked.b.shape[1], generator=torch.Generator().manual_seed(1)
    ).to(stacked.b.device, stacked.b.dtype)
    attached = forward(lambda *_: output.clone(), shown)(probe)
    actual = (attached.double() - output.double()).cpu()
    wanted = torch.stack([
        _update(plan, part) for plan, part in zip(plans, probe.double().cpu(), strict=True)
    ])  # fmt: skip
    if shown.row_scale is not None:
        # In DoRA's place: scaled update, and the change of the output itself.
        scale = shown.row_scale.double().cpu()
        wanted = wanted * scale + output.double().cpu() * (scale - 1)
    if shown.shift is not None:
        wanted = wanted + shown.shift.double().cpu()
    made = iter([_compared(plan, *pair) for plan, *pair in zip(plans, actual, wanted, strict=True)])
    return [None if plan is None else next(made) for plan in sets]


def _compared(plan: ModulePlan, actual: torch.Tensor, wanted: torch.Tensor) -> ModuleCheck:
    norm, error = float(wanted.norm()), float((actual - wanted).norm())
    return ModuleCheck(
        path=str(plan.path),
        expected_norm=norm,
        error=error,
        survival=float((actual * wanted).sum()) / norm**2 if norm else 0.0,
        changed=bool(actual.any()),
        exact=error <= WRONG_ABOVE * norm,
    )


def _of_rows(stacked: Stacked, rows: Sequence[int]) -> Stacked:
    where = list(rows)
    return Stacked(
        a=stacked.a,
        b=stacked.b,
        weights=None if stacked.weights is None else stacked.weights[where],
        row_scale=None if stacked.row_scale is None else stacked.row_scale[where],
        shift=None if stacked.shift is None else stacked.shift[where],
    )


def _probe(
    module: nn.Module, stacked: Stacked, sets: int
) -> tuple[torch.Tensor, Callable[[Forward, Stacked], Forward]]:
    """Random inputs ``(sets, PROBES, …)`` and the maker of the attached forward."""
    rows = None if stacked.weights is None else sets
    generator = torch.Generator().manual_seed(0)
    if isinstance(module, nn.Embedding):
        ids = torch.randint(0, stacked.a.shape[0], (sets, PROBES), generator=generator)
        return ids.to(stacked.a.device), lambda original, what: looking_up(
            original, what, rows=rows, scale=1.0
        )
    values = torch.randn(sets, PROBES, stacked.a.shape[1], generator=generator)
    return values.to(stacked.a.device, stacked.a.dtype), lambda original, what: adding(
        original, what, rows=rows, fresh=True
    )


def _update(plan: ModulePlan, probe: torch.Tensor) -> torch.Tensor:
    """``Σ weight · scale · B (A x)`` for one set, float64, straight from the files."""
    total: torch.Tensor | float = 0.0
    for share in plan.shares:
        a = to_torch(share.module.a).double().flatten(1)
        b = to_torch(share.module.b).double().flatten(1)
        low = a.T[probe.long()] if probe.dim() == 1 else probe @ a.T
        total = total + share.factor * (low @ b.T)
    return torch.as_tensor(total)
