"""What a plan measures on one module, from Gram matrices alone, without torch.

``BᵀB = LLᵀ`` means ``B = Q·Lᵀ`` for some orthonormal ``Q``, so the small matrices
``M_t = L_bᵀ[:, t] · L_aᵀ[:, t]ᵀ`` are the updates in orthonormal bases that are never
computed. Norms, angles, common directions and singular values are read off them.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from adaptrix.compose.arrays import Array, float32_of
from adaptrix.compose.inputs import Group, Share

Small = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Measured:
    """One pair on one module, before anything is divided.

    Attributes:
        one, other: The two shares.
        inner: Inner product of the weighted updates.
        norms: Their norms.
        overlap: ``‖Q_oneᵀ Q_other‖² / min rank``, mean over outputs and inputs.
        opposed: ``Σ|xy|`` over entries of opposite sign, in common singular directions.
        product: ``Σ|xy|`` over all entries there.
    """

    one: Share
    other: Share
    inner: float
    norms: tuple[float, float]
    overlap: float
    opposed: float
    product: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MeasuredModule:
    """One module: its pairs, and the energy of the sum beyond a rank and in all."""

    group: Group
    pairs: tuple[Measured, ...]
    lost: float
    energy: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Workspace:
    """Memory for stacked factors, used again for every module of a shape."""

    arrays: dict[tuple[int, int], Array] = field(default_factory=dict)

    def of(self, rows: int, columns: int) -> Array:
        """An array of that shape with whatever was in it."""
        if (rows, columns) not in self.arrays:
            self.arrays[rows, columns] = np.empty((rows, columns), dtype=np.float32)
        return self.arrays[rows, columns]


def measure(group: Group, rank: int, workspace: Workspace) -> MeasuredModule:
    """Measure one module; ``rank`` is what the loss is predicted for."""
    ranks = [share.module.rank for share in group.shares]
    starts = [0, *itertools.accumulate(ranks)]
    blocks = [slice(*ends) for ends in itertools.pairwise(starts)]
    ups, downs = _grams(group, blocks, starts[-1], workspace)
    left, right = _root(ups), _root(downs)
    cores = np.stack([left[:, block] @ right[:, block].T for block in blocks])
    whole = cores.sum(0)
    # Eigenvalues of ΣΣᵀ are the squared singular values, which is what an energy is.
    energies = np.maximum(np.linalg.eigvalsh(whole @ whole.T)[::-1], 0.0)
    pairs = _pairs(group, cores, (ups, downs), blocks) if len(blocks) > 1 else ()
    return MeasuredModule(
        group=group, pairs=pairs, lost=float(energies[rank:].sum()), energy=float(energies.sum())
    )


def _grams(
    group: Group, blocks: Sequence[slice], total: int, workspace: Workspace
) -> tuple[Small, Small]:
    """``BᵀB`` with weights and scales folded in, and ``AAᵀ``, both ``(R, R)``."""
    first = group.shares[0].module
    up = workspace.of(first.out_features, total)
    down = workspace.of(total, first.in_features)
    factors = np.empty(total)
    for share, block in zip(group.shares, blocks, strict=True):
        up[:, block] = float32_of(share.module.b)
        down[block] = float32_of(share.module.a)
        factors[block] = share.factor
    # Single precision is plenty for a forecast, and twice as fast to read.
    ups: Small = (up.T @ up).astype(np.float64) * np.outer(factors, factors)
    return ups, (down @ down.T).astype(np.float64)


def _root(gram: Small) -> Small:
    """``R`` with ``RᵀR = gram``."""
    try:
        lower = np.linalg.cholesky(gram).astype(np.float64, copy=False)
    except np.linalg.LinAlgError:
        # Directions that adapters share leave nothing to divide by.
        values, vectors = np.linalg.eigh(gram)
        lower = vectors * np.sqrt(np.maximum(values, 0.0))
    return lower.T


def _pairs(
    group: Group, cores: Small, grams: tuple[Small, Small], blocks: Sequence[slice]
) -> tuple[Measured, ...]:
    """Every two adapters, in the common singular directions of all."""
    turned = _turned(cores)
    norms = np.linalg.norm(cores, axis=(1, 2))
    overlaps = (_overlaps(grams[0], blocks) + _overlaps(grams[1], blocks)) / 2
    found = []
    for i, j in itertools.combinations(range(len(blocks)), 2):
        product = turned[i] * turned[j]
        whole = float(np.abs(product).sum())
        inner = float((cores[i] * cores[j]).sum())
        found.append(
            Measured(
                one=group.shares[i],
                other=group.shares[j],
                inner=inner,
                norms=(float(norms[i]), float(norms[j])),
                overlap=float(overlaps[i, j]),
                opposed=max(0.0, whole - inner) / 2,
                product=whole,
            )
        )
    return tuple(found)


def _turned(cores: Small) -> Small:
    """The cores in the singular directions of all side by side, and on top of each other."""
    wide, tall = np.hstack(list(cores)), np.vstack(list(cores))
    # Single precision does for directions in which shares are counted.
    sides = np.stack([wide @ wide.T, tall.T @ tall]).astype(np.float32)
    u, v = np.linalg.eigh(sides)[1].astype(np.float64)
    turned: Small = u.T @ cores @ v
    return turned


def _overlaps(gram: Small, blocks: Sequence[slice]) -> Small:
    """``‖Q_iᵀ Q_j‖² / min rank`` of blocks of columns ``(T, T)``, from their Gram matrix."""
    white = np.zeros_like(gram)
    ranks = []
    for block, (values, vectors) in zip(blocks, _spectra(gram, blocks), strict=True):
        kept = values > max(float(values[-1]), 0.0) * 1e-6
        white[block, block] = np.where(kept, vectors / np.sqrt(np.where(kept, values, 1.0)), 0.0)
        ranks.append(int(kept.sum()))
    squares = np.square(white.T @ gram @ white)
    starts = [block.start for block in blocks]
    sums = np.add.reduceat(np.add.reduceat(squares, starts, axis=0), starts, axis=1)
    least = np.minimum.outer(ranks, ranks)
    found: Small = np.where(least > 0, sums / np.maximum(least, 1), 0.0)
    return found


def _spectra(gram: Small, blocks: Sequence[slice]) -> list[tuple[Small, Small]]:
    """Eigenvalues and vectors of the blocks on the diagonal; of equal ones at once."""
    own = [gram[block, block] for block in blocks]
    if len({part.shape for part in own}) == 1:
        values, vectors = np.linalg.eigh(np.stack(own))
        return list(zip(values, vectors, strict=True))
    return [(values, vectors) for values, vectors in map(np.linalg.eigh, own)]
