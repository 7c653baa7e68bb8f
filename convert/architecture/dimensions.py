"""The numbers that decide the shapes of a base model's weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from adaptrix.schema.canonical import Json

_NAMES: Mapping[str, tuple[str, ...]] = {
    "hidden": ("hidden_size", "n_embd", "d_model", "dim"),
    "intermediate": (
        "intermediate_size", "n_inner", "ffn_dim", "d_ff", "ffn_hidden_size", "hidden_dim",
        "encoder_ffn_dim", "decoder_ffn_dim",
    ),
    "layers": (
        "num_hidden_layers", "n_layer", "num_layers", "n_layers", "decoder_layers",
        "encoder_layers",
    ),
    "heads": ("num_attention_heads", "n_head", "num_heads", "n_heads", "decoder_attention_heads"),
    "kv_heads": ("num_key_value_heads", "num_kv_heads", "n_head_kv", "multi_query_group_num"),
    "head_size": ("head_dim", "d_kv", "kv_channels"),
    "vocabulary": ("vocab_size",),
}  # fmt: skip
SYNONYMS: Mapping[str, tuple[str, ...]] = {
    name: tuple(other for other in group if other != name)
    for group in _NAMES.values()
    for name in group
}
"""Other names that configurations have for the same field."""


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

    @property
    def query_width(self) -> int | None:
        """Heads × head size."""
        return self._width(self.heads)

    @property
    def kv_width(self) -> int | None:
        """Key/value heads × head size."""
        return self._width(self.kv_heads or self.heads)

    def _width(self, heads: int | None) -> int | None:
        size = self.head_size
        if size is None and self.hidden is not None and self.heads:
            size = self.hidden // self.heads
        return None if heads is None or size is None else heads * size

    def as_config(self) -> dict[str, Json]:
        """The fields of a ``config.json`` that these dimensions are."""
        values: dict[str, Json] = {
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_size,
            "vocab_size": self.vocabulary,
        }
        return {name: value for name, value in values.items() if value is not None}


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
