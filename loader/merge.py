"""Merged mode: one fused update per module, one rounding, and the way back.

The pristine weights are kept, so that leaving restores the base bit for bit; subtracting
an update never would.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from adaptrix.compose.tensors import to_torch
from adaptrix.loader.base import BaseModel
from adaptrix.loader.factors import FusedFactors, fuse, merged_weight
from adaptrix.loader.plan import LoadPlan
from adaptrix.schema.adapter import Replacement, ReplacementRole


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleCheck:
    """What arrived in one module.

    Attributes:
        path: Module path.
        expected_norm: ``‖ΔW‖_F`` that was planned.
        error: ``‖actual change − ΔW‖_F``.
        survival: Share of the update that survives rounding: ``⟨actual, ΔW⟩ / ‖ΔW‖²``.
        changed: Whether anything changed at all.
    """

    path: str
    expected_norm: float
    error: float
    survival: float
    changed: bool


class Merged:
    """The base with a plan merged into its weights."""

    def __init__(self, base: BaseModel) -> None:
        self.base = base
        self._pristine: dict[str, torch.Tensor] = {}

    @torch.no_grad()
    def enter(self, plan: LoadPlan) -> tuple[ModuleCheck, ...]:
        """Merge ``plan``; on any failure the base is as it was.

        Returns:
            One check per planned module, computed from the weights that are now in place.
        """
        checks = []
        try:
            for owner_item in plan.replacements:
                self._replace(owner_item[1])
            for module in plan.modules:
                factors = fuse(module, self.base.device)
                checks.append(self._update(module.path, factors))
        except BaseException:
            self.leave()
            raise
        return tuple(checks)

    @torch.no_grad()
    def leave(self) -> None:
        """Put every changed parameter back, bit for bit."""
        for name, value in self._pristine.items():
            self._parameter(name).copy_(value)
        self._pristine.clear()

    def _parameter(self, name: str) -> nn.Parameter:
        return self.base.model.get_parameter(name)

    def _set(self, name: str, value: torch.Tensor) -> None:
        parameter = self._parameter(name)
        if name not in self._pristine:
            # The values are exact in the checkpoint's dtype, which may be half the size.
            self._pristine[name] = parameter.to(self.base.dtype, copy=True)
        parameter.copy_(value.to(self.base.dtype))

    def _update(self, path: str, factors: FusedFactors) -> ModuleCheck:
        name = f"{path}.weight"
        before = self._parameter(name).float().clone()
        wanted = merged_weight(before, factors) - before
        self._set(name, merged_weight(before, factors))
        if factors.bias is not None:
            bias = f"{path}.bias"
            self._set(bias, self._parameter(bias).float() + factors.bias)
        actual = self._parameter(name).float() - before
        norm = float(wanted.norm())
        return ModuleCheck(
            path=path,
            expected_norm=norm,
            error=float((actual - wanted).norm()),
            survival=float((actual * wanted).sum()) / norm**2 if norm else 0.0,
            changed=bool(actual.any()),
        )

    def _replace(self, item: Replacement) -> None:
        value = to_torch(item.tensor).to(self.base.device)
        if item.role is ReplacementRole.TRAINABLE_TOKENS:
            whole = self._parameter(item.parameter).clone()
            whole[list(item.rows)] = value.to(whole.dtype)
            value = whole
        self._set(item.parameter, value)
