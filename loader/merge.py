"""Merged mode: one fused update per module, one rounding, and the way back.

Merged weights get memory of their own; the pristine ones are never written to. Entering
computes everything and then swaps references; leaving swaps them back, which cannot fail
and restores the base bit for bit. Subtracting an update never would.

A device without room for both merges in place: pristine weights are then the mapped file's,
or copies in the host's memory, and leaving copies them back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby

import torch
from torch import nn

from adaptrix.compose.tensors import to_torch
from adaptrix.loader.base import BaseModel
from adaptrix.loader.checkpoint import empty_huge
from adaptrix.loader.checks import ModuleCheck, rows_are_exact
from adaptrix.loader.device import merge_on_device
from adaptrix.loader.factors import fuse
from adaptrix.loader.plan import LoadPlan, ModulePlan
from adaptrix.loader.tiles import Arrival, merge_tiles
from adaptrix.loader.workers import workers
from adaptrix.schema.adapter import Replacement, ReplacementRole

ROOM_BYTES = 1 << 30
"""What a device keeps free beside merged weights: activations, and one module's factors."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Made:
    """New values of one module's parameters, by name, and what the checks found."""

    tensors: Mapping[str, torch.Tensor]
    checks: tuple[ModuleCheck, ...]


_Group = tuple[ModulePlan, ...]
"""Everything that changes one parameter: a module, or some of a layer's experts."""


def _groups(plan: LoadPlan) -> list[_Group]:
    # Experts of one parameter share its name as a prefix, so that sorting keeps them together.
    return [
        tuple(group) for _, group in groupby(plan.modules, lambda module: module.shape.parameter)
    ]


def _part(whole: torch.Tensor, module: ModulePlan) -> torch.Tensor:
    return whole if module.shape.expert is None else whole[module.shape.expert]


def _others(group: _Group, whole: torch.Tensor) -> list[int]:
    """Experts of the parameter that no adapter changes."""
    changed = {module.shape.expert for module in group}
    return [] if None in changed else [n for n in range(len(whole)) if n not in changed]


