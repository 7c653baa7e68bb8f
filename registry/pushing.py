"""Push: a version with its ancestors to a remote; only what is missing there travels.

A remote's ``latest`` moves forward by itself: from what the pushed version descends from,
or from what this registry's own tag pointed to before. Every other tag stays where it is
unless ``--force`` is given; so does ``latest`` when somebody else has moved it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from adaptrix.hub.location import RemoteKind
from adaptrix.hub.versions import KEEPING_TAG, Sent, TagMoved, VersionRemote
from adaptrix.registry.fetching import ancestry
from adaptrix.registry.remote_pulling import connected
from adaptrix.registry.remotes import Place, Remotes
from adaptrix.registry.resolve import resolve
from adaptrix.registry.settings import Settings
from adaptrix.schema import media_types
from adaptrix.schema.descriptor import Descriptor
from adaptrix.schema.digest import Digest
from adaptrix.schema.errors import IntegrityError, UsageError
from adaptrix.schema.reference import DEFAULT_TAG, Reference
from adaptrix.store.home import Home

if TYPE_CHECKING:
    from adaptrix.hub.remote import Progress

MAX_NEAR = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class PushReport:
    """Outcome of a push.

    Attributes:
        reference: What was pushed, as it is named here.
        remote: Where it is named so now.
        digest: Digest of its manifest, here and there.
        uploaded_bytes: Bytes that travelled, or would travel.
        skipped_bytes: Bytes that were there already, or were mounted from a neighbour.
        versions: The version and its ancestors.
        ancestors_missing: Ancestors that are not here either, so that they cannot travel.
        status: ``new``, ``updated``, ``unchanged`` or ``planned``.
        changed: Whether the remote's tag moved.
    """

    reference: str
    remote: str
    digest: Digest
    uploaded_bytes: int
    skipped_bytes: int
    versions: int
    ancestors_missing: int
    status: str
    changed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PushRequest:
    """What was asked for; see :meth:`Registry.push`."""

    reference: str
    remote: str = ""
    tag: str = ""
    dry_run: bool = False
    force: bool = False


def push(
    home: Home, settings: Settings, request: PushRequest, progress: Progress | None
) -> PushReport:
    """See :meth:`Registry.push`."""
    return push_to(home, settings, request, _place(settings, request), progress)


def push_to(
    home: Home,
    settings: Settings,
    request: PushRequest,
    place: Place,
    progress: Progress | None,
) -> PushReport:
    """Push to a place that is known."""
    reference, digest = resolve(home, request.reference)
    with home.lease():
        if place.location.kind is RemoteKind.HUB:
            from adaptrix.registry.hub_pushing import push_to_hub  # noqa: PLC0415

            return push_to_hub(home, settings, request, place, reference, digest)
        with connected(settings, place) as remote:
            return _Push(home, remote, place, request, progress).run(reference, digest)


def _place(settings: Settings, request: PushRequest) -> Place:
    """Where to push: ``REMOTE``, ``REMOTE/name[:tag]`` or ``oci://host/repository[:tag]``.

    Raises:
        UsageError: no remote is named and none is the only one, or there is no name.
    """
    remotes = Remotes(settings)
    text = request.remote or remotes.default_name()
    if not text:
        raise UsageError(
            "which remote?",
            where="push",
            hint="Name one of adaptrix remote ls, or set ADAPTRIX_REMOTE.",
        )
    place = remotes.place(text if "/" in text else f"{text}/")
    if place is None:
        remotes.get(text.partition("/")[0])  # NotFound, with what there is
        raise UsageError("expected REMOTE, REMOTE/NAME or oci://host/NAME", where=text)
    if place.digest is not None:
        raise UsageError("a digest cannot be chosen", where=text)
    return place if place.name else _named(place, request)


def _named(place: Place, request: PushRequest) -> Place:
    """The place with the name that the version has here."""
    if request.reference.startswith("sha256:"):
        raise UsageError(
            "a bare digest has no name", where=request.reference, hint="Push to REMOTE/NAME:TAG."
        )
    local = Reference.parse(request.reference)
    return replace(place, name=local.name, tag=request.tag or local.tag_or_default)


class _Push:
    """One push to a place that keeps versions."""

    def __init__(
        self,
        home: Home,
        remote: VersionRemote,
        place: Place,
        request: PushRequest,
        progress: Progress | None,
    ) -> None:
        self._home, self._remote, self._progress = home, remote, progress
        self._place, self._request = place, request
        self._tag = request.tag or place.tag
        self._uploaded = self._skipped = 0
        self._done: set[Digest] = set()

    def run(self, reference: str, digest: Digest) -> PushReport:
        """Push ``digest``, its ancestors first."""
        name, dry_run = self._place.name, self._request.dry_run
        current = self._remote.resolve(name, self._tag)
        versions = ancestry(self._home, digest)
        self._check(reference, digest, current, versions)
        for version in reversed(versions):
            self._send(version, tip=version == digest, current=current)
        status = "unchanged" if current == digest else "updated" if current else "new"
        return PushReport(
            reference=reference,
            remote=replace(self._place, tag=self._tag).label,
            digest=digest,
            uploaded_bytes=self._uploaded,
            skipped_bytes=self._skipped,
            versions=len(versions),
            ancestors_missing=self._missing(versions),
            status="planned" if dry_run else status,
            changed=current != digest and not dry_run,
        )

    def _check(
        self, reference: str, digest: Digest, current: Digest | None, versions: list[Digest]
    ) -> None:
        """Refuse to move a tag that somebody else may rely on.

        Raises:
            TagMoved: it points to what this push does not follow.
        """
        if current is None or current == digest or self._request.force:
            return
        known = set(versions) | self._held_before(reference)
        if self._tag != DEFAULT_TAG or current not in known:
            expected = digest if self._tag != DEFAULT_TAG else None
            where = f"{self._remote.label}/{self._place.name}:{self._tag}"
            raise TagMoved(where=where, wanted=expected, got=current)

    def _held_before(self, reference: str) -> set[Digest]:
        """What the tag here pointed to at some time."""
        if reference.startswith("sha256:"):
            return set()
        local = Reference.parse(reference)
        moves = self._home.references.log(local.name, local.tag_or_default)
        return {entry.new for entry in moves if entry.new is not None}

    def _send(self, version: Digest, *, tip: bool, current: Digest | None) -> None:
        name, keeping = self._place.name, f"{KEEPING_TAG}{version.hex}"
        present = current == version if tip else self._remote.resolve(name, keeping) == version
        data = self._home.blobs.read(version)
        for blob in self._blobs(version):
            if blob.digest not in self._done:
                self._done.add(blob.digest)
                self._blob(version, blob, present=present)
        if present:
            self._skipped += len(data)
            return
        self._uploaded += len(data)
        if self._request.dry_run:
            return
        tag, expected = (self._tag, current) if tip else (keeping, None)
        self._remote.push_manifest(
            name, data, tag=tag, expected=expected, force=tip and self._request.force
        )

    def _blob(self, version: Digest, blob: Descriptor, *, present: bool) -> None:
        name = self._place.name
        if present or (self._request.dry_run and self._remote.has_blob(name, blob)):
            self._skipped += blob.size_bytes
            return
        if self._request.dry_run:
            self._uploaded += blob.size_bytes
            return
        self._verify(blob)
        sent = self._remote.push_blob(
            name,
            blob,
            lambda: self._home.blobs.open(blob.digest),
            near=self._near(version),
            progress=self._progress,
        )
        if sent is Sent.UPLOADED:
            self._uploaded += blob.size_bytes
        else:
            self._skipped += blob.size_bytes

    def _blobs(self, version: Digest) -> tuple[Descriptor, ...]:
        return tuple(
            Descriptor(
                media_type=media_types.CONFIG, digest=blob.digest, size_bytes=blob.size_bytes
            )
            for blob in self._home.index.blobs(version)
        )

    def _verify(self, blob: Descriptor) -> None:
        """Hash what is about to travel: bit rot stays at home.

        Raises:
            IntegrityError: the blob is damaged.
        """
        actual = self._home.blobs.rehash(blob.digest)
        if actual != blob.digest:
            raise IntegrityError(
                f"expected {blob.digest}, the store holds {actual}",
                where=f"blob {blob.digest}",
                hint="Run adaptrix fsck.",
            )

    def _near(self, version: Digest) -> list[str]:
        """Other names that this version has here, and so perhaps at the remote."""
        named = [row.name for row in self._home.index.named(version)]
        return list(dict.fromkeys(n for n in named if n != self._place.name))[:MAX_NEAR]

    def _missing(self, versions: list[Digest]) -> int:
        here = set(versions)
        wanted = {p.digest for v in versions for p in self._home.manifest(v).record.parents}
        return len(wanted - here)
