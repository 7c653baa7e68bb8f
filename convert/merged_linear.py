"""PEFT 0.2's merged linear layers: fused q/k/v with factors for some of the blocks.

With ``enable_lora`` of three flags and two of them set, ``lora_A (2r, in)`` and the grouped
convolution ``lora_B (2·out/3, r, 1)`` hold one pair per enabled block of ``out/3`` rows
(PEFT v0.2.0, ``tuners/lora.py``, ``MergedLinear.zero_pad``). As one pair of rank ``2r`` that
is the same update: the blocks on the diagonal, zeros elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence

from adaptrix.convert.arrays import reshape
from adaptrix.convert.merged_rows import block_diagonal
from adaptrix.schema.tensor import LazyTensor


def expand(a: LazyTensor, b: LazyTensor, enabled: Sequence[bool]) -> LazyTensor | None:
    """``B (out, 2r)`` of the merged layer, or None when ``b`` is not of that kind.

    The number of groups was fixed to two in that version, so only two enabled blocks
    mean what they seem to mean.
    """
    blocks = [i for i, flag in enumerate(enabled) if flag]
    if len(blocks) != 2 or len(a.shape) != 2 or len(b.shape) != 3 or b.shape[2] != 1:
        return None
    rows, rank = b.shape[0] // 2, b.shape[1]
    if b.shape[0] % 2 or a.shape[0] != 2 * rank:
        return None
    flat = reshape(b, (2 * rows, rank))
    return block_diagonal(flat, blocks, len(enabled))
