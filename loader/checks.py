"""Whether a plan really arrived in the model, and how much of it survived rounding."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from adaptrix.loader.factors import values
from adaptrix.loader.plan import LoadPlan, ModulePlan
from adaptrix.schema.report import Problem, Verdict, verdict_of

LOW_SURVIVAL = 0.9
SAMPLED_ROWS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleCheck:
    """What arrived in one module.

    Attributes:
        path: Module path.
        expected_norm: ``‖ΔW‖_F`` that was planned.
        error: ``‖actual change − ΔW‖_F``.
        survival: Share of the update that survives rounding: ``⟨actual, ΔW⟩ / ‖ΔW‖²``.
        changed: Whether anything changed at all.
        exact: Whether sampled rows are, within rounding, those of the float64 sum over the
            adapters' own factors; True where nothing was sampled.
    """

    path: str
    expected_norm: float
    error: float
    survival: float
    changed: bool
    exact: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class SelfCheck:
    """Whether the plan really arrived in the model.

    Attributes:
        verdict: FAIL when a planned module did not change or is off by more than rounding.
        modules: One check per planned module.
        problems: What is wrong, by module.
    """

    verdict: Verdict
    modules: tuple[ModuleCheck, ...]
    problems: tuple[Problem, ...]

    @property
    def survival(self) -> dict[str, float | str]:
        """Median and worst share of the update that survives rounding."""
        if not self.modules:
            return {}
        worst = min(self.modules, key=lambda check: check.survival)
        return {
            "median": statistics.median(check.survival for check in self.modules),
            "worst": worst.survival,
            "worst_module": worst.path,
        }


NOTHING = SelfCheck(verdict=Verdict.PASS, modules=(), problems=())


def judge(plan: LoadPlan, checks: tuple[ModuleCheck, ...], dtype: torch.dtype) -> SelfCheck:
    """Verdict over the checks of every module of ``plan``, whose weights are ``dtype``."""
    problems = tuple(problem for check in checks for problem in _problems(check, dtype))
    verdict = verdict_of(problems)
    if checks and all(check.expected_norm == 0 for check in checks):
        verdict = Verdict.INCONCLUSIVE
    if [check.path for check in checks] != [module.path for module in plan.modules]:
        verdict = Verdict.FAIL
    return SelfCheck(verdict=verdict, modules=checks, problems=problems)


def _problems(check: ModuleCheck, dtype: torch.dtype) -> Iterator[Problem]:
    name = str(dtype).removeprefix("torch.")
    if check.expected_norm == 0:
        text = "the update of this module is zero"
        yield Problem.of("zero_module", text, where=check.path)
    elif not math.isfinite(check.error):
        text = f"the merged weights are not finite in {name}"
        yield Problem.of("update_overflow", text, where=check.path)
    elif not check.exact:
        text = "the merged weights are not the sum of the base and the adapters"
        yield Problem.of("update_wrong", text, where=check.path)
    elif not check.changed:
        text = f"an update of norm {check.expected_norm:.3g} changed nothing in {name}"
        yield Problem.of("update_lost", text, where=check.path)
    elif check.survival < LOW_SURVIVAL:
        text = f"{check.survival:.0%} of the update survives rounding to {name}"
        yield Problem.of("low_survival", text, where=check.path)


def rows_are_exact(
    before: torch.Tensor, after: torch.Tensor, module: ModulePlan, dtype: torch.dtype
) -> bool:
    """Whether some rows of ``after`` are ``before + ΔW`` within one step of ``dtype``.

    Computed in float64 from what the files hold, row by row: it shares neither the fused
    factors nor the tiles with what it checks. DoRA is not sampled, since its norms would
    have to be computed the same way.
    """
    first = module.shares[0].module
    if first.magnitude is not None:
        return True
    transposed = module.shape.transposed
    count = before.shape[0]
    rows = sorted({round(n * (count - 1) / (SAMPLED_ROWS - 1)) for n in range(SAMPLED_ROWS)})
    exact = _rows(before, rows)
    noise = torch.zeros_like(exact)
    for share in module.shares:
        a, b = values(share.module.a), values(share.module.b)
        left, right = (a.T[rows], b.T) if transposed else (b[rows], a)
        one, two = (torch.from_numpy(part.astype("float64")) for part in (left, right))
        exact += share.factor * (one @ two)
        # float32 accumulation over the rank, bounded by the sum of absolute products.
        bound = one.float().abs_() @ two.float().abs_()
        noise += abs(share.factor) * module.rank * 2.0**-23 * bound
    steps = torch.finfo(dtype)
    allowed = steps.eps * exact.abs() + steps.tiny * steps.eps + noise + exact.abs() * 2.0**-23
    off = (_rows(after, rows) - exact).abs()
    return bool((off <= allowed).all())


def _rows(weight: torch.Tensor, rows: list[int]) -> torch.Tensor:
    return torch.stack([weight[row] for row in rows]).double().cpu()
