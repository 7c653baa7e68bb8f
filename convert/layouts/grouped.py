"""Fused q, k, v whose rows are ordered by key/value group, as Megatron keeps them.

``linear_qkv`` has, for each of ``G`` groups, the rows of its ``H/G`` query heads, then of one
key head, then of one value head (Megatron-Core, ``SelfAttention.get_query_key_value_tensors``).
"""

from __future__ import annotations

from collections.abc import Mapping


def group_rows(rows: int, heads: int, groups: int) -> Mapping[str, list[int]]:
    """Rows of q, k and v in a fused weight of ``rows`` rows.

    Raises:
        ValueError: the rows do not divide; callers have checked with :func:`head_size`.
    """
    size = head_size(rows, heads, groups)
    if size is None:
        raise ValueError(f"{rows} rows are no {heads} heads in {groups} groups")
    queries = heads // groups
    found: dict[str, list[int]] = {"q": [], "k": [], "v": []}
    for group in range(groups):
        start = group * (queries + 2) * size
        found["q"] += range(start, start + queries * size)
        found["k"] += range(start + queries * size, start + (queries + 1) * size)
        found["v"] += range(start + (queries + 1) * size, start + (queries + 2) * size)
    return found


def head_size(rows: int, heads: int, groups: int) -> int | None:
    """Rows of one head, or None when ``rows`` is not ``(heads + 2·groups)`` heads."""
    if heads < 1 or groups < 1 or heads % groups or rows % (heads + 2 * groups):
        return None
    return rows // (heads + 2 * groups) or None
