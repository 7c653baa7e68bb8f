"""Trainable tokens beside a copy of their whole embedding, as PEFT saves them after a resize.

``embed_tokens.token_adapter.base_layer.weight`` is the embedding, and the rows of
``trainable_tokens_delta`` are copied over its own (PEFT, ``TrainableTokensLayer``,
``get_merged_weights``): together one whole matrix, which is what the adapter replaces.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from adaptrix.convert.arrays import bits, content, to_numpy_f64
from adaptrix.convert.computed import Array, computed
from adaptrix.convert.formats.peft_config import PeftConfig
from adaptrix.convert.keys import parse_key
from adaptrix.schema.adapter import Replacement, ReplacementRole
from adaptrix.schema.tensor import LazyTensor

WRAPPER = ".token_adapter"


@dataclass(frozen=True, slots=True)
class Folded:
    """Whole matrices, and the names of the tensors that they are made of."""

    found: Mapping[str, Replacement] = field(default_factory=dict)
    names: frozenset[str] = frozenset()


def rows_of(path: str, config: PeftConfig) -> tuple[int, ...] | None:
    """Rows that the configuration gives the module, its tied head those of the embedding."""
    last = path.rpartition(".")[2]
    named = [config.token_indices.get(name) for name in (last, path, "")]
    if last == "lm_head" and len(config.token_indices) == 1:
        named += config.token_indices.values()
    return next((rows for rows in named if rows is not None), None)


def folded(tensors: Mapping[str, LazyTensor], config: PeftConfig) -> Folded:
    """Every embedding that the file has whole with its trainable rows."""
    parts: dict[str, dict[str, str]] = {}
    for name in tensors:
        key = parse_key(name)
        if key.leaf == "trainable_tokens_delta":
            parts.setdefault(key.path, {})["rows"] = name
        elif key.leaf == "base_layer.weight" and key.path.endswith(WRAPPER):
            parts.setdefault(key.path.removesuffix(WRAPPER), {})["whole"] = name
    found: dict[str, Replacement] = {}
    used: set[str] = set()
    for path, names in parts.items():
        rows = rows_of(path, config)
        if names.keys() != {"rows", "whole"} or rows is None:
            continue
        whole, new = tensors[names["whole"]], tensors[names["rows"]]
        fits = len(whole.shape) == 2 and new.shape == (len(rows), whole.shape[1])
        if fits and max(rows) < whole.shape[0]:
            found[f"{path}.weight"] = Replacement(
                parameter=f"{path}.weight",
                tensor=_with_rows(whole, new, rows),
                role=ReplacementRole.MODULES_TO_SAVE,
            )
            used |= set(names.values())
    return Folded(found, frozenset(used))


def _with_rows(whole: LazyTensor, new: LazyTensor, rows: tuple[int, ...]) -> LazyTensor:
    """``whole (V, D)`` with ``new (n, D)`` at ``rows``; float32 where their types differ."""
    plain = whole.dtype is new.dtype

    def load() -> memoryview:
        matrix = bits(whole).copy()
        matrix[list(rows)] = bits(new)
        return content(matrix)

    if plain:
        return replace(whole, load=load)

    def widened() -> Array:
        matrix = to_numpy_f64(whole).copy()
        matrix[list(rows)] = to_numpy_f64(new)
        return matrix

    return computed(whole.shape, whole.source, widened)
