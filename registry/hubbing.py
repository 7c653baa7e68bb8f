"""The Hub's side of pull and inspect: snapshots into the store, headers by ranges."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from adaptrix.convert.source import ByteSource
from adaptrix.hub.huggingface import HuggingFaceHub
from adaptrix.hub.ranged import RangedSource
from adaptrix.hub.remote import Remote, RemoteFile, Sink, Snapshot
from adaptrix.hub.selection import Selection, select_in
from adaptrix.hub.settings import HubSettings
from adaptrix.hub.transfer import fetch_file
from adaptrix.registry.sources import OpenedSource, selected, stored_file
from adaptrix.schema.digest import Digest
from adaptrix.schema.errors import IntegrityError
from adaptrix.schema.record import SourceFile, SourceRecord
from adaptrix.schema.reference import HubSource
from adaptrix.store.blobs import BlobWriter
from adaptrix.store.home import Home

if TYPE_CHECKING:
    from adaptrix.hub.remote import Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchedSnapshot:
    """The adapter's files of a snapshot, in the store."""

    opened: OpenedSource
    record: SourceRecord
    fetched_bytes: int


def open_remote(source: HubSource, token: str = "") -> tuple[Remote, Snapshot]:
    """The repository and the commit that ``source`` names now."""
    settings = HubSettings.from_environment()
    if token:
        settings = replace(settings, token=token)
    remote = HuggingFaceHub(source, settings)
    return remote, remote.snapshot()


def selection_of(snapshot: Snapshot) -> Selection:
    """The files of a snapshot that its adapter needs."""
    return select_in(snapshot.folder, {file.path: file.size_bytes for file in snapshot.files})


def fetch_snapshot(
    home: Home,
    remote: Remote,
    snapshot: Snapshot,
    *,
    label: str,
    progress: Progress | None,
    kind: str = "hub",
) -> FetchedSnapshot:
    """Fetch the files that an adapter needs; those that are here already do not travel.

    They stay in the store as blobs without a name, until ``gc``.
    """
    by_path = {file.path: file for file in snapshot.files}
    selection = selection_of(snapshot)
    sources: dict[str, ByteSource] = {}
    files, fetched = [], 0
    for name in selection.wanted:
        file = by_path[name]
        if file.sha256 is not None and home.blobs.has(file.sha256):
            digest = file.sha256
        else:
            digest, travelled = _fetch(home, remote, snapshot, file, progress)
            fetched += travelled
        path = home.blobs.path(digest)
        if path is None:
            raise IntegrityError("a fetched file is gone again", where=name)
        sources[name] = stored_file(path, name)
        files.append(SourceFile(path=name, digest=digest, size_bytes=file.size_bytes))
    return FetchedSnapshot(
        opened=selected(label, label, selection, sources),
        record=SourceRecord(
            kind=kind, repository=snapshot.repository, commit=snapshot.commit, files=tuple(files)
        ),
        fetched_bytes=fetched,
    )


def _fetch(
    home: Home,
    remote: Remote,
    snapshot: Snapshot,
    file: RemoteFile,
    progress: Progress | None,
) -> tuple[Digest, int]:
    """Stream one file into a blob; returns its digest and the bytes that travelled."""
    opened: list[BlobWriter] = []

    @contextmanager
    def sink() -> Iterator[Sink]:
        with home.blobs.writer(
            expected_digest=file.sha256,
            expected_size=file.size_bytes,
            # Only what has a digest of its own can be continued by another process.
            partial=file.sha256.hex if file.sha256 is not None else None,
        ) as writer:
            opened.append(writer)
            yield writer

    travelled = fetch_file(
        remote,
        snapshot,
        file,
        sink,
        settings=HubSettings.from_environment(),
        progress=progress,
    )
    return opened[-1].descriptor.digest, travelled


def ranged(remote: Remote, snapshot: Snapshot, *, label: str) -> OpenedSource:
    """The adapter's files of a snapshot, read in ranges where they are."""
    by_path = {file.path: file for file in snapshot.files}
    selection = selection_of(snapshot)
    sources: dict[str, ByteSource] = {
        name: RangedSource(remote, snapshot, by_path[name]) for name in selection.wanted
    }
    return selected(label, label, selection, sources)
