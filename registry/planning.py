"""Look at a composition before it is made: no torch, so that the answer comes at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from adaptrix.compose.inputs import Input
from adaptrix.compose.planning import Plan
from adaptrix.compose.planning import plan as look_ahead
from adaptrix.registry.looking import open_version
from adaptrix.registry.recipe_files import Ingredient
from adaptrix.registry.reports import StoredAdapter
from adaptrix.schema.errors import UsageError
from adaptrix.store.home import Home

if TYPE_CHECKING:
    from adaptrix.compose.baking import BaseWeights


def plan(
    home: Home,
    inputs: Sequence[Ingredient],
    *,
    rank: int | None,
    base: BaseWeights | None = None,
    bake_rank: int = 64,
) -> Plan:
    """See :meth:`Registry.plan`.

    Raises:
        UsageError: no inputs, or a bad weight.
        IncompatibleAdapter: they cannot be combined.
    """
    if not inputs:
        raise UsageError("give at least one adapter", where="compose")
    with home.lease():
        parents = [open_version(home, entry.reference) for entry in inputs]
        refuse_twice(parents)
        if base is not None:
            from adaptrix.registry.ingredients import prepare  # noqa: PLC0415 - imports torch

            ready = [entry.input for entry in prepare(parents, inputs, base, bake_rank)]
        else:
            ready = [
                Input(adapter=parent.adapter, weight=entry.weight, rules=entry.rules)
                for parent, entry in zip(parents, inputs, strict=True)
            ]
        return look_ahead(ready, rank=rank)


def refuse_twice(parents: Sequence[StoredAdapter]) -> None:
    """Refuse ``a a:latest``: it would count one adapter twice.

    Raises:
        UsageError: two of them are the same name and tag.
    """
    seen: set[str] = set()
    for parent in parents:
        if parent.reference in seen:
            raise UsageError("an adapter is named twice", where=parent.reference)
        seen.add(parent.reference)
