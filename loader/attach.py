"""Attached mode: the base is untouched; hooks add each module's update to its output."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from adaptrix.compose.tensors import to_torch
from adaptrix.loader.base import BaseModel
from adaptrix.loader.checks import ModuleCheck
from adaptrix.loader.factors import FusedFactors, fuse
from adaptrix.loader.plan import LoadPlan
from adaptrix.schema.adapter import Replacement, ReplacementRole


class Attached:
    """The base with a plan attached to its modules' outputs."""

    def __init__(self, base: BaseModel) -> None:
        self.base = base
        self._handles: list[RemovableHandle] = []

    def switch(self, plan: LoadPlan) -> tuple[ModuleCheck, ...]:
        """Attach ``plan`` instead of whatever is attached now."""
        self.leave()
        return self.enter(plan)

    @torch.no_grad()
    def enter(self, plan: LoadPlan) -> tuple[ModuleCheck, ...]:
        """Attach ``plan``; on any failure every hook is removed again.

        Returns:
            One check per planned module, measured on one random input each.
        """
        checks = []
        try:
            for module_path, overrides in self._overrides(plan).items():
                module = self.base.model.get_submodule(module_path)
                self._handles.append(_prepend(module, _overriding(overrides)))
            for module_plan in plan.modules:
                module = self.base.model.get_submodule(module_plan.path)
                factors = fuse(module_plan, self.base.device)
                probe = _probe(module)
                before = module(probe).float()
                self._handles.append(module.register_forward_hook(_adding(factors, module)))
                actual = module(probe).float() - before
                checks.append(_check(module_plan.path, factors, module, probe, before, actual))
        except BaseException:
            self.leave()
            raise
        return tuple(checks)

    def leave(self) -> None:
        """Remove every hook."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _overrides(self, plan: LoadPlan) -> dict[str, dict[str, torch.Tensor]]:
        found: dict[str, dict[str, torch.Tensor]] = {}
        for _, item in plan.replacements:
            path, _, leaf = item.parameter.rpartition(".")
            old = self.base.model.get_parameter(item.parameter)
            found.setdefault(path, {})[leaf] = _new_value(item, old)
        return found


def _new_value(item: Replacement, old: torch.Tensor) -> torch.Tensor:
    value = to_torch(item.tensor).to(old.device, old.dtype)
    if item.role is ReplacementRole.TRAINABLE_TOKENS:
        whole = old.clone()
        whole[list(item.rows)] = value
        return whole
    return value


def _prepend(module: nn.Module, hook: Callable[..., Any]) -> RemovableHandle:
    return module.register_forward_hook(hook, prepend=True)


def _overriding(overrides: dict[str, torch.Tensor]) -> Callable[..., Any]:
    """A hook that gives the output that the module would have with other parameters."""

    def hook(module: nn.Module, args: tuple[Any, ...], _output: object) -> object:
        tensors = {**dict(module.named_parameters(recurse=False)), **overrides}
        match module:
            case nn.Linear():
                return nn.functional.linear(args[0], tensors["weight"], tensors.get("bias"))
            case nn.Embedding():
                return nn.functional.embedding(args[0], tensors["weight"], module.padding_idx)
            case nn.LayerNorm():
                return nn.functional.layer_norm(
                    args[0], module.normalized_shape, tensors["weight"], tensors["bias"], module.eps
                )
            case _:
                # Calling forward directly passes no hooks, so this does not recurse.
                original = {name: getattr(module, name) for name in overrides}
                try:
                    for name, value in overrides.items():
                        module._parameters[name] = nn.Parameter(value, requires_grad=False)
                    return module.forward(*args)
                finally:
                    module._parameters.update(original)

    return hook


def _adding(factors: FusedFactors, module: nn.Module) -> Callable[..., Any]:
    """A hook that adds ``B (A x)``; for DoRA it also rescales the rows."""
    row_scale = _row_scale(factors, module) if factors.magnitude is not None else None
    bias = getattr(module, "bias", None)

    def hook(_module: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
        if isinstance(module, nn.Embedding):
            update = nn.functional.embedding(args[0], factors.a.T) @ factors.b.T
        else:
            update = (args[0].float() @ factors.a.T) @ factors.b.T
        total = output.float() + update
        if row_scale is not None:
            shift = 0.0 if bias is None else bias.float()
            total = (total - shift) * row_scale + shift
        if factors.bias is not None:
            total = total + factors.bias
        return total.to(output.dtype)

    return hook


def _row_scale(factors: FusedFactors, module: nn.Module) -> torch.Tensor:
    """``m / ‖W + ΔW‖`` by output row (Liu et al. 2024, equation 5)."""
    weight = module.get_parameter("weight").float()
    total = weight + factors.delta()
    rows = total.T if factors.transposed else total
    norms: torch.Tensor = rows.norm(dim=1)
    return norms.reciprocal() if factors.magnitude is None else factors.magnitude / norms


def _probe(module: nn.Module) -> torch.Tensor:
    weight = module.get_parameter("weight")
    if isinstance(module, nn.Embedding):
        return torch.arange(min(8, weight.shape[0]), device=weight.device)
    width = weight.shape[1] if isinstance(module, nn.Linear) else weight.shape[0]
    generator = torch.Generator().manual_seed(0)
    return torch.randn(4, width, generator=generator).to(weight.device, weight.dtype)


def _check(
    path: str,
    factors: FusedFactors,
    module: nn.Module,
    probe: torch.Tensor,
    before: torch.Tensor,
    actual: torch.Tensor,
) -> ModuleCheck:
    if isinstance(module, nn.Embedding):
        wanted = nn.functional.embedding(probe, factors.delta().float())
    else:
        inputs = probe.float()
        wanted = inputs @ factors.a.T @ factors.b.T
        if factors.bias is not None:
            wanted = wanted + factors.bias
        if factors.magnitude is not None:
            shift = (
                0.0
                if getattr(module, "bias", None) is None
                else module.get_parameter("bias").float()
            )
            scaled = (before - shift + wanted) * _row_scale(factors, module) + shift
            wanted = scaled - before
    norm = float(wanted.norm())
    return ModuleCheck(
        path=path,
        expected_norm=norm,
        error=float((actual - wanted).norm()),
        survival=float((actual * wanted).sum()) / norm**2 if norm else 0.0,
        changed=bool(actual.any()),
    )
