"""The five namings of Phi-1, Phi-1.5 and Phi-2, and the exact way from each to today's.

==== ============================================ ===================== =================
L1   MixFormerSequential remote code, 2023-09     ``layers.{i+1}.…``    q‖k‖v blocks
L2   ``modeling_phi.py`` remote code, 2023-12     ``transformer.h.N.…`` q‖k‖v blocks
L3   transformers 4.36.0 to 4.36.2                ``query_key_value``   per head [q k v]
L4   transformers 4.37.0 and later: canonical     ``q_proj`` …          not fused
L5   community port before the merge              ``o_proj``            not fused
==== ============================================ ===================== =================

Splitting a fused pair copies ``A`` and takes rows of ``B``: ``ΔW_q = s·B[rows_q]·A``, exact
to the bit. Magnitudes and biases are per row and follow the same rows. Rotary embedding is
rotate-half in all five, so no row moves inside a head. Saves of the headless class lack the
first part of every path.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from adaptrix.convert.arrays import take_rows
from adaptrix.convert.draft import Factors
from adaptrix.schema.adapter import Replacement
from adaptrix.schema.tensor import LazyTensor

FUSED = "Wqkv"
_PARTS = ("q_proj", "k_proj", "v_proj")
_BLOCK_MAP: Mapping[str, Mapping[str, str]] = {
    "phi-l1": {
        "ln": "input_layernorm", "mixer.Wqkv": FUSED, "mixer.out_proj": "self_attn.dense",
        "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2",
    },
    "phi-l3": {
        "input_layernorm": "input_layernorm", "self_attn.query_key_value": FUSED,
        "self_attn.dense": "self_attn.dense", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2",
    },
    "phi-l4": {
        "input_layernorm": "input_layernorm", "self_attn.q_proj": "self_attn.q_proj",
        "self_attn.k_proj": "self_attn.k_proj", "self_attn.v_proj": "self_attn.v_proj",
        "self_attn.dense": "self_attn.dense", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2",
        "self_attn.q_layernorm": "self_attn.q_layernorm",
        "self_attn.k_layernorm": "self_attn.k_layernorm",
    },
}  # fmt: skip
_L5 = {
    **{k: v for k, v in _BLOCK_MAP["phi-l4"].items() if k != "self_attn.dense"},
    "self_attn.o_proj": "self_attn.dense",
}
BLOCK_MAP: Mapping[str, Mapping[str, str]] = {
    **_BLOCK_MAP, "phi-l2": _BLOCK_MAP["phi-l1"], "phi-l5": _L5,
}  # fmt: skip
"""Tail of a module inside its block, by layout, to its tail in L4 (or :data:`FUSED`)."""
_OUTER = {
    "model.embed_tokens": "model.embed_tokens", "embed_tokens": "model.embed_tokens",
    "model.final_layernorm": "model.final_layernorm", "final_layernorm": "model.final_layernorm",
    "lm_head": "lm_head",
}  # fmt: skip
OUTER_MAP: Mapping[str, Mapping[str, str]] = {
    "phi-l1": {"layers.0.wte": "model.embed_tokens"},
    "phi-l2": {
        "transformer.embd.wte": "model.embed_tokens", "embd.wte": "model.embed_tokens",
        "lm_head.ln": "model.final_layernorm", "lm_head.linear": "lm_head",
    },
    "phi-l3": _OUTER, "phi-l4": _OUTER, "phi-l5": _OUTER,
}  # fmt: skip
_BLOCK = {
    "phi-l1": re.compile(r"layers\.(\d{1,4})\.(.+)"),
    "phi-l2": re.compile(r"(?:transformer\.)?h\.(\d{1,4})\.(.+)"),
    "phi-l3": re.compile(r"(?:model\.)?layers\.(\d{1,4})\.(.+)"),
    "phi-l4": re.compile(r"(?:model\.)?layers\.(\d{1,4})\.(.+)"),
    "phi-l5": re.compile(r"(?:model\.)?layers\.(\d{1,4})\.(.+)"),
}
HEADS = {"score", "classifier"}
"""Heads of other tasks, which all layouts name alike."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where a module goes: its L4 path, or the attention whose fused input it is."""

    path: str
    is_fused: bool = False


