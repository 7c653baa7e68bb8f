"""Sizes of one model class under many configurations, and the formulas that explain them."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from typing import Any

from transformers import PretrainedConfig

from adaptrix.convert.architecture.formula import evaluate
from adaptrix.loader.catalogue.building import Entry, build, entries_of
from adaptrix.loader.catalogue.leaves import LAYERS, Number, changed, leaves
from adaptrix.loader.catalogue.solving import (
    formula_of_monomial,
    formula_of_sum,
    monomial,
)

_FAILURES = (Exception,)
"""Whatever a class raises for a configuration it was not written for."""


class Experiment:
    """One class and one configuration to start from; every build is kept."""

    def __init__(self, model_class: type[Any], config: PretrainedConfig) -> None:
        self.model_class = model_class
        self.config = config
        self.fields: dict[str, Number] = dict(leaves(config.to_dict()))
        self.entries = entries_of(build(model_class, config))
        self.base = sizes_of(self.entries)
        self.failed: list[str] = []
        self._doubled: dict[frozenset[str], Mapping[str, int] | None] = {}
        self._formulas: dict[tuple[int, ...], str | None] = {}
        self.relevant: tuple[str, ...] = ()

    def vary(self) -> None:
        """Double every field by itself; those that change a size or a count are relevant."""
        found = []
        for name in self.fields:
            sizes = self.doubled(frozenset([name]))
            if sizes is None:
                self.failed.append(name)
            elif any(sizes.get(key) != value for key, value in self.base.items()):
                found.append(name)
        self.relevant = tuple(found)

    def doubled(self, names: frozenset[str]) -> Mapping[str, int] | None:
        """All sizes with the fields ``names`` doubled; None when that does not build."""
        if names not in self._doubled:
            self._doubled[names] = self.built({n: self.fields[n] * 2 for n in names})
        return self._doubled[names]

    def built(self, values: Mapping[str, Any]) -> Mapping[str, int] | None:
        """All sizes with ``values`` in the configuration; None when that does not build."""
        try:
            return sizes_of(entries_of(build(self.model_class, changed(self.config, values))))
        except _FAILURES:
            return None

    def formula(self, key: str) -> str | None:
        """The formula of one size; None when no product and no sum explains it."""
        base = self.base[key]
        vector = []
        for name in self.relevant:
            sizes = self.doubled(frozenset([name])) or {}
            vector.append(sizes.get(key, base))
        signature = (base, *vector)
        if signature not in self._formulas:
            changes = dict(zip(self.relevant, vector, strict=True))
            self._formulas[signature] = self._solve(key, base, changes)
        return self._formulas[signature]

    def _solve(self, key: str, base: int, changes: Mapping[str, int]) -> str | None:
        exponents = monomial(base, changes)
        if exponents is not None:
            if not exponents and self._suspicious(base):
                return None
            found = formula_of_monomial(base, exponents, self.fields)
            if found is not None:
                return found
        names = [name for name, value in changes.items() if value != base]
        rising = {name: changes[name] > base for name in names}
        return formula_of_sum(names, rising, lambda chosen: self._size(chosen, key), self.fields)

    def _size(self, chosen: frozenset[str], key: str) -> int | None:
        sizes = self.base if not chosen else self.doubled(chosen)
        return None if sizes is None else sizes.get(key)

    def _suspicious(self, value: int) -> bool:
        """A size that no change reached may hang on a field that could not be changed."""
        return any(
            value % int(self.fields[n]) == 0 for n in self.failed if int(self.fields[n]) >= 8
        )

    def another(self, seed: int) -> tuple[dict[str, Number], Mapping[str, int]] | None:
        """A random further configuration and its sizes; None when none builds."""
        draw = random.Random(seed)  # noqa: S311
        for attempt in range(24):
            values: dict[str, Number] = {}
            for name in self.relevant:
                choices = [1, 2] if LAYERS.search(name) else [1, 2, 2, 3, 4]
                if attempt >= 12:
                    choices = [1, 1, 2]
                factor = draw.choice(choices)
                if factor != 1:
                    values[name] = self.fields[name] * factor
            sizes = self.built(values) if values else None
            if sizes is not None:
                return {**self.fields, **values}, sizes
        return None


def sizes_of(entries: Mapping[str, Entry]) -> dict[str, int]:
    """One number per name: ``path#axis`` for shapes, ``path*`` for repetitions of a name."""
    found: dict[str, int] = {}
    for path, entry in entries.items():
        for axis, size in enumerate(entry.dims):
            found[f"{path}#{axis}"] = size
    return found | _counts(entries)


def first_index(path: str) -> tuple[str, int] | None:
    """``("model.layers.", 3)`` of ``model.layers.3.mlp.fc1``."""
    parts = path.split(".")
    for position, part in enumerate(parts):
        if part.isdigit():
            return ".".join(parts[:position]), int(part)
    return None


def _counts(paths: Iterable[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for path in paths:
        place = first_index(path)
        if place is not None:
            tail = path.removeprefix(f"{place[0]}.{place[1]}.")
            key = f"{place[0]}.*.{tail}"
            found[key] = max(found.get(key, 0), place[1] + 1)
    return found


def holds(formula: str, fields: Mapping[str, Number], size: int) -> bool:
    """Whether ``formula`` gives ``size`` for ``fields``."""
    return evaluate(formula, fields.get) == size
