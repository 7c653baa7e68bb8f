"""What a tensor file may hold: names, shapes and counts, the same for every container.

The limits are far above any real adapter and far below what exhausts a machine. Every
container reader checks through these functions, so that a name or a shape that one
format refuses is not let in by another. Stable.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from adaptrix.schema.errors import FormatError
from adaptrix.schema.tensor import LazyTensor

MAX_TENSORS = 65_536
MAX_DIMENSIONS = 8
MAX_DIMENSION = 1 << 40
MAX_ELEMENTS = 1 << 56
MAX_NAME_BYTES = 1024

_BIDI = frozenset("\u200e\u200f\u061c") | {chr(c) for c in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))}  # fmt: skip


def printable(text: str) -> str:
    """Text safe for a terminal: control, bidi and lone-surrogate characters are escaped."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(_escape(c) if _is_unsafe(c) else c for c in text)


def check_name(name: str, where: str) -> str:
    """Return ``name`` when it may name a tensor.

    Raises:
        FormatError: ``bad_name``: empty, over 1 KiB, not printable, or with a ``..`` part.
    """
    if name.isascii() and name.isprintable() and 0 < len(name) <= MAX_NAME_BYTES:
        problem = "has a '..' part" if ".." in name and _climbs(name) else ""
    else:
        problem = _name_problem(name)
    if problem:
        shown = printable(name[:80])
        raise FormatError(f"tensor name {shown!r} {problem}", where=where, code="bad_name")
    return name


def check_shape(shape: tuple[int, ...], where: str) -> int:
    """Return the number of elements of ``shape``.

    Raises:
        FormatError: ``bad_shape``: too many dimensions, a negative or huge one.
    """
    if len(shape) > MAX_DIMENSIONS:
        raise FormatError(
            f"{len(shape)} dimensions, at most {MAX_DIMENSIONS}", where=where, code="bad_shape"
        )
    if not all(0 <= n <= MAX_DIMENSION for n in shape):
        raise FormatError("a negative or huge dimension", where=where, code="bad_shape")
    # Counted without the zeros: [0, 2^40, 2^40] is no shape of a real tensor either.
    if math.prod(max(n, 1) for n in shape) > MAX_ELEMENTS:
        raise FormatError("more elements than can exist", where=where, code="bad_shape")
    return math.prod(shape)


def check_count(count: int, where: str) -> None:
    """Refuse more tensors than any adapter has.

    Raises:
        FormatError: ``too_many_tensors``.
    """
    if count > MAX_TENSORS:
        raise FormatError(
            f"{count} tensors, at most {MAX_TENSORS}", where=where, code="too_many_tensors"
        )


def check_some(tensors: Mapping[str, LazyTensor], where: str) -> None:
    """Refuse a container without tensors.

    Raises:
        FormatError: ``no_tensors``.
    """
    if not tensors:
        raise FormatError(
            "the file holds no tensors",
            where=where,
            code="no_tensors",
            hint="The state dict was empty when it was saved: save the trained adapter again.",
        )


def _climbs(name: str) -> bool:
    return ".." in name.replace("\\", "/").split("/")


def _name_problem(name: str) -> str:
    if not name:
        return "is empty"
    if any(_is_unsafe(c) for c in name):
        return "has characters that cannot be printed"
    if len(name.encode()) > MAX_NAME_BYTES:
        return f"is longer than {MAX_NAME_BYTES} bytes"
    return "has a '..' part" if _climbs(name) else ""


def _is_unsafe(character: str) -> bool:
    return not character.isprintable() or character in _BIDI


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
