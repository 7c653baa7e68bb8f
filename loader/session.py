"""A base model with a set of adapters in effect, and the way from one set to another."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import torch

from adaptrix.loader.attach import Attached
from adaptrix.loader.base import BaseModel, base_structure, load_base
from adaptrix.loader.checks import NOTHING, SelfCheck, judge
from adaptrix.loader.generate import GenerateOptions, Generation, Prompt, generate
from adaptrix.loader.merge import Merged
from adaptrix.loader.plan import LoadPlan, WeightedAdapter, plan
from adaptrix.loader.rows import by_row
from adaptrix.loader.saving import save_model
from adaptrix.schema.errors import IncompatibleAdapter, NotFound, UsageError
from adaptrix.schema.report import Verdict


class Session:
    """One base, any number of known adapters, one set of them in effect at a time.

    Leaving a set restores the base bit for bit. Switching and generating exclude each
    other, so a generation never sees a half-switched model. Sessions over the same base take
    it from each other: what one has in effect is taken out when another switches.
    """

    def __init__(
        self, base: BaseModel, adapters: Sequence[WeightedAdapter] = (), *, mode: str = "merged"
    ) -> None:
        self.base = base
        self.mode = mode
        self.known = {entry.name: entry for entry in adapters}
        self.timings_s: dict[str, float] = {}
        self.check = NOTHING
        self.row_checks: tuple[SelfCheck, ...] = ()
        self.weights: dict[str, float] = {}
        self.plan: LoadPlan = plan(base.structure, (), mode=mode)
        self._effect: Merged | Attached = Merged(base) if mode == "merged" else Attached(base)

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
        if isinstance(base, str) and adapters:
            # Refused before gigabytes are fetched.
            plan(base_structure(base), adapters, mode=mode)
        loaded = load_base(base, device=device, dtype=dtype) if isinstance(base, str) else base
        session = cls(loaded, adapters, mode=mode)
        session.timings_s["load_base"] = time.perf_counter() - started
        session.use({entry.name: entry.weight for entry in adapters})
        return session

    def use(self, weights: Mapping[str, float]) -> SelfCheck:
        """Put exactly these adapters into effect, each with its weight.

        What does not fit is refused before anything changes. On a failure later on the base
        is restored and no adapter is in effect.

        Raises:
            NotFound: a name that this session does not know.
            IncompatibleAdapter: they do not fit the base or each other.
        """
        wanted = self.plan_for(weights)
        started = time.perf_counter()
        with self.base.occupancy.lock:
            self._take_over()
            self.plan, self.weights = plan(self.base.structure, (), mode=self.mode), {}
            self.check = NOTHING
            self.check = judge(wanted, self._effect.switch(wanted), self._dtype)
            self.plan, self.weights = wanted, dict(weights)
            if not weights:
                self.base.occupancy.effect = None
        self.timings_s[self.mode] = time.perf_counter() - started
        return self.check

    def _take_over(self) -> None:
        occupancy = self.base.occupancy
        if occupancy.effect is not None and occupancy.effect is not self._effect:
            occupancy.effect.leave()
        occupancy.effect = self._effect

    def _require_effect(self) -> None:
        """Refuse to generate with adapters other than those that this session names.

        Raises:
            UsageError: another session has taken the base over, or it is damaged.
        """
        if isinstance(self._effect, Merged) and self._effect.present and not self.plan.touches:
            raise UsageError(
                "the base could not be restored after a failure",
                where="generate",
                hint="Load the base again.",
            )
        present = self.base.occupancy.effect
        if present is not self._effect and (present is not None or self.plan.modules):
            raise UsageError(
                "another session has put its own adapters into this base",
                where="generate",
                hint="Call use() again, or load a second base.",
            )

    @property
    def _dtype(self) -> torch.dtype:
        """What the update had to survive in."""
        return self.base.dtype if self.mode == "merged" else self.base.compute_dtype

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
        with self.base.occupancy.lock:
            self._require_effect()
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

    def save(self, folder: Path, recipe: Mapping[str, Any]) -> int:
        """Write the model with the present set merged, for transformers to load.

        Returns:
            Bytes written.

        Raises:
            UsageError: attached mode, or the folder holds something.
            IncompatibleAdapter: the set did not arrive.
            OSError: it cannot be written.
        """
        if not isinstance(self._effect, Merged):
            raise UsageError("only a merged model can be saved", where="--mode attached")
        with self.base.occupancy.lock:
            self._require_effect()
            self.self_check()
            return save_model(self.base, folder, recipe)

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
        with self.base.occupancy.lock:
            effect.leave()
            try:
                found = effect.enter_rows(plans, at)
                self.row_checks = tuple(
                    judge(own, checks, self._dtype)
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
