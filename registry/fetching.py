"""Versions from a remote: fetched with their ancestors, every claim checked, then named.

A version that Adaptrix made keeps its digest on every machine. What another tool pushed
(raw layers with file names) is read like a folder of files.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from adaptrix.convert.reading import ReadOptions
from adaptrix.hub.remote import RemoteFile, Sink, Snapshot
from adaptrix.hub.settings import HubSettings
from adaptrix.hub.transfer import fetch_file
from adaptrix.hub.versions import VersionFiles, VersionRemote
from adaptrix.registry.remotes import Place
from adaptrix.registry.verifying import verify_manifest
from adaptrix.schema import media_types
from adaptrix.schema.descriptor import Descriptor
from adaptrix.schema.digest import Digest
from adaptrix.schema.errors import (
    FormatError,
    IntegrityError,
    NotFound,
    PolicyRefused,
    StoreError,
)
from adaptrix.schema.manifest import MAX_MANIFEST_BYTES, Manifest, is_safe_path, json_object
from adaptrix.schema.problems import Severity
from adaptrix.schema.report import Verdict
from adaptrix.store.home import Home

if TYPE_CHECKING:
    from adaptrix.hub.remote import Progress

MAX_VERSIONS = 10_000
MAX_LAYERS = 10_000
_PACKED = ("tar", "gzip", "zstd")


class Diverged(StoreError):
    """The name here points to something that the remote's version does not descend from.

    Attributes:
        here: Where it points.
        there: What the remote has.
    """

    code = "diverged"

    def __init__(self, *, where: str, here: Digest, there: Digest) -> None:
        super().__init__(
            f"here {here}, there {there}, and neither came from a pull of the other",
            where=where,
            hint="Keep both with --as NAME, or let the name here move with --force.",
        )
        self.here, self.there = here, there


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """A manifest at a remote.

    Attributes:
        digest: Its digest.
        data: Its bytes.
        document: As JSON.
        ours: Whether Adaptrix made it.
    """

    digest: Digest
    data: bytes
    document: dict[str, Any]
    ours: bool


@dataclass(slots=True, kw_only=True)
class Fetched:
    """What a fetch brought.

    Attributes:
        bytes: Bytes that travelled.
        versions: Versions that are new here.
        absent: Ancestors that the remote does not have.
    """

    bytes: int = 0
    versions: int = 0
    absent: list[Digest] = field(default_factory=list)


def find(remote: VersionRemote, place: Place) -> Digest:
    """The digest that a place names now.

    Raises:
        NotFound: nothing of that name.
    """
    digest = place.digest or remote.resolve(place.name, place.tag)
    if digest is None:
        raise NotFound("no such adapter at the remote", where=place.label)
    return digest


def read_artifact(remote: VersionRemote, name: str, digest: Digest) -> Artifact:
    """A manifest at a remote, and whether it is one of ours.

    Raises:
        FormatError: no image manifest.
    """
    data = remote.manifest(name, digest)
    where = f"{remote.label}/{name}@{digest.short}"
    document = json_object(data, where)
    if document.get("mediaType", media_types.MANIFEST) != media_types.MANIFEST:
        raise FormatError(f"no single artifact: {document['mediaType']!r}"[:200], where=where)
    layers = document.get("layers")
    if not isinstance(layers, list) or len(layers) > MAX_LAYERS:
        raise FormatError(f"expected up to {MAX_LAYERS} layers", where=where)
    config = document.get("config")
    kind = config.get("mediaType") if isinstance(config, dict) else None
    annotations = document.get("annotations")
    named = isinstance(annotations, dict) and media_types.TENSORS_DIGEST in annotations
    ours = (
        named and kind == media_types.CONFIG and document.get("artifactType") == media_types.MODEL
    )
    return Artifact(digest=digest, data=data, document=document, ours=ours)


class BlobFetch:
    """Blobs of one name at one remote, each verified on the stream.

    Attributes:
        bytes: How many have travelled.
    """

    def __init__(
        self, home: Home, remote: VersionRemote, name: str, progress: Progress | None = None
    ) -> None:
        self._home, self._remote, self._name = home, remote, name
        self._progress = progress
        self.bytes = 0

    def bring(self, blob: Descriptor) -> None:
        """See to it that a blob is here; one that is, does not travel.

        Raises:
            IntegrityError: the bytes are not the announced ones.
            AdaptrixError: they cannot be had; what came stays for the next attempt.
        """
        if self._home.blobs.freshen(blob.digest, blob.size_bytes):
            return

        @contextmanager
        def sink() -> Iterator[Sink]:
            with self._home.blobs.writer(
                expected_digest=blob.digest,
                expected_size=blob.size_bytes,
                partial=blob.digest.hex,
                media_type=blob.media_type,
            ) as writer:
                yield writer

        path = blob.annotations.get(media_types.FILEPATH, "config")
        file = RemoteFile(path=path, size_bytes=blob.size_bytes, sha256=blob.digest)
        where = f"{self._remote.label}/{self._name}"
        snapshot = Snapshot(repository=where, commit=blob.digest.hex, files=(file,))
        self.bytes += fetch_file(
            VersionFiles(self._remote, self._name, snapshot),
            snapshot,
            file,
            sink,
            settings=HubSettings.from_environment(),
            progress=self._progress,
        )


class VersionFetch:
    """Versions of one name at one remote, on their way into a store."""

    def __init__(
        self, home: Home, remote: VersionRemote, name: str, progress: Progress | None = None
    ) -> None:
        self._home, self._remote, self._name = home, remote, name
        self._where = f"{remote.label}/{name}"
        self._blobs = BlobFetch(home, remote, name, progress)
        self.fetched = Fetched()

    def run(self, tip: Artifact) -> Fetched:
        """Bring ``tip`` and its ancestors into the store, oldest first.

        Raises:
            IntegrityError: bytes, or a claim of a manifest, that do not hold.
            PolicyRefused: too many ancestors.
            AdaptrixError: as it went wrong; what is complete stays for the next attempt.
        """
        if self._known(tip.digest):
            return self.fetched
        waiting, seen = [tip], {tip.digest}
        order: list[tuple[Artifact, bytes]] = []
        while waiting:
            artifact = waiting.pop()
            if len(order) == MAX_VERSIONS:
                raise PolicyRefused(f"more than {MAX_VERSIONS} ancestors", where=self._where)
            config = self._config(artifact)
            order.append((artifact, config))
            for parent in Manifest.parse(artifact.data, config).record.parents:
                if parent.digest not in seen and not self._known(parent.digest):
                    seen.add(parent.digest)
                    waiting += self._ancestor(parent.digest)
        for artifact, config in reversed(order):
            self._add(artifact, config)
        self.fetched.bytes += self._blobs.bytes
        return self.fetched

    def _known(self, digest: Digest) -> bool:
        # The index first: opened after the first blob, it would seem to have been lost.
        return self._home.index.version(digest) is not None and self._home.blobs.has(digest)

    def _ancestor(self, digest: Digest) -> Sequence[Artifact]:
        try:
            artifact = read_artifact(self._remote, self._name, digest)
        except NotFound:
            self.fetched.absent.append(digest)
            return ()
        if not artifact.ours:
            raise FormatError("an ancestor that is no version", where=f"{self._where}@{digest}")
        return (artifact,)

    def _add(self, artifact: Artifact, config: bytes) -> None:
        manifest = Manifest.parse(artifact.data, config)
        for layer in manifest.layers:
            self._blobs.bring(layer)
        where = f"{self._where}@{artifact.digest.short}"
        report = verify_manifest(self._home, manifest, artifact.digest, where, ReadOptions())
        if report.verdict is Verdict.FAIL:
            first = next(p for p in report.problems if p.severity is Severity.ERROR)
            raise IntegrityError(
                f"{first.where}: {first.message}",
                where=where,
                hint="Its manifest says what its files do not hold. Nothing was named.",
                code="claim_broken",
            )
        self._home.add_version(manifest, config_bytes=config, manifest_bytes=artifact.data)
        self.fetched.versions += 1
        self.fetched.bytes += len(artifact.data)

    def _config(self, artifact: Artifact) -> bytes:
        blob = config_descriptor(artifact, self._where)
        self._blobs.bring(blob)
        return self._home.blobs.read(blob.digest)


def config_descriptor(artifact: Artifact, where: str) -> Descriptor:
    """The configuration that a manifest names.

    Raises:
        PolicyRefused: too large for one.
    """
    config = Descriptor.from_json(artifact.document.get("config"), where=f"{where} config")
    if config.size_bytes > MAX_MANIFEST_BYTES:
        raise PolicyRefused(f"a configuration of {config.size_bytes} bytes", where=where)
    return config


def may_move(home: Home, name: str, tag: str, current: Digest, new: Digest, source: str) -> bool:
    """Whether ``name:tag`` may follow the remote without a word from the user.

    Either the new version descends from what is there, or the name has not been touched
    since it was last pulled from the same place.
    """
    if current == new or current in ancestry(home, new):
        return True
    moves = home.references.log(name, tag)
    return bool(moves) and moves[0].reason == pull_reason(source)


def pull_reason(source: str) -> str:
    """What the reflog says of a pull from a remote."""
    return f"pull {source}"


def ancestry(home: Home, tip: Digest) -> list[Digest]:
    """``tip`` and everything here that it descends from, nearest first."""
    found: dict[Digest, None] = {}
    waiting = [tip]
    while waiting:
        digest = waiting.pop(0)
        if digest not in found and home.blobs.has(digest):
            found[digest] = None
            waiting += [parent.digest for parent in home.manifest(digest).record.parents]
    return list(found)


def artifact_snapshot(remote: VersionRemote, name: str, artifact: Artifact) -> Snapshot:
    """The files of what another tool pushed: raw layers that carry a file name.

    Raises:
        PolicyRefused: an unsafe file name.
        FormatError: no layer is a file.
    """
    where = f"{remote.label}/{name}"
    files: dict[str, RemoteFile] = {}
    for at, entry in enumerate(artifact.document["layers"]):
        layer = Descriptor.from_json(entry, where=f"{where} layers[{at}]")
        path = layer.annotations.get(media_types.FILEPATH) or layer.annotations.get(
            media_types.TITLE, ""
        )
        if not path or layer.media_type.endswith(_PACKED):
            continue
        if not is_safe_path(path) or path in files:
            raise PolicyRefused(f"unsafe or repeated file name {path[:80]!r}", where=where)
        files[path] = RemoteFile(path=path, size_bytes=layer.size_bytes, sha256=layer.digest)
    if not files:
        raise FormatError(
            "no layer of this artifact is a plain file with a name",
            where=where,
            hint="An adapter is pushed as raw layers, as adaptrix push or oras push do it.",
        )
    repository = f"{remote.label.partition('://')[2] or remote.label}/{name}"
    return Snapshot(
        repository=repository,
        commit=artifact.digest.hex,
        files=tuple(files[path] for path in sorted(files)),
    )
