"""Attached mode: the base is untouched; each adapted module adds its update to its output.

One set of adapters may hold for every row, or each row of a batch has its own: other
adapters, other weights. See :mod:`adaptrix.loader.stacked` for the arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle
from transformers.pytorch_utils import Conv1D

from adaptrix.compose.tensors import to_torch
from adaptrix.loader.attached_check import check
from adaptrix.loader.attached_forward import Forward, adding, looking_up, overriding
from adaptrix.loader.base import BaseModel
from adaptrix.loader.checks import ModuleCheck
from adaptrix.loader.plan import LoadPlan, ModulePlan
from adaptrix.loader.stacked import Stacked, Stacker
from adaptrix.schema.adapter import ModulePath, Replacement, ReplacementRole
from adaptrix.schema.errors import IncompatibleAdapter


class Attached:
    """The base with one plan, or one plan for each row, attached to its modules."""

    def __init__(self, base: BaseModel) -> None:
        self.base = base
        self._stacker = Stacker(base.device, _factor_dtype(base))
        self._restore: list[Callable[[], None]] = []
        self._silent: set[str] = set()
        self._heard: set[str] = set()
        self._watch: RemovableHandle | None = None
        self._checks: dict[tuple[object, ...], list[ModuleCheck | None]] = {}

    def switch(self, plan: LoadPlan) -> tuple[ModuleCheck, ...]:
        """Attach ``plan`` instead of whatever is attached now."""
        self.leave()
        return self.enter(plan)

    def enter(self, plan: LoadPlan) -> tuple[ModuleCheck, ...]:
        """Attach ``plan`` for every row; on any failure everything is taken off again.

        Returns:
            One check per planned module, measured on random inputs.
        """
        return self.enter_rows([plan], None)[0]

    @torch.no_grad()
    def enter_rows(
        self, plans: Sequence[LoadPlan], rows: Sequence[int] | None
    ) -> list[tuple[ModuleCheck, ...]]:
        """Attach ``plans[rows[i]]`` to row ``i`` of every batch until :meth:`leave`.

        Returns:
            The checks of each plan.

        Raises:
            IncompatibleAdapter: something that attaching cannot do; nothing is attached.
        """
        try:
            return self._enter(plans, rows if len(plans) > 1 else None)
        except BaseException:
            self.leave()
            raise

    def leave(self) -> None:
        """Give every module its own forward back."""
        if self._watch is not None:
            self._watch.remove()
            self._watch = None
        for restore in reversed(self._restore):
            restore()
        self._restore.clear()
        self._silent.clear()

    def _enter(
        self, plans: Sequence[LoadPlan], rows: Sequence[int] | None
    ) -> list[tuple[ModuleCheck, ...]]:
        overrides = [self._overrides(plan) for plan in plans]
        planned = [{str(module.path): module for module in plan.modules} for plan in plans]
        adapted = sorted({path for by_path in planned for path in by_path})
        made = [
            (path, self._stacked(path, [by_path.get(path) for by_path in planned], overrides, rows))
            for path in adapted
        ]
        for path in sorted({path for by_path in overrides for path in by_path}):
            module = self.base.model.get_submodule(path)
            of_sets = [by_path.get(path, {}) for by_path in overrides]
            self._put(path, overriding(module, module.forward, of_sets, rows))
        checks: list[list[ModuleCheck]] = [[] for _ in plans]
        count = None if rows is None else len(rows)
        for path, stacked in made:
            module = self.base.model.get_submodule(path)
            self._put(path, _forward(module, module.forward, stacked, count))
            sets = [by_path.get(path) for by_path in planned]
            for number, found in enumerate(self._check(module, stacked, sets, rows)):
                checks[number] += [found] if found is not None else []
        self._listen()
        return [tuple(of_set) for of_set in checks]

    def _stacked(
        self,
        path: str,
        sets: Sequence[ModulePlan | None],
        overrides: Sequence[Mapping[str, Mapping[str, nn.Parameter]]],
        rows: Sequence[int] | None,
    ) -> Stacked:
        module = self.base.model.get_submodule(path)
        own = getattr(module, "bias", None)
        biases = [by_path.get(path, {}).get("bias", own) for by_path in overrides]
        return self._stacker.stack(module, sets, biases, rows)

    def _check(
        self,
        module: nn.Module,
        stacked: Stacked,
        sets: Sequence[ModulePlan | None],
        rows: Sequence[int] | None,
    ) -> list[ModuleCheck | None]:
        """Check the module, unless these very sets have been checked on it before."""
        key = tuple(
            (id(share.module), share.weight) if share else None
            for plan in sets
            for share in (*(plan.shares if plan else ()), None)
        )
        if key not in self._checks:
            self._checks[key] = check(module, stacked, sets, rows)
        return self._checks[key]

    def _put(self, path: str, forward: Forward) -> None:
        """Give a module another forward, which first tells that the model calls it."""
        module: Any = self.base.model.get_submodule(path)
        before = module.__dict__.get("forward")

        def restore() -> None:
            if before is None:
                module.__dict__.pop("forward", None)
            else:
                module.forward = before

        self._restore.append(restore)
        if path in self._heard:
            module.forward = forward
            return

        def first(*args: Any, **kwargs: Any) -> Any:
            self._silent.discard(path)
            self._heard.add(path)
            module.forward = forward
            return forward(*args, **kwargs)

        self._silent.add(path)
        module.forward = first

    def _listen(self) -> None:
        """After the model's next pass, refuse if it read a module without calling it."""
        if not self._silent:
            return

        def heard(*_: object) -> None:
            if self._silent:
                raise _unheard(self.base.name, sorted(self._silent))
            if self._watch is not None:
                self._watch.remove()
                self._watch = None

        self._watch = self.base.model.register_forward_hook(heard)

    def _overrides(self, plan: LoadPlan) -> dict[str, dict[str, nn.Parameter]]:
        found: dict[str, dict[str, nn.Parameter]] = {}
        for owner, replacement in plan.replacements:
            for name in self._ends(replacement):
                path, _, leaf = name.rpartition(".")
                old = self.base.model.get_parameter(name)
                shape = self.base.structure.modules.get(ModulePath(path))
                if leaf == "weight" and shape is not None and not shape.mergeable:
                    raise IncompatibleAdapter(
                        f"{owner} replaces a weight that is quantised here",
                        where=name,
                        hint="Run it on the base as it was before quantisation.",
                    )
                value = _new_value(replacement, old)
                found.setdefault(path, {})[leaf] = nn.Parameter(value, requires_grad=False)
        return found

    def _ends(self, replacement: Replacement) -> list[str]:
        """The parameters to replace; trained tokens reach both ends of a tied embedding."""
        name = replacement.parameter
        tied = name in self.base.structure.tied
        if replacement.role is not ReplacementRole.TRAINABLE_TOKENS or not tied:
            return [name]
        old = self.base.model.get_parameter(name)
        return [
            other
            for other, value in self.base.model.named_parameters(remove_duplicate=False)
            if value is old
        ]


