"""How much room a home takes, and for what."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from adaptrix.store.faults import translated

if TYPE_CHECKING:
    from adaptrix.store.home import Home


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Sizes in bytes.

    Attributes:
        versions: Number of versions.
        references: Number of names.
        blobs: Number of blobs.
        blob_bytes: What they take.
        version_bytes: What the files of all versions would take, each stored by itself.
        file_bytes: What they take, each stored once.
        ratio: ``version_bytes / file_bytes``: 2 means that every file is held twice on average.
        index_bytes: The SQLite file and its side files.
        temporary_bytes: Attempts in ``tmp/``.
        quarantine_bytes: Damaged blobs that were moved aside.
    """

    versions: int
    references: int
    blobs: int
    blob_bytes: int
    version_bytes: int
    file_bytes: int
    ratio: float
    index_bytes: int
    temporary_bytes: int
    quarantine_bytes: int


def measure(home: Home) -> Usage:
    """Measure a home.

    Raises:
        StoreError: it cannot be read.
    """
    versions = home.versions()
    digests = list(home.blobs.digests())
    version_bytes = sum(version.size_bytes for version in versions)
    file_bytes = home.index.file_bytes()
    return Usage(
        versions=len(versions),
        references=len(home.references.all()),
        blobs=len(digests),
        blob_bytes=sum(map(home.blobs.size, digests)),
        version_bytes=version_bytes,
        file_bytes=file_bytes,
        ratio=version_bytes / file_bytes if file_bytes else 1.0,
        index_bytes=_sizes(home.path.glob("adaptrix.sqlite3*")),
        temporary_bytes=_sizes(home.blobs.temporary.glob("*")),
        quarantine_bytes=_sizes((home.path / "quarantine").glob("*")),
    )


def _sizes(paths: Iterable[Path]) -> int:
    total = 0
    for path in paths:
        with translated(path):
            try:
                total += path.lstat().st_size
            except FileNotFoundError:
                continue
    return total
