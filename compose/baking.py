"""DoRA adapters made plain, given the weights of their base.

DoRA is ``W' = m · (W + sBA) / ‖W + sBA‖`` by rows (Liu et al. 2024, equation 5), so with
``c = m/‖W + sBA‖`` its update is ``diag(c)·sBA + diag(c−1)·W``: low rank only where ``c`` is
1 on all but a few rows. There it is written down exactly; elsewhere the best form of a rank
stands for it, and how far that is from it is said.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch

from adaptrix.compose.core import one_thread
from adaptrix.compose.elements import DENSE_ROWS, range_of
from adaptrix.compose.tensors import held, to_torch
from adaptrix.schema.adapter import AdaptedModule, Adapter, BaseRequirement, ModuleKind, Scale
from adaptrix.schema.digest import Digest
from adaptrix.schema.errors import IncompatibleAdapter

ONE = 1e-6
"""How far a row's factor may be from 1 and still be 1: rounding of a float32 magnitude."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BaseWeights:
    """Where the weights of a base model come from.

    Attributes:
        name: Its name.
        config_digest: Digest of its configuration.
        weight: The weight of the module at a path, as the base stores it.
    """

    name: str
    config_digest: Digest
    weight: Callable[[str], torch.Tensor]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Baked:
    """An adapter without magnitudes.

    Attributes:
        adapter: The adapter.
        modules: How many modules were baked.
        error: ``‖ΔW − ΔW_DoRA‖ / ‖ΔW_DoRA‖`` over those that could not be made plain exactly
            (Frobenius); 0 where there are none.
    """

    adapter: Adapter
    modules: int
    error: float


def bake(adapter: Adapter, base: BaseWeights, rank: int) -> Baked:
    """Make every DoRA module of ``adapter`` a plain one of at most ``rank`` if that must be.

    Raises:
        IncompatibleAdapter: the base has no such module, or one of another shape.
    """
    modules, wrong, size, count = [], 0.0, 0.0, 0
    with one_thread():
        for module in adapter.modules:
            if module.magnitude is None:
                modules.append(module)
                continue
            made, lost, energy = _baked(module, base.weight(module.path), rank)
            modules.append(made)
            wrong, size, count = wrong + lost, size + energy, count + 1
    needs = adapter.needs_base
    plain = replace(
        adapter,
        modules=tuple(modules),
        method="lora",
        needs_base=BaseRequirement.NONE if needs is BaseRequirement.MERGE else needs,
    )
    return Baked(adapter=plain, modules=count, error=math.sqrt(wrong / size) if size else 0.0)


def _baked(
    module: AdaptedModule, weight: torch.Tensor, rank: int
) -> tuple[AdaptedModule, float, float]:
    """The plain module, and the squares of what it lacks and of what was wanted."""
    turned = module.kind in (ModuleKind.CONV1D, ModuleKind.EMBEDDING)
    rows = (weight.T if turned else weight).flatten(1)  # (out, in)
    up = to_torch(module.b).double().flatten(1) * module.scale.value
    down = to_torch(module.a).double().flatten(1)
    if tuple(rows.shape) != (up.shape[0], down.shape[1]) or module.magnitude is None:
        raise IncompatibleAdapter(
            f"the base's weight is {tuple(rows.shape)}, the adapter's "
            f"{(up.shape[0], down.shape[1])}",
            where=module.path,
        )

    def totals() -> Iterator[tuple[slice, torch.Tensor]]:
        for start in range(0, len(rows), DENSE_ROWS):
            part = slice(start, start + DENSE_ROWS)
            yield part, rows[part].double()

    norms = torch.cat([(own + up[part] @ down).norm(dim=1) for part, own in totals()])
    factors = to_torch(module.magnitude).double().flatten() / norms
    moved = ((factors - 1).abs() > ONE).nonzero().flatten()
    if module.rank + len(moved) <= max(rank, module.rank):
        new_up = torch.zeros(len(rows), len(moved), dtype=torch.float64)
        new_up[moved, torch.arange(len(moved))] = factors[moved] - 1
        ups = torch.cat([factors[:, None] * up, new_up], dim=1)
        downs = torch.cat([down, rows[moved].double()])
        return _plain(module, ups, downs), 0.0, 0.0

    def updates() -> Iterator[torch.Tensor]:
        for part, own in totals():
            yield (factors[part, None] * (own + up[part] @ down) - own).float()

    ups, downs = range_of(updates, (rows.shape[0], rows.shape[1]), rank)
    lost = energy = 0.0
    for (part, _), block in zip(totals(), updates(), strict=True):
        wide = block.double()
        lost += float((wide - ups[part] @ downs).square().sum())
        energy += float(wide.square().sum())
    return _plain(module, ups, downs), lost, energy


def _plain(module: AdaptedModule, up: torch.Tensor, down: torch.Tensor) -> AdaptedModule:
    rank = up.shape[1]
    bias = module.bias_delta
    folded = None if bias is None else (to_torch(bias).double() * module.scale.value).float()
    return replace(
        module,
        a=held(down.float().reshape(rank, *module.a.shape[1:]), f"baked:{module.path}.A"),
        b=held(up.float().reshape(-1, rank, *module.b.shape[2:]), f"baked:{module.path}.B"),
        scale=Scale.from_alpha(rank, rank),
        magnitude=None,
        bias_delta=None if folded is None else held(folded, f"baked:{module.path}.bias"),
    )
