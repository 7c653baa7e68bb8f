"""Several adapters' factors of one module, stacked along the rank for one forward.

Shapes: ``A (R, in)``, ``Bᵀ (R, out)``; ``update = ((x Aᵀ) ∘ w) Bᵀ`` where ``w (rows, 1, R)``
holds each row's weight of the adapter that a rank column belongs to, 0 where the row does
not use it. This is exact, and for one token it reads every factor once. Where all rows use
the same set, weights are folded into ``Bᵀ`` and ``w`` is None.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from adaptrix.compose.tensors import to_torch
from adaptrix.loader.plan import ModulePlan, Share
from adaptrix.schema.adapter import AdaptedModule, ModuleKind
from adaptrix.schema.errors import IncompatibleAdapter

# Columns of a quantised weight that are recovered at a time, by sending unit vectors through.
UNIT_ROWS = 256


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Stacked:
    """The update of one module.

    Attributes:
        a: ``(R, in)``; for an embedding ``(vocabulary, R)``.
        b: ``(R, out)``, scales folded in, and weights too where ``weights`` is None.
        weights: ``(rows, 1, R)`` or None.
        row_scale: What DoRA multiplies the output by: ``(out,)``, ``(rows, 1, out)`` or None.
        shift: What is added to the output: ``(out,)``, ``(rows, 1, out)`` or None.
    """

    a: torch.Tensor
    b: torch.Tensor
    weights: torch.Tensor | None
    row_scale: torch.Tensor | None
    shift: torch.Tensor | None


class Stacker:
    """Reads factors once per session and stacks them for whatever set is wanted."""

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        """Factors are kept in float32 and handed out in ``dtype`` on ``device``."""
        self.device, self.dtype = device, dtype
        self._parts: dict[int, _Part] = {}

    def stack(
        self,
        module: nn.Module,
        sets: Sequence[ModulePlan | None],
        biases: Sequence[torch.Tensor | None],
        rows: Sequence[int] | None,
    ) -> Stacked:
        """The update of ``module`` for a batch whose row ``i`` uses ``sets[rows[i]]``.

        Args:
            module: The module of the base.
            sets: What each set of adapters does to it.
            biases: The bias that the module's own output has under each set.
            rows: The set of each row; None when the only set holds for all.

        Raises:
            IncompatibleAdapter: DoRA on a module whose weight cannot be known.
        """
        shares = {id(s.module): s for plan in sets if plan is not None for s in plan.shares}
        parts = [self._part(module, share.module) for share in shares.values()]
        table = torch.tensor(
            [[_weight(plan, key) for key in shares] for plan in sets], dtype=torch.float64
        )  # (sets, parts)
        uniform = rows is None
        folded = table[0].tolist() if uniform else [1.0] * len(parts)
        a, b = _joined(parts, folded, self.dtype)
        at = [0] if rows is None else list(rows)
        by_row = table[at]  # (rows, parts)
        ranks = torch.tensor([part.a.shape[0] for part in parts])
        weights = None if uniform else by_row.repeat_interleave(ranks, dim=1)
        row_scale, shift = _outer(parts, by_row, [biases[index] for index in at])
        embedding = next(iter(shares.values())).module.kind is ModuleKind.EMBEDDING
        return Stacked(
            a=self._placed(a.T if embedding else a),
            b=self._placed(b),
            weights=None if weights is None else self._placed(weights.unsqueeze(1)),
            row_scale=self._outer_placed(row_scale, uniform),
            shift=self._outer_placed(shift, uniform),
        )

    def _placed(self, value: torch.Tensor) -> torch.Tensor:
        return value.to(self.device, self.dtype).contiguous()

    def _outer_placed(self, value: torch.Tensor | None, uniform: bool) -> torch.Tensor | None:
        if value is None:
            return None
        return self._placed(value[0] if uniform else value.unsqueeze(1))

    def _part(self, module: nn.Module, adapted: AdaptedModule) -> _Part:
        found = self._parts.get(id(adapted))
        if found is None:
            found = self._parts[id(adapted)] = _read(module, adapted)
        return found


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Part:
    """One adapter's factors of one module, as they are in its file, scale folded into ``b``.

    ``owner`` keeps the adapted module alive, whose id is the key it is found by.
    """

    owner: AdaptedModule
    a: torch.Tensor  # (r, in) float32
    b: torch.Tensor  # (r, out) float64
    bias: torch.Tensor | None  # (out,) float64
    row_scale: torch.Tensor | None  # (out,) float64


def _weight(plan: ModulePlan | None, key: int) -> float:
    shares: Sequence[Share] = () if plan is None else plan.shares
    return next((share.weight for share in shares if id(share.module) == key), 0.0)


def _read(module: nn.Module, adapted: AdaptedModule) -> _Part:
    scale = adapted.scale.value
    a = to_torch(adapted.a).float().flatten(1)
    # float64 so that scale, weight and B meet in one rounding.
    b = to_torch(adapted.b).double().flatten(1) * scale  # (out, r)
    bias = None if adapted.bias_delta is None else to_torch(adapted.bias_delta).double() * scale
    row_scale = None
    if adapted.magnitude is not None:
        magnitude = to_torch(adapted.magnitude).double().flatten()
        row_scale = magnitude / _row_norms(module, b @ a.double(), adapted)
        b = b * row_scale.unsqueeze(1)
    return _Part(owner=adapted, a=a, b=b.T.contiguous(), bias=bias, row_scale=row_scale)


def _row_norms(module: nn.Module, delta: torch.Tensor, adapted: AdaptedModule) -> torch.Tensor:
    """``‖W + ΔW‖`` of every output row (Liu et al. 2024, equation 5)."""
    weight = base_weight(module, adapted.kind)  # (out, in)
    norms: torch.Tensor = (weight.double().cpu() + delta).norm(dim=1)
    return norms


def base_weight(module: nn.Module, kind: ModuleKind) -> torch.Tensor:
    """The weight ``(out, in)`` of a linear module or an embedding, quantised or not."""
    weight: Any = getattr(module, "weight", None)
    shape = (getattr(module, "out_features", None), getattr(module, "in_features", None))
    if kind in (ModuleKind.CONV1D, ModuleKind.EMBEDDING):
        return module.get_parameter("weight").T
    plain = type(weight) is nn.Parameter and type(weight.data) is torch.Tensor
    if plain and weight.is_floating_point() and tuple(weight.shape) == shape:
        floats: torch.Tensor = weight
        return floats
    return _through_forward(module, *shape)


def _through_forward(module: nn.Module, rows: object, columns: object) -> torch.Tensor:
    """A weight that only the module's forward knows: the images of the unit vectors."""
    if not isinstance(rows, int) or not isinstance(columns, int):
        raise IncompatibleAdapter(f"{type(module).__name__} does not tell its features")
    state = [*module.parameters(), *module.buffers()]
    device = state[0].device if state else torch.device("cpu")
    dtype = next(
        (t.dtype for t in state if t.is_floating_point() and t.itemsize > 1), torch.float32
    )
    zero = module(torch.zeros(1, columns, device=device, dtype=dtype)).double()
    images = [
        module(unit.to(device, dtype)).double() - zero
        for unit in torch.eye(columns).split(UNIT_ROWS)
    ]
    return torch.cat(images).T


