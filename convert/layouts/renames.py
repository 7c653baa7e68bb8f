"""Module names of earlier transformers releases, and where each module is today.

``renames.jsonl`` is generated from transformers' own conversion tables (``python -m
adaptrix.loader.renames``): every model is built without weights, its names are taken back by
``revert_weight_conversion``, and kept where ``rename_source_key`` brings them forth again.
A row says ``old name: new name``; ``#1/2`` behind the new name means the second of two equal
blocks of its rows, ``|`` separates the names among which old rows are divided, ``!`` names
an operation that factors cannot follow. Layer numbers are ``{}``.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import Any

_NUMBER = re.compile(r"(?<=\.)\d+(?=\.|$)|^\d+(?=\.)")
_NUMBERED = re.compile(r".*(?:layers?|blocks?|experts|stages|^h)$")


@dataclass(frozen=True, slots=True)
class Move:
    """Where the rows of an old weight are today.

    Attributes:
        to: New templates; several when the old rows are divided in equal blocks.
        part: Which block of the new weight the old one is.
        parts: Of how many; 1 when it is all of it.
        obstacle: Why factors cannot follow, or ``""``.
    """

    to: tuple[str, ...]
    part: int = 0
    parts: int = 1
    obstacle: str = ""


def slots(path: str) -> tuple[str, tuple[str, ...]]:
    """Template of a path and the numbers of its layers, blocks and experts.

    Numbers of other lists (``net.0.proj``) are names of modules, and stay.
    """
    names, numbers = path.split("."), []
    counted = False
    for index, name in enumerate(names):
        before = names[index - 1] if index else ""
        counted = name.isdigit() and (counted or _NUMBERED.fullmatch(before) is not None)
        if counted:
            numbers.append(name)
            names[index] = "{}"
    return ".".join(names), tuple(numbers)


def fill(template: str, numbers: Sequence[str]) -> str:
    """Inverse of :func:`slots`."""
    return template.format(*numbers)


@lru_cache(maxsize=64)
def moves(family: str) -> Mapping[str, Move]:
    """Old templates of a family; empty when nothing of it was renamed."""
    table = _head()["families"].get(family)
    rows: Mapping[str, str] = {} if table is None else json.loads(_lines()[table + 1])
    return {old: parse_move(text) for old, text in rows.items()}


def parse_move(text: str) -> Move:
    """One row of the table."""
    if text.startswith("!"):
        return Move((), obstacle=text[1:])
    name, _, share = text.partition("#")
    if not share:
        return Move(tuple(name.split("|")))
    part, _, parts = share.partition("/")
    return Move((name,), int(part), int(parts))


def anonymous(path: str) -> str:
    """``path`` with ``{}`` for every number."""
    return _NUMBER.sub("{}", path)


def former_owners(name: str) -> tuple[str, ...]:
    """Families that once had ``name``, numbers written ``{}``; no table is parsed."""
    first = 1 + _head()["tables"]
    place = bisect_left(_lines(), f"{name}\t", first)
    row = _lines()[place] if place < len(_lines()) else ""
    if not row.startswith(f"{name}\t"):
        return ()
    tables = {int(number) for number in row.partition("\t")[2].split(" ")}
    return tuple(family for family, table in _head()["families"].items() if table in tables)


def renamed_families() -> tuple[str, ...]:
    """Every family with old names, sorted."""
    return tuple(sorted(_head()["families"]))


def transformers_version() -> str:
    """The release whose tables these are."""
    return str(_head()["transformers"])


def is_raw_weight(family: str, path: str) -> bool:
    """Whether today's class keeps this weight as a bare parameter, no linear module."""
    return slots(path)[0] in _head()["raw"].get(family, ())


@lru_cache(maxsize=64)
def has_experts(family: str) -> bool:
    """Whether modules of single experts became slices of stacked parameters."""
    return any(
        to.endswith(".{}") and not old.endswith("}")
        for old, move in moves(family).items()
        for to in move.to
    )


@lru_cache(maxsize=1)
def _lines() -> Sequence[str]:
    text = files("adaptrix.convert.layouts").joinpath("renames.jsonl").read_text("utf-8")
    return text.splitlines()


@lru_cache(maxsize=1)
def _head() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(_lines()[0])
    return found