def target(layout: str, path: str, layers: int | None = None) -> Target | None:
    """The L4 place of module ``path`` of ``layout``; None when the layout has no such module.

    Args:
        layout: ``phi-l1`` … ``phi-l5``.
        path: Module path in that layout, without wrapper prefixes.
        layers: Number of blocks, which tells L1's final norm and head from its blocks.
    """
    if outer := OUTER_MAP[layout].get(path):
        return Target(outer)
    if path.partition(".")[0] in HEADS:
        return Target(path)
    match = _BLOCK[layout].fullmatch(path)
    if match is None:
        return None
    index, tail = int(match[1]), match[2]
    if layout != "phi-l1":
        return _in_block(layout, index, tail)
    if layers is not None and index == layers + 1:
        end = {"ln": "model.final_layernorm", "linear": "lm_head"}.get(tail)
        return Target(end) if end else None
    # Index 0 is the embedding: block i of the model is layers.{i+1} here.
    outside = index == 0 or (layers is not None and index > layers)
    return None if outside else _in_block(layout, index - 1, tail)


def _in_block(layout: str, index: int, tail: str) -> Target | None:
    mapped = BLOCK_MAP[layout].get(tail)
    if mapped == FUSED:
        return Target(f"model.layers.{index}.self_attn", is_fused=True)
    return Target(f"model.layers.{index}.{mapped}") if mapped else None


def row_blocks(layout: str, rows: int, heads: int | None) -> tuple[Sequence[int] | slice, ...]:
    """Rows of q, k and v in a fused weight of ``rows`` rows (``rows = 3·E``).

    L1 and L2 hold three blocks; L3 holds ``[q k v]`` per head (transformers 4.36.2,
    ``modeling_phi.py``: ``view(num_heads, 3, head_dim)``).

    Raises:
        ValueError: the rows do not divide; callers have checked.
    """
    third = rows // 3
    if rows % 3:
        raise ValueError(f"{rows} rows are not three equal blocks")
    if layout != "phi-l3":
        return tuple(slice(i * third, (i + 1) * third) for i in range(3))
    if heads is None or heads < 1 or third % heads:
        raise ValueError(f"{third} rows do not divide into {heads} heads")
    size = third // heads
    return tuple(
        [head * 3 * size + part * size + row for head in range(heads) for row in range(size)]
        for part in range(3)
    )


def split(factors: Factors, path: str, layout: str, heads: int | None) -> tuple[Factors, ...]:
    """Three pairs from one fused pair: ``A`` shared, rows of everything else."""
    blocks = row_blocks(layout, factors.b.shape[0], heads)
    return tuple(
        replace(
            factors,
            path=f"{path}.{part}",
            b=take_rows(factors.b, rows),
            magnitude=_rows(factors.magnitude, rows),
            bias_delta=_rows(factors.bias_delta, rows),
        )
        for part, rows in zip(_PARTS, blocks, strict=True)
    )


def split_replacement(
    replacement: Replacement, path: str, leaf: str, layout: str, heads: int | None
) -> tuple[Replacement, ...]:
    """Three replacements from one of a fused weight or bias."""
    blocks = row_blocks(layout, replacement.tensor.shape[0], heads)
    return tuple(
        replace(
            replacement,
            parameter=f"{path}.{part}.{leaf}",
            tensor=take_rows(replacement.tensor, rows),
        )
        for part, rows in zip(_PARTS, blocks, strict=True)
    )


def _rows(tensor: LazyTensor | None, rows: Sequence[int] | slice) -> LazyTensor | None:
    return None if tensor is None else take_rows(tensor, rows)
