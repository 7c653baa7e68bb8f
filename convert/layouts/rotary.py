"""Two row orders of q and k for one rotary embedding.

Meta's code and torchtune rotate neighbouring rows of a head (0 with 1), transformers rotates
halves (0 with ``size/2``). Only rows of ``B`` and what goes with rows move; ``A`` does not.
"""

from __future__ import annotations

from dataclasses import replace

from adaptrix.convert.arrays import take_rows
from adaptrix.convert.draft import Factors
from adaptrix.convert.numeric import np
from adaptrix.schema.tensor import LazyTensor


def half_rows(rows: int, heads: int) -> list[int]:
    """Indices that bring neighbour-rotated rows into transformers' order.

    Source: torchtune, ``models/convert_weights.py``, ``tune_to_peft_adapter_weights``.
    """
    order = np.arange(rows).reshape(heads, rows // heads // 2, 2).swapaxes(1, 2)
    return [int(row) for row in order.reshape(-1)]


def neighbour_rows(rows: int, heads: int) -> list[int]:
    """Inverse of :func:`half_rows`: transformers' rows into Meta's order."""
    order = np.arange(rows).reshape(heads, 2, rows // heads // 2).swapaxes(1, 2)
    return [int(row) for row in order.reshape(-1)]


def reorder(pair: Factors, rows: list[int]) -> Factors:
    """``B``, magnitude and bias with their rows in another order."""

    def moved(tensor: LazyTensor | None) -> LazyTensor | None:
        return None if tensor is None else take_rows(tensor, rows)

    return replace(
        pair,
        b=take_rows(pair.b, rows),
        magnitude=moved(pair.magnitude),
        bias_delta=moved(pair.bias_delta),
    )
