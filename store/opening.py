"""Opening the index of a home, whatever state its file is in.

A home that cannot be written is read all the same: as it stands, or from the blobs alone. An
index that is damaged is set aside and made again. None of this loses anything: the blobs hold
all that the index says. Internal to the store.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sqlmodel import Session

from adaptrix.schema.errors import AdaptrixError
from adaptrix.store.database import CorruptIndex, Database
from adaptrix.store.disk import DiskStore
from adaptrix.store.faults import DiskFull, translated
from adaptrix.store.locks import locked
from adaptrix.store.rebuild import fill, scan
from adaptrix.store.transaction import IndexTransaction

_SIDE_FILES = ("-wal", "-shm", "-journal")


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexFile:
    """The index file of a home.

    Attributes:
        path: The file, which may not be there.
        blobs: What it is made from.
        notice: Told of what had to be put right.
    """

    path: Path
    blobs: DiskStore
    notice: Callable[[str], None]

    def open(self, *, read_only: bool) -> Database:
        """Open it, or make it again.

        Raises:
            StoreError: neither can be done.
        """
        if read_only:
            return self._open_read_only()
        try:
            return self._open_or_create()
        except CorruptIndex:
            return self._open_anew()
        except DiskFull as full:
            # SQLite wants room beside the file for reading, too, unless it is told that
            # nobody writes; on a full disk nobody can.
            with suppress(AdaptrixError):
                return Database.open_read_only(self.path, refusal=full)
            raise

    def set_aside(self) -> Path:
        """Move a bad index and its side files out of the way; returns the new name."""
        aside = self.path
        for number in range(1, 1_000_000):
            aside = self.path.with_name(f"{self.path.name}.corrupt-{number}")
            if not aside.exists():
                break
        with translated(self.path):
            self.path.rename(aside)
            for suffix in _SIDE_FILES:
                side = self.path.with_name(self.path.name + suffix)
                if side.exists():
                    side.rename(aside.with_name(aside.name + suffix))
        return aside

    def _open_read_only(self) -> Database:
        try:
            return Database.open_read_only(self.path)
        except AdaptrixError as error:
            self.notice(f"index not readable ({error}); read from the blobs instead")
            return Database.in_memory(self.path, self._fill)

    def _open_anew(self) -> Database:
        with locked(self.path.with_name(f"{self.path.name}.lock")):
            try:  # somebody may have put it right while we waited
                return self._open_or_create()
            except CorruptIndex as error:
                aside = self.set_aside()
                self.notice(f"{error}; set aside as {aside.name}, rebuilt from blobs")
            return self._open_or_create()

    def _open_or_create(self) -> Database:
        return Database.open(self.path, self._fill)

    def _fill(self, session: Session) -> None:
        report = fill(IndexTransaction(session), scan(self.blobs))
        if report.versions or report.moves:
            self.notice("the index was rebuilt from the blobs")
        for problem in report.problems:
            self.notice(f"{problem.where}: {problem.message}")
