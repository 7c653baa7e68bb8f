"""PEFT 0.2's merged linear layers: fused q/k/v with factors for some of the blocks.

With ``n`` of ``enable_lora``'s flags set, ``lora_A`` is ``(n·r, in)`` and ``lora_B`` the kernel
``(n·out/len, n·r/2, 1)`` of a convolution in two groups, whatever ``n`` is: the first half of
its rows sees the first half of ``A``, the second half the rest. The result is spread over the
rows of the enabled blocks (PEFT v0.2.0, ``tuners/lora.py``, ``MergedLinear.forward``). With two
flags that is one pair per block. As one pair of rank ``n·r`` it is the same update.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from adaptrix.convert.arrays import bits, content
from adaptrix.schema.tensor import LazyTensor

_GROUPS = 2
"""Written into that version, where the number of enabled blocks was meant."""


def expand(a: LazyTensor, b: LazyTensor, enabled: Sequence[bool]) -> LazyTensor | None:
    """``B (out, n·r)`` of the merged layer, or None when ``b`` is not of that kind."""
    blocks = [i for i, flag in enumerate(enabled) if flag]
    if not blocks or len(a.shape) != 2 or len(b.shape) != 3 or b.shape[2] != 1:
        return None
    rows, half = b.shape[0], b.shape[1]
    if rows % len(blocks) or rows % _GROUPS or a.shape[0] != _GROUPS * half:
        return None
    height = rows // len(blocks)
    shape = (height * len(enabled), _GROUPS * half)
    places = [block * height + row for block in blocks for row in range(height)]

    def load() -> memoryview:
        import numpy as np

        stored = bits(b)[:, :, 0]
        wide = np.zeros(shape, dtype=stored.dtype)
        for group in range(_GROUPS):
            part = slice(group * rows // _GROUPS, (group + 1) * rows // _GROUPS)
            wide[places[part], group * half : (group + 1) * half] = stored[part]
        return content(wide)

    return replace(b, shape=shape, load=load)
