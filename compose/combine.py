"""One merge from start to end: check, merge module by module, measure the error.

Cores are worked on in float64; the result is written in the widest dtype of the inputs. The
error is that of the result, its rounding included, against the exact weighted sum.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from adaptrix.compose.core import one_thread
from adaptrix.compose.inputs import Group, Input, groups, present
from adaptrix.compose.method import Coefficients, Cores, Entries, Factors, Method
from adaptrix.compose.methods import find
from adaptrix.compose.modules import Done, merge_module
from adaptrix.compose.refusals import check_composable
from adaptrix.compose.settings import ENERGY, RANK, Parameter, Settings, resolve
from adaptrix.schema.adapter import AdaptedModule, Adapter
from adaptrix.schema.errors import UsageError
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
    chosen_groups = groups(here)
    if isinstance(chosen.how, Factors) and chosen.how.needs_grams:
        _check_grams(chosen_groups)
    with one_thread():
        done = [merge_module(group, chosen, space, settings) for group in chosen_groups]
    return Composition(
        adapter=_assembled(here, tuple(entry.module for entry in done)),
        fidelity=_fidelity(done),
        relative_error=_error(done, rounding=True),
    )


def _check_grams(chosen: Sequence[Group]) -> None:
    for group in chosen:
        known = [*(share.gram for share in group.shares), *group.others]
        if any(gram is None for gram in known):
            raise UsageError(
                "regmean needs the Gram matrix of this module's inputs for every adapter",
                where=group.path,
                hint="adaptrix grams NAME --prompts FILE -o FILE.safetensors, then "
                "--grams NAME=FILE.safetensors.",
            )
        width = group.shares[0].module.in_features
        for gram in known:
            if gram is not None and gram.shape not in {(width,), (width, width)}:
                raise UsageError(
                    f"expected a Gram matrix of shape {(width, width)}, got {gram.shape}",
                    where=f"{group.path} ({gram.source})",
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
        case Factors() | Entries():
            free = settings.values.keys().isdisjoint({"rank", "energy"})
            return free and all(
                p.neutral is None or settings[p.name] == p.neutral for p in chosen.parameters
            )
        case Cores(of_one=True):
            return not settings.values
        case _:
            return True


def _fidelity(done: Sequence[Done]) -> Fidelity:
    if _error(done, rounding=False) > _SAME:
        return Fidelity.APPROXIMATE
    rounded = any(entry.rounding or entry.away for entry in done)
    return Fidelity.ROUNDING if rounded else Fidelity.EXACT


def _error(done: Sequence[Done], *, rounding: bool) -> float:
    wrong = sum(entry.away + (entry.rounding if rounding else 0.0) for entry in done)
    if wrong == 0:
        return 0.0
    size = sum(entry.norm_squared() for entry in done)
    return math.sqrt(wrong / size) if size > 0 else math.inf


def _assembled(here: Sequence[Input], modules: tuple[AdaptedModule, ...]) -> Adapter:
    first = here[0].adapter
    # One per parameter: where two adapters have one, it is the same to the bit.
    replacements = {item.parameter: item for e in here for item in e.adapter.replacements}
    return Adapter(
        modules=modules,
        replacements=tuple(replacements[name] for name in sorted(replacements)),
        family=first.family,
        base_name=first.base_name,
        base_revision=first.base_revision,
        format="composed",
        layout="transformers",
        method="lora",
        task_type=first.task_type,
    )
