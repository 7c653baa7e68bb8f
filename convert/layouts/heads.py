"""Query heads and key/value groups of a base, for rows that are ordered by them."""

from __future__ import annotations

from collections.abc import Mapping

from adaptrix.convert.architecture.dimensions import Dimensions
from adaptrix.convert.layouts.row_orders import Heads
from adaptrix.schema.canonical import Json

_MULTI_QUERY = {"gpt_bigcode": True, "falcon": True}
"""Default of ``multi_query``: one group for all heads, whatever a group count says."""

_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")


def experts_of(config: Mapping[str, Json]) -> int | None:
    """Experts of a layer, as ``config.json`` or its ``text_config`` says."""
    inner = config.get("text_config")
    for source in (config, inner if isinstance(inner, Mapping) else {}):
        for name in _EXPERTS:
            value = source.get(name)
            if isinstance(value, int) and not isinstance(value, bool) and value > 0:
                return value
    return None


def heads_of(family: str, sizes: Dimensions, config: Mapping[str, Json] | None) -> Heads:
    """Heads and groups; None where they are not known.

    Falcon and GPT-BigCode say ``multi_query`` and mean one group; Falcon's newer
    architecture counts groups (transformers, ``FalconAttention``, ``GPTBigCodeAttention``).
    """
    groups = sizes.kv_heads or sizes.heads
    if config is not None and family in _MULTI_QUERY and not config.get("new_decoder_architecture"):
        single = config.get("multi_query", _MULTI_QUERY[family])
        groups = 1 if single else sizes.heads
    return Heads(heads=sizes.heads, groups=groups)
