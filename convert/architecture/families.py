"""All families: transformers' model types from the catalogue, and those beside it."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

from adaptrix.convert.architecture.catalogue import catalogue
from adaptrix.convert.architecture.family import Family
from adaptrix.convert.architecture.plain_families import (
    FORMER_NAMES,
    PLAIN_FAMILIES,
    SAME_FAMILY,
    UNBUILT_NAMES,
)

_PLAIN = {family.name: family for family in PLAIN_FAMILIES}


@cache
def family_named(model_type: str) -> Family | None:
    """The family of a ``config.json``'s ``model_type``, or of a plain name."""
    name = SAME_FAMILY.get(model_type, model_type)
    if name in _PLAIN:
        return _PLAIN[name]
    found = catalogue().family(name)
    beside = {**FORMER_NAMES.get(name, {}), **UNBUILT_NAMES.get(name, {})}
    return replace(found, former=beside) if found is not None and beside else found


def family_names() -> tuple[str, ...]:
    """Every family's name, sorted."""
    return tuple(sorted({*catalogue().types, *_PLAIN}))
