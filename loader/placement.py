"""In which types a base is stored, merged and computed with, and what that costs.

Pure: decided from the configuration, so that a plan says what loading will do.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from adaptrix.loader.plan import LoadPlan
from adaptrix.loader.structure import BaseStructure
from adaptrix.loader.workers import SCRATCH_ELEMENTS

WIDEN_BELOW_BYTES = 1 << 30
"""Size up to which a float16 base on a CPU is simply held in float32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where a base goes and in which types.

    Attributes:
        device: Type of the device.
        stored: What weights are kept in while no adapter is merged into them.
        dtype: What merged weights are rounded to.
        compute: What the model computes in.
        held: Whether linear layers and embeddings widen narrow weights as they compute.
    """

    device: str
    stored: torch.dtype
    dtype: torch.dtype
    compute: torch.dtype
    held: bool

    @property
    def merged(self) -> torch.dtype:
        """What merged weights are kept in."""
        return self.dtype if self.held else self.compute


def place(
    own: torch.dtype,
    wanted: torch.dtype | None,
    *,
    device: str,
    parameters: int,
    widen_below: int = WIDEN_BELOW_BYTES,
) -> Placement:
    """Decide for a checkpoint of type ``own`` from which ``wanted`` was asked.

    On a CPU float16 computes in float32: see docs/decisions/0003-cpu-float16.md. Weights that
    are narrower than what they compute in stay narrow when the wide ones would take more
    than ``widen_below`` bytes.
    """
    dtype = wanted or own
    cpu = device == "cpu"
    compute = torch.float32 if cpu and dtype is torch.float16 else dtype
    narrow = own if torch.promote_types(own, dtype) is dtype else dtype
    held = cpu and narrow is not compute and parameters * compute.itemsize > widen_below
    return Placement(
        device=device, stored=narrow if held else compute, dtype=dtype, compute=compute, held=held
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What loading a plan will move and need.

    Attributes:
        placement: Where and in which types.
        base_bytes: The base alone, as it is stored.
        read_bytes: Weights to change, and the adapters' factors.
        written_bytes: Merged weights and replaced parameters.
        memory_bytes: Weights and factors that are there at the same time, and scratch;
            without the libraries and what generating takes.
    """

    placement: Placement
    base_bytes: int
    read_bytes: int
    written_bytes: int
    memory_bytes: int

    def lines(self) -> Iterator[str]:
        """For people."""
        names = {
            kind: str(getattr(self.placement, kind)).removeprefix("torch.")
            for kind in ("stored", "dtype", "compute")
        }
        yield (
            f"base {_size(self.base_bytes)} in {names['stored']} on {self.placement.device}, "
            f"merged in {names['dtype']}, computed in {names['compute']}"
        )
        yield (
            f"reads {_size(self.read_bytes)}, writes {_size(self.written_bytes)}, "
            f"needs {_size(self.memory_bytes)} of memory"
        )


def forecast(
    planned: LoadPlan, structure: BaseStructure, placement: Placement, *, threads: int = 1
) -> Forecast:
    """What ``planned`` will move and need."""
    sizes = {name: torch.Size(shape).numel() for name, shape in structure.parameters.items()}
    touched = {module.shape.parameter for module in planned.modules}
    touched |= {item.parameter for _, item in planned.replacements}
    changed = sum(sizes[name] for name in touched)
    base_bytes = structure.parameter_count * placement.stored.itemsize
    source_bytes = sum(
        part.size_bytes
        for module in planned.modules
        for share in module.shares
        for part in (share.module.a, share.module.b)
    )
    if planned.mode == "attached":
        return Forecast(
            placement=placement, base_bytes=base_bytes, read_bytes=source_bytes, written_bytes=0,
            memory_bytes=base_bytes + planned.factor_bytes,
        )  # fmt: skip
    written = changed * placement.merged.itemsize
    # Mapped pages of what was merged are given back; pristine weights elsewhere stay.
    pristine = changed * placement.stored.itemsize
    kept = base_bytes - pristine if placement.held else base_bytes
    # A tile widened, its update, their sum, and what the product needs (loader/tiles.py).
    scratch = threads * 4 * SCRATCH_ELEMENTS * 4
    return Forecast(
        placement=placement,
        base_bytes=base_bytes,
        read_bytes=pristine + source_bytes,
        written_bytes=written,
        memory_bytes=kept + written + source_bytes + scratch,
    )


def _size(count: int) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"
