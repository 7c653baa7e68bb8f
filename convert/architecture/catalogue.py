"""The catalogue of transformers' model types, read from the shipped file without torch.

Lines of text, compressed: a header, one JSON object per model type, then two sorted indices:
a module's name to the types that have it with its shapes, and ``~`` with the last part of a
name to the number of such names by type. Made by ``python -m adaptrix.loader.catalogue``.
Only what is asked for is parsed.
"""

from __future__ import annotations

import json
import lzma
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from adaptrix.convert.architecture.family import Family
from adaptrix.convert.architecture.shape import Shape, Shapes

_FILE = "catalogue.xz"


@dataclass(frozen=True, slots=True, kw_only=True)
class Occurrence:
    """A name in one type: position of the type, its shapes, whether it is in the body."""

    position: int
    shapes: Shapes
    is_body: bool


class Catalogue:
    """All types; :func:`catalogue` gives the one instance."""

    def __init__(self, packed: bytes) -> None:
        self._lines = lzma.decompress(packed).decode().split("\n")
        header: dict[str, Any] = json.loads(self._lines[0])
        self.transformers: str = header["transformers"]
        self.types: tuple[str, ...] = tuple(header["types"])
        self.roots: tuple[tuple[str, ...], ...] = tuple(map(tuple, header["roots"]))
        self.linears: tuple[int, ...] = tuple(header["linears"])
        self._shapes: list[list[list[str]]] = header["shapes"]
        self._first_row = 1 + len(self.types)
        self._position = {name: i for i, name in enumerate(self.types)}
        self._families: dict[str, Family] = {}
        self._parsed: dict[int, Shapes] = {}

    def family(self, model_type: str) -> Family | None:
        """Everything about one type."""
        position = self._position.get(model_type)
        if position is None:
            return None
        if model_type not in self._families:
            self._families[model_type] = self._family(position)
        return self._families[model_type]

    def occurrences(self, name: str) -> tuple[Occurrence, ...]:
        """The types that have ``name``, numbers written ``{}``, without the root."""
        found = []
        for entry in self._row(name):
            position, _, shapes = entry.partition(":")
            is_body = not shapes.endswith("h")
            numbers = shapes.rstrip("h").split(",")
            every = tuple(s for number in numbers for s in self._shape(int(number)))
            found.append(Occurrence(position=int(position), shapes=every, is_body=is_body))
        return tuple(found)

    def names_ending(self, last: str) -> Mapping[int, int]:
        """How many names of each type end in the part ``last``, by the type's position."""
        pairs = (entry.split(":") for entry in self._row(f"~{last}"))
        return {int(position): int(count) for position, count in pairs}

    def _row(self, key: str) -> list[str]:
        place = bisect_left(self._lines, f"{key}\t", self._first_row)
        if place < len(self._lines) and self._lines[place].startswith(f"{key}\t"):
            return self._lines[place].partition("\t")[2].split(" ")
        return []

    def _shape(self, number: int) -> Shapes:
        if number not in self._parsed:
            self._parsed[number] = tuple(
                Shape(kind=kind, when=when, count=count, sizes=tuple(sizes))
                for kind, when, count, *sizes in self._shapes[number]
            )
        return self._parsed[number]

    def _family(self, position: int) -> Family:
        row: dict[str, Any] = json.loads(self._lines[1 + position])
        return Family(
            name=self.types[position],
            roots=self.roots[position],
            modules={name: self._shape(number) for name, number in row["modules"].items()},
            heads={name: self._shape(number) for name, number in row["heads"].items()},
            classes=tuple(row["classes"]),
            defaults=row["defaults"],
            aliases=row["aliases"],
            inner=row["inner"],
        )


@cache
def catalogue() -> Catalogue:
    """The shipped catalogue."""
    return Catalogue((files("adaptrix.convert.architecture") / _FILE).read_bytes())
