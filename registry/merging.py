"""The registry's verbs about making adapters from others."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from adaptrix.compose.baking import BaseWeights
    from adaptrix.compose.planning import Plan
    from adaptrix.registry.recipe_files import Ingredient
    from adaptrix.registry.reports import ComposeReport
    from adaptrix.store.home import Home


class Merging(ABC):
    """Part of :class:`adaptrix.registry.registry.Registry`."""

    @property
    @abstractmethod
    def home(self) -> Home:
        """The store."""

    def compose(
        self,
        inputs: Sequence[str | tuple[str, float] | Ingredient],
        *,
        output: str,
        method: str = "linear",
        parameters: Mapping[str, float] | None = None,
        seed: int = 0,
        description: str = "",
        allow_license_conflict: bool = False,
        base: BaseWeights | None = None,
        bake_rank: int = 64,
        dry_run: bool = False,
    ) -> ComposeReport:
        """Make a new version from others, without the base model.

        Args:
            inputs: References (weight 1), pairs with a weight, or ingredients with rules.
            output: ``NAME[:TAG]``.
            method: ``NAME`` or ``NAME@SPACE`` of ``adaptrix compose --methods``.
            parameters: Values of the method's parameters.
            seed: Seed of methods that draw.
            description: Kept in the manifest.
            allow_license_conflict: Carry conflicting licences as ``A AND B``.
            base: Weights of the base, with which DoRA inputs are made plain.
            bake_rank: Greatest rank of a module where that is not exact.
            dry_run: Check and report, store nothing.
        """
        from adaptrix.registry.composing import ComposeRequest, compose  # noqa: PLC0415 - torch

        return compose(
            self.home,
            ComposeRequest(
                inputs=_ingredients(inputs),
                output=output,
                method=method,
                parameters=parameters or {},
                seed=seed,
                description=description,
                allow_license_conflict=allow_license_conflict,
                base=base,
                bake_rank=bake_rank,
                dry_run=dry_run,
            ),
        )

    def plan(
        self,
        inputs: Sequence[str | tuple[str, float] | Ingredient],
        *,
        rank: int | None = None,
        base: BaseWeights | None = None,
        bake_rank: int = 64,
    ) -> Plan:
        """What composing ``inputs`` would meet, without composing them.

        Args:
            inputs: References (weight 1), pairs with a weight, or ingredients with rules.
            rank: Rank to predict losses for; the greatest of any input by default.
            base: Weights of the base, with which DoRA inputs are made plain.
            bake_rank: Greatest rank of a module where that is not exact.
        """
        from adaptrix.registry.planning import plan  # noqa: PLC0415 - reads formats

        return plan(self.home, _ingredients(inputs), rank=rank, base=base, bake_rank=bake_rank)

    def rebase(
        self,
        reference: str,
        *,
        base: BaseWeights | None = None,
        grams: Mapping[str, Path] | None = None,
        dry_run: bool = False,
    ) -> ComposeReport:
        """Make a composition again from what its parents' names point to now.

        Nothing changes when they have not moved.

        Args:
            reference: ``NAME[:TAG]`` of the composition.
            base: Weights of the base, where it was made with them.
            grams: Files of Gram matrices by parent, likewise.
            dry_run: Check and report, store nothing.
        """
        from adaptrix.registry.composing import rebase  # noqa: PLC0415 - imports torch

        return rebase(self.home, reference, dry_run=dry_run, base=base, grams=grams)


def _ingredients(inputs: Sequence[str | tuple[str, float] | Ingredient]) -> list[Ingredient]:
    from adaptrix.registry.recipe_files import Ingredient  # noqa: PLC0415 - yaml

    found = []
    for entry in inputs:
        if isinstance(entry, Ingredient):
            found.append(entry)
        else:
            # A bare text would unpack into its characters.
            reference, weight = (entry, 1.0) if isinstance(entry, str) else entry
            found.append(Ingredient(reference=reference, weight=weight))
    return found
