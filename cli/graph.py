"""A lineage as a graph of lines, newest first, as ``git log --graph`` draws it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from adaptrix.registry.reports import LogRow
    from adaptrix.schema.digest import Digest


def log_lines(rows: Sequence[LogRow], *, graph: bool) -> Iterator[str]:
    """What ``log`` prints; every row comes before its parents."""
    lanes: list[Digest] = []
    for row in rows:
        if not graph:
            yield _text(row)
            continue
        yield from _joined(lanes, row.digest)
        if row.digest not in lanes:
            lanes.append(row.digest)
        at = lanes.index(row.digest)
        marks = ["*" if number == at else "|" for number in range(len(lanes))]
        yield f"{' '.join(marks)} {_text(row)}"
        lanes[at : at + 1] = row.parents
        yield from _forked(len(lanes), at, len(row.parents))


def _joined(lanes: list[Digest], digest: Digest) -> Iterator[str]:
    """Lanes that lead to the same version become one, the leftmost."""
    while lanes.count(digest) > 1:
        first, last = lanes.index(digest), len(lanes) - 1 - lanes[::-1].index(digest)
        del lanes[last]
        yield _bars(last) + "/" + " /" * (len(lanes) - last)
        for at in range(last - 1, first, -1):
            yield f"{_bars(at)}/{_bars(len(lanes) - at)}"


def _forked(count: int, at: int, parents: int) -> Iterator[str]:
    """One lane per parent; a version without parents ends its lane."""
    if parents > 1:
        yield _bars(at + 1) + "\\" + " \\" * (count - at - 2)
    elif parents == 0 and count > at:
        yield f"{_bars(at)}{' ' if at else ''} /" + " /" * (count - at - 1)


def _bars(count: int) -> str:
    return " ".join(["|"] * count)


def _text(row: LogRow) -> str:
    weight = "" if row.weight is None else f" x{row.weight:g}"
    text = f"{row.digest.short} {row.role}{weight} {row.name} {row.source} {row.description}"
    return " ".join(text.split())
