"""A description as JSON, and all descriptions as the one file that ``convert`` reads.

The layout is told in ``adaptrix.convert.architecture.catalogue``.
"""

from __future__ import annotations

import json
import lzma
from collections import defaultdict
from collections.abc import Container, Mapping, Sequence
from typing import Any

from adaptrix.convert.architecture.family import template
from adaptrix.loader.catalogue.describing import Description, Shape

_VERSION = 1
_MATRICES = {"linear", "conv1d"}
Document = Mapping[str, Any]


def as_json(found: Description) -> dict[str, Any]:
    """Everything that the catalogue keeps of one type."""
    return {
        "type": found.model_type,
        "classes": found.classes,
        "roots": found.roots,
        "modules": {name: _alternatives(shapes) for name, shapes in found.modules.items()},
        "heads": {name: _alternatives(shapes) for name, shapes in found.heads.items()},
        "defaults": found.defaults,
        "aliases": found.aliases,
        "inner": found.inner,
        "verified": found.verified,
    }


def _alternatives(shapes: Sequence[Shape]) -> list[list[str]]:
    return [[shape.kind, shape.when, shape.count, *shape.sizes] for shape in shapes]


def encode(families: Sequence[Document], transformers_version: str) -> bytes:
    """The file's bytes; the same for the same families."""
    ordered = sorted(families, key=lambda family: str(family["type"]))
    numbers: dict[str, int] = {}
    rows = [_numbered(family, numbers) for family in ordered]
    header = {
        "version": _VERSION,
        "transformers": transformers_version,
        "types": [family["type"] for family in ordered],
        "roots": [family["roots"] for family in ordered],
        "linears": [_matrices(family) for family in ordered],
        "shapes": [json.loads(text) for text in numbers],
    }
    # Names that only a setting brings in are not wanted of every adapter.
    always = {n for text, n in numbers.items() if any(not s[1] for s in json.loads(text))}
    lines = [_compact(header), *map(_compact, rows), *sorted(_index(rows, always))]
    return lzma.compress("\n".join(lines).encode(), preset=9 | lzma.PRESET_EXTREME)


def _numbered(family: Document, numbers: dict[str, int]) -> dict[str, Any]:
    def number(shapes: object) -> int:
        return numbers.setdefault(json.dumps(shapes), len(numbers))

    kept = ("classes", "defaults", "aliases", "inner")
    return {key: family[key] for key in kept} | {
        group: {name: number(shapes) for name, shapes in family[group].items()}
        for group in ("modules", "heads")
    }


def _matrices(family: Document) -> int:
    return sum(
        any(shape[0] in _MATRICES and not shape[1] for shape in shapes)
        for shapes in family["modules"].values()
    )


def _index(rows: Sequence[Document], always: Container[int]) -> list[str]:
    places: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    endings: dict[str, dict[int, set[str]]] = defaultdict(lambda: defaultdict(set))
    for position, row in enumerate(rows):
        for group, mark in (("modules", ""), ("heads", "h")):
            for name, number in row[group].items():
                key = template(name)
                places[key][f"{position}{mark}"].append(str(number))
                if number in always:
                    endings[key.rpartition(".")[2]][position].add(key)
    found = []
    for name, by_type in places.items():
        entries = [
            f"{key.rstrip('h')}:{','.join(dict.fromkeys(numbers))}{'h' * key.endswith('h')}"
            for key, numbers in by_type.items()
        ]
        found.append(f"{name}\t{' '.join(entries)}")
    for last, counts in endings.items():
        found.append(f"~{last}\t{' '.join(f'{p}:{len(names)}' for p, names in counts.items())}")
    return found


def _compact(document: Document) -> str:
    return json.dumps(document, separators=(",", ":"), sort_keys=True)
