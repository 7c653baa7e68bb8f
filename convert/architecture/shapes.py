"""Sizes of a base model's modules, from its configuration and its family's formulas."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from adaptrix.convert.architecture.dimensions import SYNONYMS, Dimensions
from adaptrix.convert.architecture.families import family_named
from adaptrix.convert.architecture.family import Family, first_number
from adaptrix.convert.architecture.formula import evaluate
from adaptrix.convert.architecture.shape import Shape
from adaptrix.schema.canonical import Json

_DEEPEST = 4
_LANGUAGE = {"text_config", "llm_config", "language_config"}
_HEADS = {"score", "classifier"}
"""Modules of a task, which the base's own configuration does not decide."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleSides:
    """A shape that a module may have.

    Attributes:
        kind: As :attr:`.family.Shape.kind`.
        sides: ``(out, in)`` of the update; None where a side is not known.
        resizable: For each side, whether it is the vocabulary, which trainers resize.
    """

    kind: str
    sides: tuple[int | None, ...]
    resizable: tuple[bool, ...]

    def fits(self, shape: Sequence[int]) -> bool:
        """Whether an update of ``shape`` can be one of this module."""
        pairs = zip(self.sides, shape, strict=False)
        return all(side is None or side == got for side, got in pairs)


class BaseModules(Protocol):
    """What a base's modules are: by formulas, or by a structure that was built."""

    @property
    def family_name(self) -> str:
        """The base's family."""
        ...

    def sides(self, path: str) -> tuple[ModuleSides, ...]:
        """Shapes that module ``path`` may have; empty when there is no such module."""
        ...

    def repetitions(self, path: str) -> int | None:
        """How many modules of that name there are; None when it is not known."""
        ...


def is_task_head(path: str) -> bool:
    """Whether a module belongs to a task, not to the base."""
    return path.partition(".")[0] in _HEADS


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltModules:
    """Modules of a base that was built from its configuration.

    Attributes:
        family_name: The base's family.
        modules: ``(kind, out, in)`` by path.
        others: What is asked of modules that only classes for tasks have.
    """

    family_name: str
    modules: Mapping[str, tuple[str, int, int]]
    others: BaseModules | None = None

    def sides(self, path: str) -> tuple[ModuleSides, ...]:
        """The one shape of a module; see :class:`BaseModules`."""
        found = self._found(path)
        if found is None:
            asked = None if is_task_head(path) else self.others
            return asked.sides(path) if asked is not None else ()
        kind, out, into = found
        resizable = (path.endswith("lm_head"), kind == "embedding")
        straight = ModuleSides(kind=kind, sides=(out, into), resizable=resizable)
        if kind != "parameter":
            return (straight,)
        # One expert of a stacked parameter, which some classes keep as (in, out).
        return straight, ModuleSides(kind=kind, sides=(into, out), resizable=resizable)

    def _found(self, path: str) -> tuple[str, int, int] | None:
        """By its path; or in the body of a class with a task, which was built without one."""
        return self.modules.get(path) or self.modules.get(path.partition(".")[2])

    def repetitions(self, path: str) -> int | None:
        """Modules that differ from ``path`` in their first number only."""
        number = first_number(path)
        if number is None:
            return None
        start, end = number
        before, after = path[:start], path[end:]
        count = 0
        while f"{before}{count}{after}" in self.modules:
            count += 1
        return count or None


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseShapes:
    """What a base's modules look like, where that is known.

    Attributes:
        family: The base's family.
        config: Its ``config.json``, or the fields that are known of it.
        complete: Whether ``config`` is a whole ``config.json``: fields that it lacks then have
            their family's defaults. Otherwise they are not known.
    """

    family: Family
    config: Mapping[str, Json]
    complete: bool = True

    @staticmethod
    def of(config: Mapping[str, Json], *, complete: bool = True) -> BaseShapes | None:
        """None when the catalogue has no such type, or not with these inner models."""
        family = family_named(str(config.get("model_type", "")))
        if family is None:
            return None
        for name, model_type in family.inner.items():
            inner = _at(config, name)
            given = inner.get("model_type") if isinstance(inner, Mapping) else None
            if isinstance(given, str) and given and model_type and given != model_type:
                return None
        return BaseShapes(family=family, config=config, complete=complete)

    @staticmethod
    def of_dimensions(family: Family, sizes: Dimensions) -> BaseShapes:
        """A base of which only the usual dimensions are known."""
        return BaseShapes(family=family, config=sizes.as_config(), complete=False)

    @property
    def family_name(self) -> str:
        """Name of :attr:`family`."""
        return self.family.name

    def sides(self, path: str) -> tuple[ModuleSides, ...]:
        """What module ``path`` may be; see :class:`BaseModules`."""
        found = [shape for shape in self.family.shapes(path) if self._holds(shape)]
        # What a setting decides goes before what is so without it.
        decided = [shape for shape in found if shape.when and self._is_set(shape)]
        return tuple(
            ModuleSides(
                kind=shape.kind,
                sides=tuple(self.size(size) for size in shape.sizes),
                resizable=tuple("vocab" in size for size in shape.sizes),
            )
            for shape in decided or found
        )

    def repetitions(self, path: str) -> int | None:
        """See :class:`BaseModules`."""
        counts = [self.size(s.count) if s.count else None for s in self.family.shapes(path)]
        known = [count for count in counts if count is not None]
        return max(known) if known and len(known) == len(counts) else None

    def size(self, formula: str) -> int | None:
        """Value of a formula."""
        return evaluate(formula, self._lookup)

    def _lookup(self, name: str, depth: int = 0) -> int | float | None:
        prefix, _, last = name.rpartition(".")
        names = (last, *SYNONYMS.get(last, ()))
        places = [name, *(a for a, n in self.family.aliases.items() if n == name)]
        places += [f"{prefix}.{other}".lstrip(".") for other in names]
        if not self.complete and prefix in _LANGUAGE:
            # A row of dimensions tells the language model's, wherever that is nested.
            places += names
        for place in places:
            value = _number(_at(self.config, place))
            if value is not None:
                return value
        default = self.family.defaults.get(name)
        if isinstance(default, str) and depth < _DEEPEST:
            return evaluate(default, lambda inner: self._lookup(inner, depth + 1))
        if not self.complete or isinstance(default, str):
            return None
        return default

    def _holds(self, shape: Shape) -> bool:
        """A setting that the configuration does not have may be either way."""
        if not shape.when:
            return True
        name, _, wanted = shape.when.partition("=")
        value = _at(self.config, name)
        return value is None or bool(value == json.loads(wanted))

    def _is_set(self, shape: Shape) -> bool:
        return _at(self.config, shape.when.partition("=")[0]) is not None


def _at(config: Json | Mapping[str, Json], name: str) -> Json | Mapping[str, Json]:
    node: Json | Mapping[str, Json] = config
    for part in name.split("."):
        if isinstance(node, Mapping):
            node = node.get(part)
        elif isinstance(node, list) and part.isdigit() and int(part) < len(node):
            node = node[int(part)]
        else:
            return None
    return node


def _number(value: object) -> int | float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if is_number and isinstance(value, int | float) and value > 0 else None
