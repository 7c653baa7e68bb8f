"""One module merged: by stacking, on cores, entry by entry, or on factors as they stand.

Cores are worked on in float64; what is written is rounded once, and that rounding is part of
the error that is reported.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from adaptrix.compose.core import NULL, Core, canonical, core_of, published, signs_of
from adaptrix.compose.elements import dense, in_basis, range_of
from adaptrix.compose.inputs import Group, Share
from adaptrix.compose.linear import Part, distance, is_exact, stacked, weighted_bias
from adaptrix.compose.method import (
    Coefficients,
    Cores,
    Entries,
    Exact,
    Factors,
    Method,
    Product,
    product,
)
from adaptrix.compose.settings import Settings
from adaptrix.compose.tensors import held, widest
from adaptrix.schema.adapter import AdaptedModule, Scale
from adaptrix.schema.errors import Refused, UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """One merged module.

    Attributes:
        away: Square of its distance from the sum before rounding.
        rounding: Square of its rounding error.
        size: Square of the sum's norm; None for an exact sum, where nobody has asked yet.
        parts: What an exact sum consists of.
    """

    module: AdaptedModule
    away: float
    rounding: float
    size: float | None
    parts: tuple[Part, ...] = ()

    def norm_squared(self) -> float:
        """``‖Σ‖²``, computed now if need be."""
        return self.size if self.size is not None else distance(self.module, self.parts)[1]


def merge_module(group: Group, chosen: Method, space: str, settings: Settings) -> Done:
    """Merge one module."""
    if chosen.before is not None:
        return _prepared(group, chosen, settings)
    match chosen.how:
        case Exact():
            return _summed(group, group.weights)
        case Coefficients(find=of_gram):
            gram = gram_of(group.shares)
            return _summed(group, of_gram(gram, group, settings), gram)
        case Cores(merge=merge, of_one=of_one):
            if len(group.shares) == 1 and not of_one:
                scale = settings.get("scale") or 1.0
                return _summed(group, [scale * group.weights[0]], gram_of(group.shares))
            found = merge(core_of(group.shares), group.weights, settings)
            return _lifted(group, found, settings)
        case Factors(merge=of_factors, mean=mean):
            up, down = of_factors(group, settings)
            share = 1 / group.count if mean else 1.0
            biases = [share * weight for weight in group.weights]
            return _written(group, up, down, *_from_sum(group, up, down), biases)
        case Entries() as how if space == "dense":
            return _dense(group, how, settings)
        case Entries() as how:
            core = core_of(group.shares)
            turned = canonical(core) if space == "canonical" else published(core, group.shares)
            return _lifted(group, _entrywise(turned, how, group, settings), settings)


def _entrywise(core: Core, how: Entries, group: Group, settings: Settings) -> Product:
    """Entry by entry in the bases of ``core``."""
    elements = in_basis(core.parts, lambda: _draws(group.shares, settings))
    merged = how.begin(elements, group.weights, settings)()(list(core.parts))
    return product(core, merged, group.weights)


def _prepared(group: Group, chosen: Method, settings: Settings) -> Done:
    """A method on updates that a step before it has changed."""
    if chosen.before is None:
        raise ValueError(chosen.name)
    core = chosen.before(canonical(core_of(group.shares)))
    match chosen.how:
        case Exact():
            found = product(core, core.sum(group.weights), group.weights)
        case Coefficients(find=of_gram):
            middle = core.sum(of_gram(core.gram(), group, settings))
            found = product(core, middle, group.weights)
        case Cores(merge=merge):
            found = merge(core, group.weights, settings)
        case Entries() as how:
            found = _entrywise(canonical(core), how, group, settings)
        case Factors():
            raise UsageError(f"{chosen.name} takes factors as they stand", where="--method")
    wanted = sum(abs(share.weight) * length for share, length in zip(
        group.shares, gram_of(group.shares).diagonal().clamp(min=0).sqrt().tolist(), strict=True
    )) / len(group.shares)  # fmt: skip
    size = float(found.middle.norm())
    middle = found.middle * (wanted / size if size > 0 else 0.0)
    return _lifted(group, replace(found, middle=middle, total=None), settings)


def parts_of(group: Group, coefficients: Sequence[float]) -> list[Part]:
    """The updates of a group with coefficients, as parts of a sum."""
    return [
        Part(module=share.module, factor=c * share.module.scale.value)
        for share, c in zip(group.shares, coefficients, strict=True)
    ]


def gram_of(shares: Sequence[Share]) -> torch.Tensor:
    """Inner products of updates ``(T, T)``: ``⟨BᵢAᵢ, BⱼAⱼ⟩ = Σ (BᵢᵀBⱼ)∘(AᵢAⱼᵀ)``."""
    up = torch.cat([share.up() for share in shares], dim=1)
    down = torch.cat([share.down() for share in shares])
    products = (up.T @ up) * (down @ down.T)
    owner = torch.repeat_interleave(
        torch.arange(len(shares)), torch.tensor([share.module.rank for share in shares])
    )
    pick = torch.nn.functional.one_hot(owner, len(shares)).double()
    return pick.T @ products @ pick


def _summed(group: Group, coefficients: Sequence[float], gram: torch.Tensor | None = None) -> Done:
    """``Σ cₜ ΔW_t`` by stacking."""
    parts = parts_of(group, coefficients)
    module = stacked(group.path, parts)
    if gram is None and is_exact(parts):
        # The norm would cost more than the sum, and is wanted only if another module rounds.
        return Done(module=module, away=0.0, rounding=0.0, size=None, parts=tuple(parts))
    rounding, size = distance(module, parts)
    if gram is None:
        return Done(module=module, away=0.0, rounding=rounding, size=size)
    wanted = torch.tensor(group.weights, dtype=torch.float64)
    difference = torch.tensor(coefficients, dtype=torch.float64) - wanted
    return Done(
        module=module,
        away=max(0.0, float(difference @ gram @ difference)),
        rounding=rounding,
        size=max(0.0, float(wanted @ gram @ wanted)),
    )


def _lifted(group: Group, found: Product, settings: Settings) -> Done:
    """A merged core as a module, cut to the rank or energy that is asked for."""
    u, sizes, v = torch.linalg.svd(found.middle, full_matrices=False)
    kept = _kept(sizes, settings)
    signs = signs_of(u)[:kept]
    # Both factors carry the square root, so that neither underflows in half precision.
    roots = sizes[:kept].sqrt() * signs
    up = found.left @ (u[:, :kept] * roots)
    down = v[:kept] if found.right is None else v[:kept] @ found.right.T
    down = down * roots[:, None]
    if found.total is None:
        return _written(group, up, down, *_from_sum(group, up, down))
    cut = (u[:, :kept] * sizes[:kept]) @ v[:kept]
    away, size = (cut - found.total).square().sum(), found.total.square().sum()
    return _written(group, up, down, float(away), float(size))


def _kept(sizes: torch.Tensor, settings: Settings) -> int:
    """How many singular values are kept."""
    real = max(1, int((sizes > float(sizes[0]) * NULL).sum()))
    rank, energy = settings.get("rank"), settings.get("energy")
    if energy is not None:
        held = sizes.square().cumsum(0)
        # The share is reached up to rounding of the sum.
        real = min(real, int((held < energy * float(held[-1]) * (1 - 1e-12)).sum()) + 1)
    return min(real, int(rank)) if rank is not None else real


def _dense(group: Group, how: Entries, settings: Settings) -> Done:
    """Entrywise on the updates themselves, tile by tile, at the best form of a rank."""
    rank = settings.get("rank")
    if rank is None:
        raise UsageError(
            "a dense result has full rank", where="rank", hint="Give --rank with @dense."
        )
    elements = dense(group.shares, lambda: _draws(group.shares, settings))
    start = how.begin(elements, group.weights, settings)

    def rows() -> Iterator[torch.Tensor]:
        apply = start()
        return (apply(parts) for parts in elements.blocks())

    up, down = range_of(rows, elements.shape, int(rank))
    return _written(group, up, down, *_from_sum(group, up, down))


def _draws(shares: Sequence[Share], settings: Settings) -> list[torch.Generator]:
    return [share.generator(settings.seed) for share in shares]


def _written(
    group: Group,
    up: torch.Tensor,
    down: torch.Tensor,
    away: float,
    size: float,
    biases: Sequence[float] = (),
) -> Done:
    """``B (out, k)``, ``A (k, in)`` in float64 as a module, rounded once."""
    first = group.shares[0].module
    dtype = widest([t.dtype for s in group.shares for t in (s.module.a, s.module.b)])
    b, a = up.to(dtype), down.to(dtype)
    if not (bool(b.isfinite().all()) and bool(a.isfinite().all())):
        raise Refused(f"the result overflows {dtype}", where=group.path, code="overflow")
    rank, kernel = up.shape[1], first.a.shape[1:]
    module = replace(
        first,
        a=held(a.reshape(rank, *kernel), f"composed:{group.path}.A"),
        b=held(b.reshape(-1, rank, *first.b.shape[2:]), f"composed:{group.path}.B"),
        source=group.path,
        scale=Scale.from_alpha(rank, rank),
        bias_delta=weighted_bias(group.path, parts_of(group, biases or group.weights), 1.0, dtype),
    )
    up, down = up.double(), down.double()
    # bA − up·down = (b − up)·down + b·(a − down): nothing cancels.
    ups = torch.cat([b.double() - up, b.double()], dim=1)
    downs = torch.cat([down, a.double() - down])
    rounding = float(((ups.T @ ups) * (downs @ downs.T)).sum())
    return Done(module=module, away=away, rounding=max(0.0, rounding), size=size)


def _from_sum(group: Group, up: torch.Tensor, down: torch.Tensor) -> tuple[float, float]:
    """``‖up·down − Σ‖²`` and ``‖Σ‖²``, nothing multiplied out; good to 1e-8 of the norm."""
    exact = [share.weight * share.up() for share in group.shares]
    ups = torch.cat([up.double(), *(-part for part in exact)], dim=1)
    downs = torch.cat([down.double(), *(share.down() for share in group.shares)])
    products = (ups.T @ ups) * (downs @ downs.T)
    rank = up.shape[1]
    return max(0.0, float(products.sum())), float(products[rank:, rank:].sum())
