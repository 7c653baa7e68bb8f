"""The base that a source names, as far as it is known before its modules are looked at."""

from __future__ import annotations

import re
from dataclasses import dataclass

from adaptrix.convert.architecture.dimensions import Dimensions, dimensions_of
from adaptrix.convert.architecture.families import FAMILIES, family_of_model_type
from adaptrix.convert.architecture.known_bases import known_base
from adaptrix.convert.options import ReadOptions

_PLACE = re.compile(r"(?:.*/)?(?:checkpoints|models)/([\w.-]+/[\w.-]+)/?")


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedBase:
    """Family (``""`` when unknown) and sizes of a base model, and its id where one is named."""

    family: str
    sizes: Dimensions
    name: str = ""


def named_base(options: ReadOptions, declared: str) -> NamedBase:
    """``--base`` first, then a known base of that name, then the family's words in the name."""
    config = options.base_config
    if config is not None:
        family = family_of_model_type(str(config.get("model_type", "")))
        return NamedBase(
            family=family.name if family else str(config.get("model_type", "")),
            sizes=dimensions_of(config),
            name=declared,
        )
    known = known_base(declared)
    if known is not None:
        return NamedBase(family=known.family, sizes=known.dimensions, name=declared)
    hits = [family.name for family in FAMILIES if declared and family.words.search(declared)]
    return NamedBase(family=hits[0] if hits else "", sizes=Dimensions(), name=declared)


def model_id(place: str) -> str:
    """``org/name`` of a path like ``checkpoints/org/name``, else the text as it stands."""
    match = _PLACE.fullmatch(place.replace("\\", "/"))
    return match[1] if match else place
