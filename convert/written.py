"""What a writer returns: files as streams, and how exact they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from adaptrix.schema.report import Fidelity, Problem


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenFile:
    """A file about to be written.

    Attributes:
        path: Relative posix name.
        chunks: Yields the file's bytes; may be called again.
        size_bytes: Length of the file.
        media_type: As in ``schema.media_types``.
    """

    path: str
    chunks: Callable[[], Iterator[bytes | memoryview]]
    size_bytes: int
    media_type: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """An adapter in some format.

    Attributes:
        files: The files, weights first.
        fidelity: How the result relates to the canonical adapter.
        max_abs_error: Largest difference between a module's scale and the scale that a
            reader computes from the file; 0.0 when exact.
        tensors: Number of tensors written.
        problems: What the reader of these files should know.
    """

    files: tuple[WrittenFile, ...]
    fidelity: Fidelity
    max_abs_error: float
    tensors: int
    problems: tuple[Problem, ...] = ()
