"""The base that a source names, as far as it is known before its modules are looked at."""

from __future__ import annotations

import re
from dataclasses import dataclass

from adaptrix.convert.architecture.dimensions import Dimensions, dimensions_of
from adaptrix.convert.architecture.families import family_named
from adaptrix.convert.architecture.known_bases import known_base
from adaptrix.convert.architecture.popularity import POPULARITY, is_called
from adaptrix.convert.architecture.shapes import BaseModules, BaseShapes, BuiltModules
from adaptrix.convert.options import ReadOptions

_PLACE = re.compile(r"(?:.*/)?(?:checkpoints|models)/([\w.-]+/[\w.-]+)/?")


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedBase:
    """Family (``""`` when unknown) and sizes of a base model, and its id where one is named.

    Attributes:
        family: The family's name.
        sizes: The usual dimensions.
        name: Its id, or ``""``.
        modules: Its modules' shapes, where they are known.
    """

    family: str
    sizes: Dimensions
    name: str = ""
    modules: BaseModules | None = None

    def shape(self, path: str) -> tuple[int | None, int | None]:
        """``(out, in)`` of module ``path``, where that is known without doubt."""
        found = self.modules.sides(path) if self.modules is not None else ()
        if len(found) != 1 or len(found[0].sides) != 2:
            return None, None
        out, into = found[0].sides
        return out, into


def named_base(options: ReadOptions, declared: str) -> NamedBase:
    """``--base`` first, then a known base of that name, then the family's words in the name."""
    config = options.base_config
    if config is not None:
        model_type = str(config.get("model_type", ""))
        family = family_named(model_type)
        return NamedBase(
            family=family.name if family else model_type,
            sizes=dimensions_of(config),
            name=declared,
            modules=given_modules(options),
        )
    known = known_base(declared)
    if known is not None:
        return NamedBase(
            family=known.family, sizes=known.dimensions, name=declared, modules=known.shapes
        )
    hits = [family for family in POPULARITY if declared and is_called(family, declared)]
    return NamedBase(family=hits[0] if hits else "", sizes=Dimensions(), name=declared)


def given_modules(options: ReadOptions) -> BaseModules | None:
    """Modules of ``--base``: by the catalogue, else as they were built; None when unknown."""
    config = options.base_config
    if config is None:
        return None
    if options.base_modules is not None:
        model_type = str(config.get("model_type", ""))
        return BuiltModules(family_name=model_type, modules=options.base_modules)
    return BaseShapes.of(config, complete=options.base_is_complete)


def model_id(place: str) -> str:
    """``org/name`` of a path like ``checkpoints/org/name``, else the text as it stands."""
    match = _PLACE.fullmatch(place.replace("\\", "/"))
    return match[1] if match else place
