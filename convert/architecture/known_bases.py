"""Widely used base models with their dimensions, as their public ``config.json`` gives them.

The table is ``known_bases.tsv``: hub id, family, dimensions, and where the numbers were read.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from adaptrix.convert.architecture.dimensions import Dimensions
from adaptrix.convert.architecture.families import family_named
from adaptrix.convert.architecture.family import Family
from adaptrix.convert.architecture.shapes import BaseShapes
from adaptrix.schema.canonical import Json

_FILE = "known_bases.tsv"
_SIZES = ("hidden", "intermediate", "layers", "heads", "kv_heads", "head_size", "vocabulary")


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownBase:
    """A base model: hub id, family, dimensions, and the source of them."""

    name: str
    family: str
    dimensions: Dimensions
    source: str = ""

    @property
    def shapes(self) -> BaseShapes:
        """Sizes of its modules, as far as the dimensions give them."""
        family = family_named(self.family) or Family(name=self.family, modules={})
        return BaseShapes.of_dimensions(family, self.dimensions)


def _parse(row: Mapping[str, str]) -> KnownBase:
    sizes = {field: int(row[field]) for field in _SIZES if row[field]}
    return KnownBase(
        name=row["id"],
        family=row["model_type"],
        dimensions=Dimensions(**sizes),
        source=row["source"],
    )


@cache
def known_bases() -> tuple[KnownBase, ...]:
    """All rows, by family and name."""
    text = (files("adaptrix.convert.architecture") / _FILE).read_text(encoding="utf-8")
    rows = csv.DictReader(text.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE)
    return tuple(map(_parse, rows))


@cache
def bases_of(family: str) -> tuple[KnownBase, ...]:
    """The rows of one family."""
    return tuple(base for base in known_bases() if base.family == family)


@cache
def _by_last_part() -> Mapping[str, KnownBase]:
    return {base.name.rpartition("/")[2].lower(): base for base in known_bases()}


def config_of(base: KnownBase) -> dict[str, Json]:
    """The dimensions of ``base`` as its ``config.json`` would give them."""
    return {"model_type": base.family, **base.dimensions.as_config()}


def known_base(declared: str) -> KnownBase | None:
    """The known base that a declared name or path ends with, if any."""
    last = declared.replace("\\", "/").rstrip("/").rpartition("/")[2]
    return _by_last_part().get(last.lower()) if last else None


@cache
def related_base(declared: str) -> KnownBase | None:
    """The known base whose name is a part of the declared one, the longest such, if any."""
    last = declared.replace("\\", "/").rstrip("/").rpartition("/")[2].lower()
    best = ""
    for name in _by_last_part():
        start = last.find(name) if len(best) < len(name) >= _SHORTEST else -1
        if start >= 0 and not _WORD.search(
            last[start - 1 : start] + " " + _after(last, start, name)
        ):
            best = name
    return _by_last_part()[best] if best else None


_SHORTEST = 5
_WORD = re.compile(r"[a-z0-9]")


def _after(text: str, start: int, part: str) -> str:
    end = start + len(part)
    return text[end : end + 1]