def _factor_dtype(base: BaseModel) -> torch.dtype:
    """16-bit factors only on a GPU, whose products sum in float32; a CPU is slow at them."""
    compute = base.compute_dtype
    if base.device.type == "cpu" and compute.itemsize == 2:
        return torch.float32
    return compute


def _new_value(replacement: Replacement, old: torch.Tensor) -> torch.Tensor:
    value = to_torch(replacement.tensor).to(old.device, old.dtype)
    if replacement.role is ReplacementRole.TRAINABLE_TOKENS:
        whole = old.detach().clone()
        whole[list(replacement.rows)] = value
        return whole
    return value


def _forward(module: nn.Module, original: Forward, stacked: Stacked, rows: int | None) -> Forward:
    if isinstance(module, nn.Embedding):
        return looking_up(original, stacked, rows=rows, scale=_lookup_scale(module))
    own = getattr(original, "__func__", None)
    fresh = own is nn.Linear.forward or own is Conv1D.forward
    return adding(original, stacked, rows=rows, fresh=fresh)


def _lookup_scale(module: nn.Embedding) -> float:
    """What an embedding multiplies its rows by, measured on its own forward.

    Raises:
        IncompatibleAdapter: it does something else with them.
    """
    if type(module).forward is nn.Embedding.forward:
        return 1.0
    ids = torch.arange(min(8, module.num_embeddings), device=module.weight.device)
    rows = module.weight[ids].double()
    images = type(module).forward(module, ids).double()
    scale = float((images * rows).sum() / rows.square().sum().clamp_min(1e-300))
    tolerance = 4 * torch.finfo(module.weight.dtype).eps * float(images.abs().max())
    if float((images - scale * rows).abs().max()) > tolerance:
        raise IncompatibleAdapter(
            f"{type(module).__name__} does more than look up and scale",
            where="embedding",
            hint="Run with --mode merged.",
        )
    return scale


def _unheard(base: str, paths: Sequence[str]) -> IncompatibleAdapter:
    return IncompatibleAdapter(
        f"the model computes without calling {len(paths)} adapted modules, {paths[0]} among "
        "them: their updates would be lost",
        where=base,
        hint="Run with --mode merged.",
        code="module_not_called",
    )
