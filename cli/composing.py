"""What the commands about composing share: registry and loader, joined."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from adaptrix.cli.parsing import weighted
from adaptrix.cli.quieting import quiet_libraries
from adaptrix.schema.errors import UsageError

if TYPE_CHECKING:
    from adaptrix.cli.output import Output
    from adaptrix.compose.baking import BaseWeights
    from adaptrix.loader.learning import LearnedWeights
    from adaptrix.registry.recipe_files import Ingredient, RecipeFile
    from adaptrix.registry.reports import ComposeReport


def base_weights(spec: str | None) -> BaseWeights | None:
    """The weights of a base, loaded; None for none.

    Raises:
        AdaptrixError: it cannot be loaded.
    """
    if spec is None:
        return None
    quiet_libraries()
    from adaptrix.loader.base import load_base  # noqa: PLC0415 - loads a model
    from adaptrix.loader.weights import weights_of  # noqa: PLC0415

    return weights_of(load_base(spec))


def gram_files(texts: Sequence[str]) -> dict[str, Path]:
    """``NAME=FILE`` by name.

    Raises:
        UsageError: it is not, or a name is given twice.
    """
    found: dict[str, Path] = {}
    for text in texts:
        name, equals, path = text.partition("=")
        if not name or not equals or not path:
            raise UsageError("expected NAME=FILE", where=f"--grams {text}")
        if name in found:
            raise UsageError("a file of Gram matrices is given twice", where=name)
        found[name] = Path(path)
    return found


def ingredients(
    written: RecipeFile | None, adapters: Sequence[str], grams: Mapping[str, Path]
) -> list[Ingredient]:
    """What the recipe or the line asks for, with files of Gram matrices.

    Raises:
        UsageError: Gram matrices of an adapter that takes no part.
    """
    from adaptrix.registry.recipe_files import Ingredient  # noqa: PLC0415 - yaml

    if written is not None:
        found = list(written.inputs)
    else:
        pairs = [weighted(text) for text in adapters]
        found = [Ingredient(reference=name, weight=weight) for name, weight in pairs]
    unknown = sorted(grams.keys() - {entry.reference for entry in found})
    if unknown:
        raise UsageError("this adapter takes no part", where=f"--grams {unknown[0]}")
    return [replace(entry, grams=grams.get(entry.reference, entry.grams)) for entry in found]


def print_report(report: ComposeReport, out: Output) -> None:
    """One line on the result, one on every input that was made plain."""
    line = (
        f"{report.reference}  {report.status}  {report.modules} modules  "
        f"rank {', '.join(map(str, report.ranks))}  {report.fidelity}  "
        f"relative error {report.error:.2g}"
    )
    lines = [line]
    lines += [
        f"  {row.reference}: {row.modules} DoRA modules made plain, relative error {row.error:.2g}"
        for row in report.baked
    ]
    fields = {name: getattr(report, name) for name in report.__slots__}
    out.document(fields, lines=lines, ids=[str(report.digest or report.reference)])
    if report.status != "planned":
        out.hint(f"adaptrix run --adapters {report.reference.removesuffix(':latest')} -p TEXT")


def learned_recipe(found: LearnedWeights) -> RecipeFile:
    """An exact sum with the learned weights, by layer."""
    from adaptrix.registry.recipe_files import Ingredient, RecipeFile  # noqa: PLC0415 - yaml
    from adaptrix.schema.recipe import WeightRule  # noqa: PLC0415

    return RecipeFile(
        inputs=tuple(
            Ingredient(
                reference=name,
                weight=weights.get(None, 1.0),
                rules=tuple(
                    WeightRule(weight=weight, layers=(layer, layer))
                    for layer, weight in weights.items()
                    if layer is not None
                ),
            )
            for name, weights in found.weights.items()
        )
    )
