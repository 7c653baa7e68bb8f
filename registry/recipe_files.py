"""Recipe files: a composition written down in YAML.

Keys: ``method`` (``NAME`` or ``NAME@SPACE``), ``parameters``, ``seed`` and ``inputs``, a list
of names or of tables with ``adapter``, ``weight``, ``layers`` (``{0-9: 0.2}``), ``modules``
(``{"*.mlp.*": 0}``) and ``grams`` (a file beside the recipe). See docs/composition.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from adaptrix.schema.errors import FormatError, NotFound
from adaptrix.schema.recipe import WeightRule

MAX_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Ingredient:
    """One input of a composition, as people write it.

    Attributes:
        reference: Name of the adapter.
        weight: Its weight.
        rules: Other weights for some modules.
        grams: safetensors file with a Gram matrix per module, for methods that need them.
    """

    reference: str
    weight: float = 1.0
    rules: tuple[WeightRule, ...] = ()
    grams: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipeFile:
    """What a recipe file says."""

    inputs: tuple[Ingredient, ...]
    method: str = "linear"
    parameters: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0


def read_recipe(path: Path) -> RecipeFile:
    """Read a recipe file.

    Raises:
        NotFound: there is none.
        FormatError: it is no recipe; the place is named.
    """
    if not path.is_file():
        raise NotFound("no such recipe file", where=str(path))
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise FormatError("a recipe file of more than 1 MiB", where=str(path))
    try:
        document = yaml.safe_load(data)
    except yaml.YAMLError as error:
        raise FormatError(f"no YAML: {' '.join(str(error).split())}", where=str(path)) from error
    return _recipe(document, str(path))


def _recipe(document: Any, where: str) -> RecipeFile:
    table = _table(document, where, {"method", "parameters", "seed", "inputs"})
    inputs = table.get("inputs")
    if not isinstance(inputs, list) or not inputs:
        raise FormatError("expected a list of adapters", where=f"{where}: inputs")
    parameters = _table(table.get("parameters") or {}, f"{where}: parameters", None)
    seed = table.get("seed", 0)
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise FormatError(f"expected a whole number, got {seed!r}", where=f"{where}: seed")
    return RecipeFile(
        inputs=tuple(
            _ingredient(entry, f"{where}: inputs[{n}]", Path(where).parent)
            for n, entry in enumerate(inputs)
        ),
        method=str(table.get("method", "linear")),
        parameters={name: _number(value, f"{where}: {name}") for name, value in parameters.items()},
        seed=seed,
    )


def _ingredient(entry: Any, where: str, folder: Path) -> Ingredient:
    if isinstance(entry, str):
        return Ingredient(reference=entry)
    table = _table(entry, where, {"adapter", "weight", "layers", "modules", "grams"})
    if not isinstance(table.get("adapter"), str):
        raise FormatError("expected the name of an adapter", where=f"{where}: adapter")
    grams = table.get("grams")
    if grams is not None and not isinstance(grams, str):
        raise FormatError(f"expected a file name, got {grams!r}", where=f"{where}: grams")
    layers = _table(table.get("layers") or {}, f"{where}: layers", None)
    modules = _table(table.get("modules") or {}, f"{where}: modules", None)
    rules = [
        WeightRule(weight=_number(weight, f"{where}: layers"), layers=_layers(text, where))
        for text, weight in layers.items()
    ]
    rules += [
        WeightRule(weight=_number(weight, f"{where}: modules"), pattern=pattern)
        for pattern, weight in modules.items()
    ]
    return Ingredient(
        reference=table["adapter"],
        weight=_number(table.get("weight", 1.0), f"{where}: weight"),
        rules=tuple(rules),
        grams=None if grams is None else folder / grams,
    )


def _layers(text: str, where: str) -> tuple[int, int]:
    first, dash, last = text.partition("-")
    try:
        bounds = (int(first), int(last) if dash else int(first))
    except ValueError as error:
        raise FormatError(f"expected N or N-M, got {text!r}", where=f"{where}: layers") from error
    if bounds[0] > bounds[1]:
        raise FormatError(f"{text} holds no layer", where=f"{where}: layers")
    return bounds


def _table(value: Any, where: str, known: set[str] | None) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise FormatError(f"expected a table, got {type(value).__name__}", where=where)
    named = {str(key): entry for key, entry in value.items()}
    unknown = sorted(named.keys() - known) if known is not None else []
    if unknown:
        raise FormatError(
            f"no such key: {unknown[0]!r}",
            where=where,
            hint=f"Keys: {', '.join(sorted(known or ()))}.",
        )
    return named


def _number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise FormatError(f"expected a number, got {value!r}", where=where)
    return float(value)


def recipe_text(written: RecipeFile) -> str:
    """A recipe file; ``read_recipe`` gives ``written`` back.

    Rules on layers come before rules on patterns, as they do when read.
    """
    document: dict[str, Any] = {"method": written.method}
    if written.parameters:
        document["parameters"] = dict(written.parameters)
    if written.seed:
        document["seed"] = written.seed
    document["inputs"] = [_entry(entry) for entry in written.inputs]
    return yaml.safe_dump(document, sort_keys=False)


def _entry(entry: Ingredient) -> dict[str, Any]:
    layers = {
        f"{r.layers[0]}-{r.layers[1]}" if r.layers[0] != r.layers[1] else str(r.layers[0]): r.weight
        for r in entry.rules
        if r.layers is not None
    }
    modules = {rule.pattern: rule.weight for rule in entry.rules if rule.layers is None}
    table: dict[str, Any] = {"adapter": entry.reference, "weight": entry.weight}
    if layers:
        table["layers"] = layers
    if modules:
        table["modules"] = modules
    if entry.grams is not None:
        table["grams"] = str(entry.grams)
    return table
