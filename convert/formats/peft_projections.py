"""VeRA's shared projections, drawn again when the file does not hold them.

With ``save_projection: false`` PEFT draws ``A₀`` and ``B₀`` anew whenever it loads, from a
generator seeded with ``projection_prng_key``, at the largest width and height among the
adapted modules. The generator is the Mersenne Twister of 1998, and torch's ``uniform_`` on
the CPU takes the low 24 bits of each number, one after the other, and applies one fused
multiply-add in float32. All of that is repeated here without torch.
Source: PEFT 0.21, ``tuners/vera/model.py``; PyTorch, ``TransformationHelper.h``.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, TypeAlias

from adaptrix.convert.arrays import from_array
from adaptrix.convert.numeric import np
from adaptrix.schema.tensor import DType, LazyTensor

if TYPE_CHECKING:
    import numpy.typing as npt

Floats: TypeAlias = "npt.NDArray[np.float32]"
MAX_ELEMENTS = 1 << 30


def drawn_projections(
    key: int, rank: int, width: int, height: int
) -> tuple[LazyTensor, LazyTensor]:
    """``A₀ (rank, width)`` and ``B₀ (height, rank)``.

    Raises:
        ValueError: more numbers than any model of VeRA has.
    """
    if not 0 <= key < 1 << 63 or max(rank * width, rank * height) > MAX_ELEMENTS:
        raise ValueError("projections of this key or size are not drawn")
    a, b = _drawn(key, rank, width, height)
    where = f"projection_prng_key {key}"
    return from_array(a, DType.F32, f"{where}: vera_A"), from_array(
        b, DType.F32, f"{where}: vera_B"
    )


@lru_cache(maxsize=1)
def _drawn(key: int, rank: int, width: int, height: int) -> tuple[Floats, Floats]:
    # torch seeds the twister with the low 32 bits, as init_genrand does.
    twister = np.random.MT19937()
    twister._legacy_seeding(key & 0xFFFFFFFF)
    return _uniform(twister, rank, width), _uniform(twister, height, rank)


def _uniform(twister: np.random.MT19937, rows: int, columns: int) -> Floats:
    """Kaiming's uniform initialisation (He et al. 2015, eq. 10) for ``fan_in = columns``."""
    bound = math.sqrt(3.0) * (math.sqrt(2.0) / math.sqrt(columns))
    low = np.float32(-bound)
    span = np.float32(np.float32(bound) - low)
    raw = twister.random_raw(rows * columns)
    unit = (raw & 0xFFFFFF).astype(np.float64) * 2.0**-24
    # The product of two 24-bit numbers is exact in float64: one rounding, as a fused step has.
    drawn: Floats = (unit * float(span) + float(low)).astype(np.float32)
    return drawn.reshape(rows, columns)
