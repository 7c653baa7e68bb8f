"""One merge from start to end: check, merge module by module, measure the error.

Cores are worked on in float64; the result is written in the widest dtype of the inputs. The
error is that of the result, its rounding included, against the exact weighted sum.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from adaptrix.compose.core import NULL, canonical, core_of, one_thread, published, signs_of
from adaptrix.compose.elements import dense, in_basis, range_of
from adaptrix.compose.inputs import Group, Input, Share, groups, present
from adaptrix.compose.linear import Part, distance, is_exact, stacked, weighted_bias
from adaptrix.compose.method import Coefficients, Cores, Entries, Exact, Method, Product, product
from adaptrix.compose.methods import find
from adaptrix.compose.refusals import check_composable
from adaptrix.compose.settings import ENERGY, RANK, Parameter, Settings, resolve
from adaptrix.compose.tensors import held, widest
from adaptrix.schema.adapter import AdaptedModule, Adapter, Scale
from adaptrix.schema.errors import Refused, UsageError
from adaptrix.schema.report import Fidelity

_SAME = 1e-7
"""Relative distance below which a merge is the weighted sum."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Composition:
    """A composed adapter.

    Attributes:
        adapter: The result, in canonical form.
        fidelity: How it relates to the weighted sum: ``exact``, ``rounding``, or
            ``approximate`` where the method makes something else of it.
        relative_error: ``‖ΔW − Σ wₜ ΔW_t‖ / ‖Σ wₜ ΔW_t‖`` over all modules (Frobenius), the
            result's rounding included; infinite when the sum is zero and the result is not.
    """

    adapter: Adapter
    fidelity: Fidelity
    relative_error: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Done:
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


def combine(
    inputs: Sequence[Input],
    method: str = "linear",
    parameters: Mapping[str, float] | None = None,
    *,
    seed: int = 0,
) -> Composition:
    """Merge ``inputs``.

    Adapters with weight 0 are left out. What an adapter lacks, it leaves to the others.

    Args:
        inputs: Adapters with weights.
        method: ``NAME`` or ``NAME@SPACE`` of :data:`~adaptrix.compose.methods.METHODS`.
        parameters: Values of the method's parameters.
        seed: Seed of what is drawn; random numbers depend on it and on the adapters only.

    Raises:
        UsageError: no such method or parameter, a bad weight, nothing to combine.
        IncompatibleAdapter: the adapters do not fit each other; the module is named.
    """
    chosen, space = find(method)
    settings = resolve(accepted(chosen, space), parameters or {}, method=method, seed=seed)
    here = present(inputs)
    if isinstance(chosen.how, Coefficients) and chosen.how.pairs_only and len(here) > 2:
        raise UsageError(
            f"{chosen.name} is for two adapters, not {len(here)}",
            where="--method",
            hint="multislerp and karcher take any number.",
        )
    check_composable([(entry.adapter, _strength(entry)) for entry in here])
    if len(here) == 1 and _strength(here[0]) == 1 and _leaves_one(chosen, settings):
        return Composition(adapter=here[0].adapter, fidelity=Fidelity.EXACT, relative_error=0.0)
    with one_thread():
        done = [_merge(group, chosen, space, settings) for group in groups(here)]
    return Composition(
        adapter=_assembled(here, tuple(entry.module for entry in done)),
        fidelity=_fidelity(done),
        relative_error=_error(done, rounding=True),
    )


def accepted(chosen: Method, space: str) -> tuple[Parameter, ...]:
    """The parameters of a method: entrywise ones may also bound the rank of what they make."""
    if not isinstance(chosen.how, Entries):
        return chosen.parameters
    return (*chosen.parameters, RANK) if space == "dense" else (*chosen.parameters, RANK, ENERGY)


def _strength(entry: Input) -> float:
    """Its weight when it is the same everywhere, else something that is not 1."""
    return entry.weight if not entry.rules else 0.5


def _leaves_one(chosen: Method, settings: Settings) -> bool:
    """Whether a single adapter with weight 1 comes out as it went in, to the bit."""
    if settings.get("scale") not in (None, 1.0):
        return False
    match chosen.how:
        case Entries():
            free = settings.values.keys().isdisjoint({"rank", "energy"})
            return free and all(
                p.neutral is None or settings[p.name] == p.neutral for p in chosen.parameters
            )
        case Cores(of_one=True):
            return not settings.values
        case _:
            return True


