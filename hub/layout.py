"""A shared folder or mounted volume as a place for versions: an OCI image layout.

skopeo, crane and oras read and write it too. ``index.json`` is the only file that changes:
it is replaced whole by a rename, under a lock, and read again afterwards, since locks of
network file systems do not always hold. Source: OCI image-spec 1.1, image-layout.md.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from adaptrix.hub.faults import ContentMismatch
from adaptrix.hub.remote import Progress, Silent
from adaptrix.hub.versions import OpenBlob, Sent, TagMoved
from adaptrix.schema import media_types
from adaptrix.schema.canonical import Json, canonical_json
from adaptrix.schema.descriptor import Descriptor
from adaptrix.schema.digest import Digest
from adaptrix.schema.errors import (
    AccessDenied,
    AdaptrixError,
    FormatError,
    NotFound,
    RemoteError,
    StoreError,
    UsageError,
)
from adaptrix.schema.manifest import MAX_MANIFEST_BYTES, json_object

MARKER, INDEX, LOCK = "oci-layout", "index.json", ".adaptrix-lock"
REFERENCE_NAME = "org.opencontainers.image.ref.name"
_MARKER_BYTES = canonical_json({"imageLayoutVersion": "1.0.0"})
_INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
_HOME_INDEX = "adaptrix.sqlite3"
_MAX_INDEX_BYTES = 64 << 20
_READ_BYTES = 1 << 20
_ATTEMPTS = 5
_TEMPORARY = ".adaptrix-"
_STALE_S = 24 * 3600.0


class LayoutFolder:
    """An OCI layout; follows :class:`adaptrix.hub.versions.VersionRemote`.

    Attributes:
        path: The folder; made by the first push.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def label(self) -> str:
        """See :class:`~adaptrix.hub.versions.VersionRemote`."""
        return str(self.path)

    def names(self) -> tuple[str, ...]:
        """See :class:`~adaptrix.hub.versions.VersionRemote`."""
        return tuple(sorted({name for name, _ in self._tags()}))

    def tags(self, name: str) -> tuple[str, ...]:
        """See :class:`~adaptrix.hub.versions.VersionRemote`."""
        return tuple(sorted(tag for other, tag in self._tags() if other == name))

    def resolve(self, name: str, tag: str) -> Digest | None:
        """See :class:`~adaptrix.hub.versions.VersionRemote`."""
        try:
            return self._tags().get((name, tag))
        except NotFound:
            return None

    def manifest(self, name: str, digest: Digest) -> bytes:
        """See :class:`~adaptrix.hub.versions.VersionRemote`."""
        with _reported(self.path), self._open(digest) as file:
            data = file.read(MAX_MANIFEST_BYTES + 1)
        actual = Digest.of(data)
        if actual != digest:
            raise ContentMismatch(
                where=f"{self.label}/{name}",
                expected=digest,
                actual=actual,
                size_bytes=len(data),
            )
        return data

    def has_blob(self, name: str, blob: Descriptor) -> bool:
        """See :class:`~adaptrix.hub.versions.VersionRemote`; a damaged one counts as absent."""
        try:
            return self._place(blob.digest).lstat().st_size == blob.size_bytes
        except OSError:
            return False

    def stream(
        self, name: str, digest: Digest, size_bytes: int, *, start: int = 0, stop: int | None = None
    ) -> Iterator[bytes]:
        """See :class:`~adaptrix.hub.versions.VersionRemote`."""
        left = (size_bytes if stop is None else stop) - start
        with _reported(self.path), self._open(digest) as file:
            file.seek(start)
            while left > 0 and (chunk := file.read(min(left, _READ_BYTES))):
                left -= len(chunk)
                yield chunk

    def push_blob(
        self,
        name: str,
        blob: Descriptor,
        opened: OpenBlob,
        *,
        near: Sequence[str] = (),
        progress: Progress | None = None,
    ) -> Sent:
        """See :class:`~adaptrix.hub.versions.VersionRemote`."""
        if self.has_blob(name, blob):
            return Sent.PRESENT
        self._prepare()
        watcher = progress or Silent()
        watcher.start(blob.digest.short, blob.size_bytes, 0)
        with opened() as stream:
            self._write_blob(blob.digest, iter(lambda: stream.read(_READ_BYTES), b""), watcher)
        watcher.finish()
        return Sent.UPLOADED

    def push_manifest(
        self, name: str, data: bytes, *, tag: str, expected: Digest | None, force: bool = False
    ) -> Digest:
        """See :class:`~adaptrix.hub.versions.VersionRemote`."""
        self._prepare()
        digest = Digest.of(data)
        self._write_blob(digest, (data,), Silent())
        for _ in range(_ATTEMPTS):
            with _reported(self.path), self._locked():
                current = self.resolve(name, tag)
                if current == digest:
                    return digest
                if current != expected and not force:
                    where = f"{self.label}/{name}:{tag}"
                    raise TagMoved(where=where, wanted=expected, got=current)
                self._rewrite(name, tag, data)
        raise StoreError("somebody else keeps overwriting it", where=str(self.path / INDEX))

    def close(self) -> None:
        """Nothing to close."""

    def _place(self, digest: Digest) -> Path:
        return self.path / "blobs" / "sha256" / digest.hex

    def _open(self, digest: Digest) -> BinaryIO:
        try:
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
            return os.fdopen(os.open(self._place(digest), flags), "rb")
        except FileNotFoundError:
            raise NotFound("not there", where=f"{self.label} blob {digest}") from None

    def _tags(self) -> dict[tuple[str, str], Digest]:
        found = {}
        for entry in self._entries():
            annotations = entry.get("annotations")
            text = annotations.get(REFERENCE_NAME) if isinstance(annotations, dict) else None
            if isinstance(text, str) and text:
                # Other tools write a name alone.
                name, _, tag = text.partition(":")
                found[name, tag or "latest"] = Digest.parse(str(entry.get("digest")))
        return found

    def _entries(self) -> list[dict[str, Any]]:
        with _reported(self.path):
            try:
                with (self.path / INDEX).open("rb") as file:
                    data = file.read(_MAX_INDEX_BYTES + 1)
            except FileNotFoundError:
                raise NotFound(
                    "nothing was pushed there yet",
                    where=str(self.path),
                    hint="Is the volume mounted?",
                ) from None
        where = str(self.path / INDEX)
        if len(data) > _MAX_INDEX_BYTES:
            raise FormatError(f"more than {_MAX_INDEX_BYTES} bytes", where=where)
        try:
            entries = json.loads(data)["manifests"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise FormatError(f"no OCI index: {error!r}"[:200], where=where) from error
        if not isinstance(entries, list) or not all(isinstance(e, dict) for e in entries):
            raise FormatError("no list of manifests", where=where)
        return entries

    def _prepare(self) -> None:
        """Make the folder a layout, unless it is one.

        Raises:
            UsageError: it holds something else, or is a registry's own home.
        """
        if (self.path / _HOME_INDEX).exists():
            raise UsageError(
                "this folder is somebody's own registry",
                where=str(self.path),
                hint="Share a folder of its own, or pull from this one.",
            )
        if not self.path.parent.is_dir():
            raise RemoteError("no such folder", where=str(self.path.parent), code="folder")
        with _reported(self.path):
            if not (self.path / MARKER).exists():
                self._require_ours()
                (self.path / "blobs" / "sha256").mkdir(parents=True, exist_ok=True)
                self._replace(self.path / MARKER, (_MARKER_BYTES,))
            (self.path / "blobs" / "sha256").mkdir(parents=True, exist_ok=True)
            if not (self.path / INDEX).exists():
                empty: Json = {"schemaVersion": 2, "mediaType": _INDEX_TYPE, "manifests": []}
                self._replace(self.path / INDEX, (canonical_json(empty),), keep=True)
            self._sweep()

    def _require_ours(self) -> None:
        """Refuse a folder with other things in it; what a crash left of ours is none."""
        if not self.path.is_dir():
            return
        for entry in self.path.iterdir():
            if entry.name not in {"blobs", INDEX} and not entry.name.startswith(_TEMPORARY):
                raise UsageError("the folder holds something else", where=str(self.path))

    def _sweep(self) -> None:
        """Remove what crashed pushes left a day ago or earlier."""
        for entry in self.path.glob(f"{_TEMPORARY}*"):
            with suppress(OSError):
                if entry.name != LOCK and time.time() - entry.lstat().st_mtime > _STALE_S:
                    entry.unlink()

    def _rewrite(self, name: str, tag: str, data: bytes) -> None:
        text = f"{name}:{tag}"
        document = json_object(data, "manifest")
        entry: dict[str, Any] = {
            "mediaType": document.get("mediaType", media_types.MANIFEST),
            "digest": str(Digest.of(data)),
            "size": len(data),
            "annotations": {REFERENCE_NAME: text},
        }
        if "artifactType" in document:
            entry["artifactType"] = document["artifactType"]
        spellings = {text, name} if tag == "latest" else {text}
        others = [e for e in self._entries() if _name_of(e) not in spellings]
        entries = sorted([*others, entry], key=_name_of)
        index: Json = {"schemaVersion": 2, "mediaType": _INDEX_TYPE, "manifests": entries}
        self._replace(self.path / INDEX, (canonical_json(index),))

    def _write_blob(self, digest: Digest, chunks: Iterable[bytes], progress: Progress) -> None:
        with _reported(self.path):
            self._replace(self._place(digest), chunks, expected=digest, progress=progress)

    def _replace(
        self,
        target: Path,
        chunks: Iterable[bytes],
        *,
        expected: Digest | None = None,
        progress: Progress | None = None,
        keep: bool = False,
    ) -> None:
        """Write beside the target, check, sync, rename; ``keep`` leaves one that is there."""
        temporary = self.path / f"{_TEMPORARY}{os.getpid()}-{secrets.token_hex(6)}"
        state, size_bytes = hashlib.sha256(), 0
        try:
            with temporary.open("xb") as file:
                for chunk in chunks:
                    state.update(chunk)
                    size_bytes += len(chunk)
                    file.write(chunk)
                    if progress is not None:
                        progress.advance(len(chunk))
                file.flush()
                os.fsync(file.fileno())
            actual = Digest(state.hexdigest())
            if expected is not None and actual != expected:
                raise ContentMismatch(
                    where=str(target), expected=expected, actual=actual, size_bytes=size_bytes
                )
            if not (keep and target.exists()):
                temporary.replace(target)
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
        _sync(target.parent)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with (self.path / LOCK).open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _name_of(entry: dict[str, Any]) -> str:
    annotations = entry.get("annotations")
    return str(annotations.get(REFERENCE_NAME, "")) if isinstance(annotations, dict) else ""


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _reported(path: Path) -> Iterator[None]:
    """Turn what the file system says into our errors."""
    try:
        yield
    except AdaptrixError:
        raise
    except PermissionError as error:
        raise AccessDenied(error.strerror or "not allowed", where=str(path)) from error
    except OSError as error:
        raise RemoteError(error.strerror or str(error), where=str(path), code="folder") from error
