"""Head counts of an adapter's base, for formats that order rows by head."""

from __future__ import annotations

from adaptrix.convert.architecture.dimensions import Dimensions
from adaptrix.convert.architecture.known_bases import known_base
from adaptrix.convert.layouts import heads as layouts
from adaptrix.convert.layouts.row_orders import Heads
from adaptrix.schema.adapter import Adapter
from adaptrix.schema.errors import Refused

HEADS, KV_HEADS = "num_attention_heads", "num_key_value_heads"
"""Keys of ``Adapter.extra`` that hold what ``--base`` said while reading."""


def heads_of(adapter: Adapter, part: str, rows: int, where: str) -> int:
    """Heads of part ``q`` or ``k``: from ``--base``, else of a known base of that name.

    Raises:
        Refused: they are not known, or do not divide ``rows`` into even heads.
    """
    key = HEADS if part == "q" else KV_HEADS
    found = adapter.extra.get(key)
    known = known_base(adapter.base_name)
    if not isinstance(found, int) and known is not None:
        found = known.dimensions.heads if part == "q" else known.dimensions.kv_heads
    if not isinstance(found, int) or found < 1 or rows % (2 * found):
        raise Refused(
            f"{rows} rows of {part} are ordered by head, and the heads of "
            f"{adapter.base_name or 'the base'} are not known",
            where=where,
            code="unsupported_target",
            hint="Pass --base with the base model's folder or id.",
        )
    return found


def base_heads(adapter: Adapter) -> Heads:
    """Heads and groups of ``--base``, else of a known base of the declared name."""
    heads, groups = adapter.extra.get(HEADS), adapter.extra.get(KV_HEADS)
    if isinstance(heads, int) and isinstance(groups, int):
        return Heads(heads=heads, groups=groups)
    known = known_base(adapter.base_name)
    sizes = known.dimensions if known else Dimensions()
    return layouts.heads_of(adapter.family, sizes, None)
