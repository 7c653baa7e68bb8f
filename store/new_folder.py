"""Folders outside the store that appear whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from adaptrix.schema.errors import UsageError


def require_new_folder(folder: Path) -> None:
    """Refuse a folder that holds something.

    Raises:
        UsageError: it does, or it is a file.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError("expected a new or empty folder", where=str(folder))


@contextmanager
def staging(output: Path) -> Iterator[Path]:
    """An empty folder beside ``output``, on its file system, that is gone afterwards.

    Unless the block renames it, or what is in it, to ``output``.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    place = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.parent))
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


@contextmanager
def appearing(folder: Path) -> Iterator[Path]:
    """A folder that takes the name ``folder`` when the block ends without an error.

    Its files are on the disk by then.
    """
    with staging(folder) as place:
        yield place
        for file in place.rglob("*"):
            _sync(file)
        _sync(place)
        place.chmod(0o755)
        place.replace(folder)
    _sync(folder.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