def _merge(group: Group, chosen: Method, space: str, settings: Settings) -> _Done:
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
        case Entries() as how if space == "dense":
            return _dense(group, how, settings)
        case Entries(begin=begin):
            core = core_of(group.shares)
            turned = canonical(core) if space == "canonical" else published(core, group.shares)
            elements = in_basis(turned.parts, lambda: _draws(group.shares, settings))
            merged = begin(elements, group.weights, settings)()(list(turned.parts))
            return _lifted(group, product(turned, merged, group.weights), settings)


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


def _summed(group: Group, coefficients: Sequence[float], gram: torch.Tensor | None = None) -> _Done:
    """``Σ cₜ ΔW_t`` by stacking."""
    parts = parts_of(group, coefficients)
    module = stacked(group.path, parts)
    if gram is None and is_exact(parts):
        # The norm would cost more than the sum, and is wanted only if another module rounds.
        return _Done(module=module, away=0.0, rounding=0.0, size=None, parts=tuple(parts))
    rounding, size = distance(module, parts)
    if gram is None:
        return _Done(module=module, away=0.0, rounding=rounding, size=size)
    wanted = torch.tensor(group.weights, dtype=torch.float64)
    difference = torch.tensor(coefficients, dtype=torch.float64) - wanted
    return _Done(
        module=module,
        away=max(0.0, float(difference @ gram @ difference)),
        rounding=rounding,
        size=max(0.0, float(wanted @ gram @ wanted)),
    )


def _lifted(group: Group, found: Product, settings: Settings) -> _Done:
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


def _dense(group: Group, how: Entries, settings: Settings) -> _Done:
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


def _written(group: Group, up: torch.Tensor, down: torch.Tensor, away: float, size: float) -> _Done:
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
        bias_delta=weighted_bias(group.path, parts_of(group, group.weights), 1.0, dtype),
    )
    # bA − up·down = (b − up)·down + b·(a − down): nothing cancels.
    ups = torch.cat([b.double() - up, b.double()], dim=1)
    downs = torch.cat([down, a.double() - down])
    rounding = float(((ups.T @ ups) * (downs @ downs.T)).sum())
    return _Done(module=module, away=away, rounding=max(0.0, rounding), size=size)


def _from_sum(group: Group, up: torch.Tensor, down: torch.Tensor) -> tuple[float, float]:
    """``‖up·down − Σ‖²`` and ``‖Σ‖²``, nothing multiplied out; good to 1e-8 of the norm."""
    exact = [share.weight * share.up() for share in group.shares]
    ups = torch.cat([up, *(-part for part in exact)], dim=1)
    downs = torch.cat([down, *(share.down() for share in group.shares)])
    products = (ups.T @ ups) * (downs @ downs.T)
    rank = up.shape[1]
    return max(0.0, float(products.sum())), float(products[rank:, rank:].sum())


def _fidelity(done: Sequence[_Done]) -> Fidelity:
    if _error(done, rounding=False) > _SAME:
        return Fidelity.APPROXIMATE
    rounded = any(entry.rounding or entry.away for entry in done)
    return Fidelity.ROUNDING if rounded else Fidelity.EXACT


def _error(done: Sequence[_Done], *, rounding: bool) -> float:
    wrong = sum(entry.away + (entry.rounding if rounding else 0.0) for entry in done)
    if wrong == 0:
        return 0.0
    size = sum(entry.norm_squared() for entry in done)
    return math.sqrt(wrong / size) if size > 0 else math.inf


def _assembled(here: Sequence[Input], modules: tuple[AdaptedModule, ...]) -> Adapter:
    first = here[0].adapter
    replacements = [item for entry in here for item in entry.adapter.replacements]
    return Adapter(
        modules=modules,
        replacements=tuple(sorted(replacements, key=lambda item: item.parameter)),
        family=first.family,
        base_name=first.base_name,
        base_revision=first.base_revision,
        format="composed",
        layout="transformers",
        method="lora",
        task_type=first.task_type,
    )
