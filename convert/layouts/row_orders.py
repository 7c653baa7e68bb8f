"""In which order a fused projection keeps the rows of its parts.

========== =============================================== ==============================
blocks     all of the first part, then the second, …       q‖k‖v, gate‖up
heads      per head ``[q k v]``: ``view(H, 3, size)``      GPT-NeoX, BLOOM, Persimmon
groups     per key/value group ``[q × H/G, k, v]``         Falcon, InternLM2, Megatron
mp4        four shards, each its blocks of ``q‖v‖k``       CodeGen (``mp_num = 4``)
pairs      rows of the parts in turn: even, odd            Phi-3-small (gegelu)
========== =============================================== ==============================

Source of each family's row: the class in transformers, or the remote code; see
``docs/renames.md``. ``A`` reads all rows alike, so cutting and joining rows of ``B`` is exact.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from adaptrix.convert.layouts.grouped import group_rows, head_size
from adaptrix.convert.numeric import np

if TYPE_CHECKING:
    import numpy.typing as npt

Rows: TypeAlias = "Mapping[str, npt.NDArray[np.intp]]"
_SHARDS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Heads:
    """Query heads and key/value groups of one base; None where they are not known."""

    heads: int | None = None
    groups: int | None = None


def part_rows(order: str, parts: Sequence[str], total: int, heads: Heads) -> Rows | None:
    """Row numbers of every part in a fused weight of ``total`` rows.

    Args:
        order: One of the orders above.
        parts: Their names, ``q k v`` or others of one size each.
        total: Rows of the fused weight.
        heads: Of the base.

    Returns:
        Indices by part, or None when heads are missing or do not divide the rows.
    """
    return _ORDERS[order](tuple(parts), total, heads)


def total_rows(
    order: str, parts: Sequence[str], known: Mapping[str, int], heads: Heads
) -> int | None:
    """Rows of the fused weight of which some parts' rows are known; None when they do not tell.

    Parts of attention are ``q`` and two of the size of ``k``; all others are of one size.
    """
    if set(parts) != {"q", "k", "v"}:
        sizes = set(known.values())
        return len(parts) * sizes.pop() if len(sizes) == 1 else None
    narrow = {known[part] for part in ("k", "v") if part in known}
    wide = {known["q"]} if "q" in known else set()
    if order in ("heads", "mp4"):
        wide = narrow = wide | narrow
    ratio = _ratio(heads)
    if not narrow and wide and ratio:
        narrow = {next(iter(wide)) // ratio}
    if not wide and narrow and ratio:
        wide = {next(iter(narrow)) * ratio}
    if len(wide) != 1 or len(narrow) != 1:
        return None
    return next(iter(wide)) + 2 * next(iter(narrow))


def _ratio(heads: Heads) -> int | None:
    if not heads.heads or not heads.groups or heads.heads % heads.groups:
        return None
    return heads.heads // heads.groups


def _blocks(parts: tuple[str, ...], total: int, heads: Heads) -> Rows | None:
    if set(parts) != {"q", "k", "v"}:
        return None if total % len(parts) else _cut(parts, [total // len(parts)] * len(parts))
    ratio = _ratio(heads)
    if ratio is None or total % (ratio + 2):
        return None
    narrow = total // (ratio + 2)
    return _cut(parts, [ratio * narrow if part == "q" else narrow for part in parts])


def _cut(parts: Sequence[str], sizes: Sequence[int]) -> Rows:
    edges = np.cumsum([0, *sizes])
    return {p: np.arange(edges[i], edges[i + 1]) for i, p in enumerate(parts)}


def _per_head(parts: tuple[str, ...], total: int, heads: Heads) -> Rows | None:
    count = heads.heads
    if not count or total % (count * len(parts)):
        return None
    order = np.arange(total).reshape(count, len(parts), -1)
    return {part: order[:, index].reshape(-1) for index, part in enumerate(parts)}


def _groups(_parts: tuple[str, ...], total: int, heads: Heads) -> Rows | None:
    count, groups = heads.heads, heads.groups
    if not count or not groups or head_size(total, count, groups) is None:
        return None
    return {part: np.asarray(rows) for part, rows in group_rows(total, count, groups).items()}


def _shards(_parts: tuple[str, ...], total: int, _heads: Heads) -> Rows | None:
    if total % (3 * _SHARDS):
        return None
    order = np.arange(total).reshape(_SHARDS, 3, -1)
    return {part: order[:, index].reshape(-1) for index, part in enumerate("qvk")}


def _pairs(parts: tuple[str, ...], total: int, _heads: Heads) -> Rows | None:
    if total % len(parts):
        return None
    return {part: np.arange(i, total, len(parts)) for i, part in enumerate(parts)}


_ORDERS: Mapping[str, Callable[[tuple[str, ...], int, Heads], Rows | None]] = {
    "blocks": _blocks, "heads": _per_head, "groups": _groups, "mp4": _shards, "pairs": _pairs,
}  # fmt: skip