class Merged:
    """The base with a plan merged into its weights."""

    def __init__(self, base: BaseModel, *, in_place: bool | None = None) -> None:
        """Prepare for ``base``; None merges in place when a device has no room for both."""
        self.base = base
        self._in_place = in_place
        self._pristine: dict[str, torch.Tensor] = {}
        self._spare: dict[str, torch.Tensor] = {}
        self._on_host: set[str] = set()

    @property
    def present(self) -> bool:
        """Whether any parameter is not the pristine one."""
        return bool(self._pristine)

    @torch.no_grad()
    def switch(self, plan: LoadPlan) -> tuple[ModuleCheck, ...]:
        """Merge ``plan`` instead of whatever is merged now.

        On any failure the base is as it was and nothing is merged.

        Returns:
            One check per planned module, computed from the weights that are now in place.

        Raises:
            IntegrityError: the base's file has changed since it was loaded.
        """
        try:
            self._restore(keep=True)
            self.base.require_unchanged()
            changed = {item.parameter: self._replaced(item) for _, item in plan.replacements}
            groups = _groups(plan)
            merge = self._merge_in_place if self._needs_place(plan) else self._merge
            if self.base.device.type == "cpu":
                made = workers().run(
                    [partial(merge, group, changed) for group in groups],
                    sizes=[self._parameter(group[0].shape.parameter).nbytes for group in groups],
                )
            else:
                made = [merge(group, changed) for group in groups]
            for module in made:
                changed.update(module.tensors)
            self._swap(changed)
        except BaseException:
            self.leave()
            raise
        finally:
            self._spare.clear()
        return tuple(check for module in made for check in module.checks)

    def leave(self) -> None:
        """Put every pristine parameter back."""
        self._restore(keep=False)

    def _parameter(self, name: str) -> nn.Parameter:
        return self.base.model.get_parameter(name)

    def _swap(self, changed: Mapping[str, torch.Tensor]) -> None:
        for name, value in changed.items():
            parameter = self._parameter(name)
            # Noted first, so that an interrupt in between is undone like any other failure.
            self._pristine[name] = parameter.data
            parameter.data = value

    def _restore(self, *, keep: bool) -> None:
        for name in list(self._pristine):
            parameter = self._parameter(name)
            if name in self._on_host:
                parameter.data.copy_(self._pristine[name])
                self._on_host.discard(name)
                del self._pristine[name]
                continue
            if keep and parameter.data_ptr() != self._pristine[name].data_ptr():
                self._spare[name] = parameter.data
            parameter.data = self._pristine[name]
            del self._pristine[name]

    def _room(self, name: str, like: torch.Tensor) -> torch.Tensor:
        """Memory for the merged parameter: that of the last set where it fits.

        Weights that the base holds in a narrower type than it computes in are merged in
        the type asked for; others in the one they compute in, which holds it exactly.
        """
        held = like.dtype != self.base.compute_dtype
        dtype = self.base.dtype if held else like.dtype
        spare = self._spare.pop(name, None)
        if spare is not None and spare.dtype == dtype and spare.shape == like.shape:
            return spare
        if like.device.type == "cpu":
            return empty_huge(like.shape, dtype)
        return torch.empty_like(like, dtype=dtype)

    def _needs_place(self, plan: LoadPlan) -> bool:
        if self._in_place is not None or self.base.device.type != "cuda":
            return bool(self._in_place)
        names = {module.shape.parameter for module in plan.modules}
        needed = sum(self._parameter(name).nbytes for name in names)
        spare = sum(value.nbytes for value in self._spare.values())
        free, _ = torch.cuda.mem_get_info(self.base.device)
        return needed + ROOM_BYTES > free + spare

    def _merge_in_place(self, group: _Group, replaced: Mapping[str, torch.Tensor]) -> _Made:
        name = group[0].shape.parameter
        parameter = self._parameter(name)
        if name in replaced:
            return self._merge(group, replaced)
        host = self.base.sources.get(name)
        if host is None or host.dtype != parameter.dtype:
            host = parameter.data.to("cpu", copy=True)
        # Noted before anything is written, so that a failure copies it back.
        self._on_host.add(name)
        self._pristine[name] = host
        made = self._merge(group, {**replaced, name: parameter.data.clone()}, parameter.data)
        return replace(made, tensors={k: v for k, v in made.tensors.items() if k != name})

    def _merge(
        self,
        group: _Group,
        replaced: Mapping[str, torch.Tensor],
        room: torch.Tensor | None = None,
    ) -> _Made:
        name = group[0].shape.parameter
        before = replaced.get(name, self._parameter(name).data)
        into = self._room(name, before) if room is None else room
        tensors, checks = {name: into}, []
        for expert in _others(group, before):
            into[expert].copy_(before[expert])
        for module in group:
            check, bias = self._update(module, _part(before, module), _part(into, module))
            checks.append(check)
            if bias is not None:
                bias_name = name.removesuffix("weight") + "bias"
                tensors[bias_name] = self._bias(bias_name, bias, replaced)
        self.base.drop(before)
        return _Made(tensors=tensors, checks=tuple(checks))

    def _update(
        self, module: ModulePlan, before: torch.Tensor, into: torch.Tensor
    ) -> tuple[ModuleCheck, torch.Tensor | None]:
        """Merge one matrix; what arrived, and the change of its bias."""
        dtype = self.base.dtype
        wide = torch.float64 if dtype is torch.float64 else torch.float32
        factors = fuse(module, self.base.device, wide)
        run = merge_tiles if before.device.type == "cpu" else merge_on_device
        arrived: Arrival = run(before.contiguous(), into, factors, dtype)
        check = ModuleCheck(
            path=module.path,
            expected_norm=arrived.expected_norm,
            error=arrived.error,
            survival=arrived.survival,
            changed=arrived.changed,
            exact=rows_are_exact(before, into, module, dtype),
        )
        return check, factors.bias

    def _bias(
        self, name: str, change: torch.Tensor, replaced: Mapping[str, torch.Tensor]
    ) -> torch.Tensor:
        before = replaced.get(name, self._parameter(name).data)
        return (before.to(change.dtype) + change).to(self.base.dtype).to(before.dtype)

    def _replaced(self, item: Replacement) -> torch.Tensor:
        before = self._parameter(item.parameter).data
        value = to_torch(item.tensor).to(before.device)
        if item.role is ReplacementRole.TRAINABLE_TOKENS:
            whole = before.clone()
            whole[list(item.rows)] = value.to(self.base.dtype).to(whole.dtype)
            return whole
        into = self._room(item.parameter, before)
        return into.copy_(value.to(self.base.dtype))
