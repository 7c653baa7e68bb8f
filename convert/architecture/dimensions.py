"""The numbers that decide the shapes of a base model's weights."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from adaptrix.schema.canonical import Json

_NAMES: Mapping[str, tuple[str, ...]] = {
    "hidden": ("hidden_size", "n_embd", "d_model", "dim"),
    "intermediate": ("intermediate_size", "n_inner", "ffn_dim", "d_ff", "ffn_hidden_size", "hidden_dim"),
    "layers": ("num_hidden_layers", "n_layer", "num_layers", "n_layers", "decoder_layers"),
    "heads": ("num_attention_heads", "n_head", "num_heads", "n_heads", "decoder_attention_heads"),
    "kv_heads": ("num_key_value_heads", "num_kv_heads", "n_head_kv", "multi_query_group_num"),
    "head_size": ("head_dim", "d_kv", "kv_channels"),
    "vocabulary": ("vocab_size",),
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Dimensions:
    """Sizes of a base model; None where they are not known."""

    hidden: int | None = None
    intermediate: int | None = None
    layers: int | None = None
    heads: int | None = None
    kv_heads: int | None = None
    head_size: int | None = None
    vocabulary: int | None = None

    def symbol(self, name: str) -> int | None:
        """Value of one of the symbols ``h i q k v``."""
        if name == "h":
            return self.hidden
        if name == "i":
            return self.intermediate
        if name == "v":
            return self.vocabulary
        heads = self.heads if name == "q" else self.kv_heads or self.heads
        size = self.head_size
        if size is None and self.hidden is not None and self.heads:
            size = self.hidden // self.heads
        return None if heads is None or size is None else heads * size

    def evaluate(self, expression: str) -> int | None:
        """Value of ``3h`` or ``q+2k``; None when a symbol is not known or it is ``?``."""
        total = 0
        for factor, name in terms(expression):
            value = self.symbol(name)
            if value is None:
                return None
            total += factor * value
        return total or None


def terms(expression: str) -> list[tuple[int, str]]:
    """``q+2k`` as ``[(1, "q"), (2, "k")]``; ``?`` has no terms."""
    return [(int(n or 1), s) for n, s in re.findall(r"(\d*)([hiqkv])", expression)]


def dimensions_of(config: Mapping[str, Json]) -> Dimensions:
    """Read a model's ``config.json``, its ``text_config`` when it is nested."""
    inner = config.get("text_config")
    sources = [config, inner] if isinstance(inner, Mapping) else [config]

    def find(names: tuple[str, ...]) -> int | None:
        for source in sources:
            for name in names:
                value = source.get(name)
                if isinstance(value, int) and not isinstance(value, bool) and value > 0:
                    return value
        return None

    found = {field: find(names) for field, names in _NAMES.items()}
    if found["intermediate"] is None and found["hidden"] and "n_embd" in config:
        # GPT-2's own default when n_inner is null.
        found["intermediate"] = 4 * found["hidden"]
    return Dimensions(**found)
