"""From the canonical adapter to files, and the digest of its tensors. Stable."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace

from adaptrix.convert.formats import FORMATS
from adaptrix.convert.layouts.target import TARGET_LAYOUTS, in_layout
from adaptrix.convert.tensor_file import tensor_chunks
from adaptrix.convert.writers import diffusers_old, mlx_npz, phi_layouts
from adaptrix.convert.written import Written, WrittenFile
from adaptrix.schema.adapter import Adapter, BaseRequirement
from adaptrix.schema.digest import Digest
from adaptrix.schema.errors import Refused, UsageError
from adaptrix.schema.report import Fidelity

__all__ = ["TARGETS", "TARGET_LAYOUTS", "Written", "WrittenFile", "tensors_digest", "write_adapter"]

_WRITERS = {form.name: form.write for form in FORMATS if form.write is not None} | {
    # PEFT's files for other code of the same model: layouts, not formats of their own.
    **phi_layouts.LAYOUTS,
    # MLX-LM's factors in the container that it used before its configuration.
    "mlx-npz": mlx_npz.write,
    # diffusers' files before it used PEFT.
    diffusers_old.TARGET: diffusers_old.write,
}
_CARRIERS = {"peft", *phi_layouts.LAYOUTS}
"""Targets whose configuration names the initialisation that changed the base."""
TARGETS: tuple[str, ...] = tuple(sorted(_WRITERS))
"""Names that :func:`write_adapter` accepts."""


def write_adapter(adapter: Adapter, format_name: str, *, layout: str | None = None) -> Written:
    """The adapter in another format.

    Args:
        adapter: What to write.
        format_name: One of :data:`TARGETS`.
        layout: One of :data:`TARGET_LAYOUTS`, or None for the base's current class.

    Raises:
        UsageError: no such format.
        Refused: the format cannot express this adapter exactly.
    """
    writer = _WRITERS.get(format_name)
    if writer is None:
        raise UsageError(
            f"no writer for format {format_name[:40]!r}",
            where="format",
            hint=f"Choose one of {', '.join(TARGETS)}.",
        )
    if adapter.obstacle and format_name != "peft":
        raise Refused(
            adapter.obstacle,
            where=format_name,
            code="unsupported_target",
            hint="Write it with --to peft, or merge it into its base with PEFT.",
        )
    if adapter.needs_base is BaseRequirement.RESIDUAL and format_name not in _CARRIERS:
        raise Refused(
            "the adapter was trained on a modified base, and only PEFT's files can say so",
            where=format_name,
            code="unsupported_target",
            hint="Provide the initial adapter, or merge it into that base with PEFT.",
        )
    if layout is None:
        return writer(adapter)
    if layout not in TARGET_LAYOUTS:
        raise UsageError(
            f"no layout {layout[:40]!r}",
            where="--target-layout",
            hint=f"Choose one of {', '.join(TARGET_LAYOUTS)}.",
        )
    other, exact = in_layout(adapter, layout)
    written = writer(other)
    return written if exact else replace(written, fidelity=Fidelity.ROUNDING)


def tensors_digest(adapter: Adapter, *, on_bytes: Callable[[int], None] | None = None) -> Digest:
    """SHA-256 of the canonical tensors, whatever file they came from.

    For each tensor, sorted by name: the name, a NUL, the dtype, a NUL, the shape as decimal
    numbers joined by commas, a NUL, and the little-endian bytes. ``on_bytes`` is told of each piece.
    """
    tensors = adapter.tensors()
    digest = hashlib.sha256()
    for name, tensor in tensors.items():
        shape = ",".join(map(str, tensor.shape))
        digest.update(f"{name}\0{tensor.dtype.value}\0{shape}\0".encode())
        for chunk in tensor_chunks(tensors, [name], lambda _: 0):
            digest.update(chunk)
            if on_bytes is not None:
                on_bytes(len(chunk))
    return Digest(digest.hexdigest())
