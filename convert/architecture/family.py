"""One model family: the names of its modules and the formulas of their shapes."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from adaptrix.convert.architecture.experts import of_one_expert, stacked_names
from adaptrix.convert.architecture.shape import Shape, Shapes

_NUMBER = re.compile(r"(?<=\.)\d+(?=\.|$)|^\d+(?=\.)")


def template(path: str) -> str:
    """``model.layers.3.mlp.fc1`` as ``model.layers.{}.mlp.fc1``."""
    return _NUMBER.sub("{}", path)


def first_number(path: str) -> tuple[int, int] | None:
    """Where the first part that is a number stands in ``path``."""
    match = _NUMBER.search(path)
    return match.span() if match else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One family.

    Attributes:
        name: transformers' ``model_type``, or a plain name.
        modules: Shapes by name as the headless class has it, numbers written ``{}`` except
            where a stage's number decides the shape.
        heads: Shapes by name of what only classes with a head have.
        roots: What classes with a head put before ``modules``, the usual one first.
        classes: Names of its transformers classes.
        defaults: Value, or formula, of a field that a configuration does not have.
        aliases: Other names of fields.
        inner: Model type by the name of a nested configuration.
        former: Shapes by names that former classes had, or remote code has.
    """

    name: str
    modules: Mapping[str, Shapes]
    heads: Mapping[str, Shapes] = field(default_factory=dict)
    roots: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    defaults: Mapping[str, int | float | str] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)
    inner: Mapping[str, str] = field(default_factory=dict)
    former: Mapping[str, Shapes] = field(default_factory=dict)

    def shapes(self, path: str) -> Shapes:
        """What module ``path`` can be; empty when the family has no such module."""
        for root in self.roots:
            if path.startswith(root) and (found := _find(self.modules, path.removeprefix(root))):
                return found
        for group in (self.heads, self.modules, self.former):
            if found := _find(group, path):
                return found
        return self._experts(path)

    def _experts(self, path: str) -> Shapes:
        """One expert's part of a stacked parameter."""
        for name, is_half in stacked_names(path):
            for group, prefix in ((self.modules, root) for root in (*self.roots, "")):
                if name.startswith(prefix) and (found := _find(group, name.removeprefix(prefix))):
                    return of_one_expert(found, is_half=is_half)
        return ()

    def names(self) -> Iterator[tuple[str, Shapes]]:
        """Every name as the usual class has it."""
        root = self.roots[0] if self.roots else ""
        for name, shapes in self.modules.items():
            yield root + name, shapes
        yield from self.heads.items()


def _find(group: Mapping[str, Shapes], path: str) -> Shapes:
    name = template(path)
    if name in group:
        return group[name]
    if "{}" not in name:
        return ()
    # Where a stage's number decides the shape, names keep it.
    parts = path.split(".")
    for other, shapes in group.items():
        if template(other) == name and _agree(other.split("."), parts):
            return shapes
    return ()


def _agree(name: Sequence[str], path: Sequence[str]) -> bool:
    return all(part in ("{}", own) for part, own in zip(name, path, strict=True))


def by_template(names: Mapping[str, Shapes]) -> Mapping[str, Shapes]:
    """Shapes of all stages together, by name with every number as ``{}``."""
    found: dict[str, list[Shape]] = defaultdict(list)
    for name, shapes in names.items():
        known = found[template(name)]
        known.extend(shape for shape in shapes if shape not in known)
    return {name: tuple(shapes) for name, shapes in found.items()}