def _joined(
    parts: Sequence[_Part], folded: Sequence[float], dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    a = torch.cat([part.a for part in parts])
    b = torch.cat([part.b * weight for part, weight in zip(parts, folded, strict=True)])
    return balanced(a, b) if dtype.itemsize == 2 else (a, b)


def balanced(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """``A`` and ``Bᵀ`` with rank columns scaled by powers of two, so that both are alike large.

    Their product is unchanged bit for bit; a small ``B`` would else lose digits below
    float16's smallest normal number.
    """
    peaks = [value.abs().amax(dim=1).double().clamp_min(1e-30) for value in (a, b)]
    shift = ((peaks[1].log2() - peaks[0].log2()) / 2).round().clamp(-60, 60)
    factor = torch.exp2(shift).unsqueeze(1)
    return (a.double() * factor).float(), b / factor


def _outer(
    parts: Sequence[_Part], by_row: torch.Tensor, biases: Sequence[torch.Tensor | None]
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """``row_scale`` and ``shift``, each ``(rows, out)`` float64 or None.

    DoRA scales ``W x`` and not the bias: ``(y - bias)·s + bias = y·s + bias·(1 - s)``.
    """
    width = parts[0].b.shape[1]
    row_scale = shift = None
    if any(part.row_scale is not None for part in parts):
        row_scale = torch.ones(len(by_row), width, dtype=torch.float64)
        for column, part in enumerate(parts):
            if part.row_scale is not None:
                uses = (by_row[:, column] != 0).unsqueeze(1)
                row_scale = torch.where(uses, part.row_scale, row_scale)
        none = torch.zeros(width, dtype=torch.float64)
        own = torch.stack([none if bias is None else bias.double().cpu() for bias in biases])
        shift = own * (1 - row_scale)
    for column, part in enumerate(parts):
        if part.bias is not None:
            added = by_row[:, column : column + 1] * part.bias
            shift = added if shift is None else shift + added
    return row_scale, shift
