"""A base model with a set of adapters in effect, and the way from one set to another."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Self

import torch

from adaptrix.loader.attach import Attached
from adaptrix.loader.base import BaseModel, load_base
from adaptrix.loader.generate import GenerateOptions, Generation, Prompt, generate
from adaptrix.loader.merge import Merged, ModuleCheck
from adaptrix.loader.plan import LoadPlan, WeightedAdapter, plan
from adaptrix.loader.rows import by_row
from adaptrix.schema.errors import IncompatibleAdapter, NotFound, UsageError
from adaptrix.schema.report import Problem, Verdict

LOW_SURVIVAL = 0.9


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


class Session:
    """One base, any number of known adapters, one set of them in effect at a time.

    Leaving a set restores the base bit for bit. Switching and generating exclude each
    other, so a generation never sees a half-switched model.
    """

    def __init__(
        self, base: BaseModel, adapters: Sequence[WeightedAdapter] = (), *, mode: str = "merged"
    ) -> None:
        self.base = base
        self.mode = mode
        self.known = {entry.name: entry for entry in adapters}
        self.timings_s: dict[str, float] = {}
        self.check = SelfCheck(verdict=Verdict.PASS, modules=(), problems=())
        self.row_checks: tuple[SelfCheck, ...] = ()
        self.weights: dict[str, float] = {}
        self.plan: LoadPlan = plan(base.structure, (), mode=mode)
        self._effect: Merged | Attached = Merged(base) if mode == "merged" else Attached(base)
        self._lock = threading.RLock()

    @classmethod
    def open(
        cls,
        base: BaseModel | str,
        adapters: Sequence[WeightedAdapter] = (),
        *,
        mode: str = "merged",
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> Self:
        """Load a base if it is not loaded yet and put all of ``adapters`` into effect.

        Raises:
            IncompatibleAdapter: the adapters do not fit the base.
            NotFound, FormatError, RemoteError: the base cannot be loaded.
        """
        started = time.perf_counter()
        loaded = load_base(base, device=device, dtype=dtype) if isinstance(base, str) else base
        session = cls(loaded, adapters, mode=mode)
        session.timings_s["load_base"] = time.perf_counter() - started
        session.use({entry.name: entry.weight for entry in adapters})
        return session

    def use(self, weights: Mapping[str, float]) -> SelfCheck:
        """Put exactly these adapters into effect, each with its weight.

        On failure the base is restored and no adapter is in effect.

        Raises:
            NotFound: a name that this session does not know.
            IncompatibleAdapter: they do not fit the base or each other.
        """
        wanted = self.plan_for(weights)
        started = time.perf_counter()
        with self._lock:
            self._effect.leave()
            self.plan, self.weights = plan(self.base.structure, (), mode=self.mode), {}
            self.check = _judge(wanted, self._effect.enter(wanted), self.base, self.mode)
            self.plan, self.weights = wanted, dict(weights)
        self.timings_s[self.mode] = time.perf_counter() - started
        return self.check

    def detach(self) -> None:
        """Take every adapter out; the base is bit-identical to what was loaded."""
        self.use({})

    def self_check(self) -> SelfCheck:
        """The check made when the present set came into effect.

        Raises:
            IncompatibleAdapter: it failed.
        """
        return _require(self.check)

    def generate(
        self,
        prompts: Sequence[Prompt],
        options: GenerateOptions | Sequence[GenerateOptions] | None = None,
        *,
        adapters: Sequence[Mapping[str, float]] | None = None,
        on_text: Callable[[str], None] | None = None,
    ) -> list[Generation]:
        """Generate one completion per prompt, with the present set or with a set for each.

        Attached, rows with different sets share one batch; merged, each set is switched to
        in turn. The present set is in effect again afterwards.

        Args:
            prompts: Texts or token ids to continue.
            options: How to generate, for all rows or for each.
            adapters: For each row, names with weights; empty for the base alone.
            on_text: Called with each new piece of text; for a single prompt only.

        Raises:
            NotFound: a name that this session does not know.
            IncompatibleAdapter: a row's adapters do not fit the base or each other.
        """
        wanted = GenerateOptions() if options is None else options
        with self._lock:
            if adapters is not None:
                return by_row(self, prompts, wanted, adapters)
            return generate(self.base, prompts, wanted, on_text=on_text)

    def plan_for(self, weights: Mapping[str, float]) -> LoadPlan:
        """The plan of exactly these adapters, each with its weight.

        Raises:
            NotFound: a name that this session does not know.
            IncompatibleAdapter: they do not fit the base or each other.
        """
        unknown = [name for name in weights if name not in self.known]
        if unknown:
            raise NotFound(f"no adapter {unknown[0]!r} in this session", where="use")
        chosen = [replace(self.known[name], weight=weight) for name, weight in weights.items()]
        return plan(self.base.structure, chosen, mode=self.mode)

    @contextmanager
    def rows(self, plans: Sequence[LoadPlan], at: Sequence[int]) -> Iterator[None]:
        """Attach ``plans[at[i]]`` to row ``i``; the present set is back afterwards.

        Raises:
            UsageError: in merged mode, where all rows have the same weights.
            IncompatibleAdapter: a plan did not arrive.
        """
        effect = self._effect
        if not isinstance(effect, Attached):
            raise UsageError("rows with different adapters need --mode attached", where="rows")
        with self._lock:
            effect.leave()
            try:
                found = effect.enter_rows(plans, at)
                self.row_checks = tuple(
                    _judge(own, checks, self.base, self.mode)
                    for own, checks in zip(plans, found, strict=True)
                )
                for check in self.row_checks:
                    _require(check)
                yield
            finally:
                effect.leave()
                effect.enter(self.plan)


def _require(check: SelfCheck) -> SelfCheck:
    if check.verdict is Verdict.FAIL:
        first = check.problems[0]
        raise IncompatibleAdapter(first.message, where=first.where, hint=first.hint)
    return check


def _judge(
    wanted: LoadPlan, checks: tuple[ModuleCheck, ...], base: BaseModel, mode: str
) -> SelfCheck:
    dtype = base.dtype if mode == "merged" else base.compute_dtype
    epsilon = torch.finfo(dtype).eps
    problems = []
    for check in checks:
        if check.expected_norm == 0:
            problems.append(
                Problem.of("zero_module", "the update of this module is zero", where=check.path)
            )
        elif not check.changed:
            problems.append(
                Problem.of(
                    "update_lost",
                    f"an update of norm {check.expected_norm:.3g} changed nothing in {dtype}",
                    where=check.path,
                )
            )
        elif check.survival < LOW_SURVIVAL:
            problems.append(
                Problem.of(
                    "low_survival",
                    f"{check.survival:.0%} of the update survives rounding to {dtype}",
                    where=check.path,
                )
            )
    failed = any(problem.code == "update_lost" for problem in problems)
    everything_zero = bool(checks) and all(check.expected_norm == 0 for check in checks)
    verdict = Verdict.FAIL if failed else Verdict.PASS
    if everything_zero:
        verdict = Verdict.INCONCLUSIVE
    if len(checks) != len(wanted.modules) or epsilon <= 0:
        verdict = Verdict.FAIL
    return SelfCheck(verdict=verdict, modules=checks, problems=tuple(problems))
