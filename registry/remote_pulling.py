"""Pull from a registry or a shared folder: one version, or all that there is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from adaptrix.hub.versions import VersionFiles, VersionRemote, visible_tags
from adaptrix.registry.fetching import (
    Artifact,
    Diverged,
    VersionFetch,
    artifact_snapshot,
    config_descriptor,
    find,
    may_move,
    pull_reason,
    read_artifact,
)
from adaptrix.registry.hubbing import fetch_snapshot, ranged
from adaptrix.registry.pulling import ingest, logged, report_of
from adaptrix.registry.remotes import Place, Remotes
from adaptrix.registry.reports import PullReport
from adaptrix.registry.requests import PullRequest
from adaptrix.registry.resolve import clean_name, target
from adaptrix.registry.settings import Settings
from adaptrix.registry.sources import OpenedSource
from adaptrix.schema.errors import AdaptrixError, FormatError, UsageError
from adaptrix.schema.manifest import Manifest
from adaptrix.schema.record import SourceRecord
from adaptrix.store.home import Home

if TYPE_CHECKING:
    from adaptrix.hub.remote import Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class SkippedRow:
    """What ``pull --all`` left.

    Attributes:
        reference: Its name at the remote.
        code: Why, for machines.
        reason: Why, for people.
        failed: Whether it should have worked; False for what is no adapter.
    """

    reference: str
    code: str
    reason: str
    failed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PullAllReport:
    """Outcome of ``pull --all``."""

    remote: str
    rows: tuple[PullReport, ...]
    skipped: tuple[SkippedRow, ...]
    fetched_bytes: int


@contextmanager
def connected(settings: Settings, place: Place) -> Iterator[VersionRemote]:
    """The remote of a place, for the block."""
    remote = Remotes(settings).open(place.location)
    try:
        yield remote
    finally:
        remote.close()


def open_place(settings: Settings, place: Place) -> OpenedSource:
    """The adapter's files of a place, read in ranges where they are."""
    _require_name(place)
    # Not closed here: the files are read later, and the connection ends with the process.
    remote = Remotes(settings).open(place.location)
    artifact = read_artifact(remote, place.name, find(remote, place))
    snapshot = artifact_snapshot(remote, place.name, artifact)
    return ranged(VersionFiles(remote, place.name, snapshot), snapshot, label=place.label)


def fetch_place(home: Home, settings: Settings, place: Place) -> OpenedSource:
    """The adapter's files of a place, brought into the store and verified."""
    _require_name(place)
    with connected(settings, place) as remote:
        artifact = read_artifact(remote, place.name, find(remote, place))
        snapshot = artifact_snapshot(remote, place.name, artifact)
        files = VersionFiles(remote, place.name, snapshot)
        return fetch_snapshot(home, files, snapshot, label=place.label, progress=None).opened


def pull_place(
    home: Home, settings: Settings, request: PullRequest, place: Place, progress: Progress | None
) -> PullReport:
    """Pull one version; see :meth:`Registry.pull`.

    Raises:
        Diverged: the name here points to something else.
        UsageError: an option that would make another version of it.
    """
    _require_name(place)
    with connected(settings, place) as remote:
        artifact = read_artifact(remote, place.name, find(remote, place))
        if not artifact.ours:
            return _pull_foreign(home, remote, request, place, artifact, progress)
        _require_plain(request)
        name, tag = _target(request, place)
        if request.dry_run:
            return _planned(remote, place, artifact, f"{name}:{tag}")
        fetched = VersionFetch(home, remote, place.name, progress).run(artifact)
    status = _move(home, request, place, artifact, name, tag)
    manifest = home.manifest(artifact.digest)
    report = report_of(
        f"{name}:{tag}", artifact.digest, manifest, status, place.label, fetched.bytes
    )
    return replace(report, ancestors_missing=len(fetched.absent))


def pull_all(
    home: Home,
    settings: Settings,
    remote_name: str,
    *,
    dry_run: bool,
    force: bool,
    progress: Progress | None,
) -> PullAllReport:
    """See :meth:`Registry.pull_all`."""
    location = Remotes(settings).get(remote_name)
    whole = Place(location=location, base=f"{remote_name}/")
    rows: list[PullReport] = []
    skipped: list[SkippedRow] = []
    with connected(settings, whole) as remote:
        references = [f"{n}:{t}" for n in remote.names() for t in visible_tags(remote.tags(n))]
    for reference in references:
        text = f"{remote_name}/{reference}"
        request = PullRequest(source=text, dry_run=dry_run, force=force)
        try:
            place = Remotes(settings).place(text)
            assert place is not None
            with logged(home, request), home.lease():
                rows.append(pull_place(home, settings, request, place, progress))
        except AdaptrixError as error:
            skipped.append(_skipped(text, error))
    return PullAllReport(
        remote=remote_name,
        rows=tuple(rows),
        skipped=tuple(skipped),
        fetched_bytes=sum(row.fetched_bytes for row in rows),
    )


def _skipped(reference: str, error: AdaptrixError) -> SkippedRow:
    if not error.code.startswith(("network", "timeout")) and not error.temporary:
        foreign = isinstance(error, FormatError | UsageError)
        return SkippedRow(
            reference=reference, code=error.code, reason=str(error), failed=not foreign
        )
    raise error


def _move(
    home: Home, request: PullRequest, place: Place, artifact: Artifact, name: str, tag: str
) -> str:
    current = home.references.get(name, tag)
    if current == artifact.digest:
        return "unchanged"
    source = place.label
    allowed = current is None or may_move(home, name, tag, current, artifact.digest, source)
    if current is not None and not allowed and not request.force:
        raise Diverged(where=f"{name}:{tag}", here=current, there=artifact.digest)
    home.references.set(name, tag, artifact.digest, expected=current, reason=pull_reason(source))
    return "updated" if current else "new"


def _pull_foreign(
    home: Home,
    remote: VersionRemote,
    request: PullRequest,
    place: Place,
    artifact: Artifact,
    progress: Progress | None,
) -> PullReport:
    snapshot = artifact_snapshot(remote, place.name, artifact)
    name, tag = _target(request, place)
    named = replace(request, name=f"{name}:{tag}")
    files = VersionFiles(remote, place.name, snapshot)
    if request.dry_run:
        opened = ranged(files, snapshot, label=place.label)
        return ingest(home, named, opened, lambda _: SourceRecord(kind="oci"), 0)
    fetched = fetch_snapshot(
        home, files, snapshot, label=place.label, progress=progress, kind="oci"
    )
    return ingest(home, named, fetched.opened, lambda _: fetched.record, fetched.fetched_bytes)


def _planned(remote: VersionRemote, place: Place, artifact: Artifact, reference: str) -> PullReport:
    blob = config_descriptor(artifact, place.label)
    config = b"".join(remote.stream(place.name, blob.digest, blob.size_bytes))
    manifest = Manifest.parse(artifact.data, config)
    report = report_of(reference, artifact.digest, manifest, "planned", place.label, 0)
    return replace(report, changed=False)


def _target(request: PullRequest, place: Place) -> tuple[str, str]:
    if request.name is not None:
        return target(request.name)
    parts = [clean_name(part) for part in place.name.split("/")]
    return "/".join(parts[-2:]), place.tag


def _require_name(place: Place) -> None:
    if not place.name:
        raise UsageError(
            "a remote alone is no adapter",
            where=place.label,
            hint="Name one (REMOTE/NAME), or pull them all: adaptrix pull --all REMOTE.",
        )


def _require_plain(request: PullRequest) -> None:
    """A version is what its digest says: options that would change it are refused."""
    given = {
        "--base": request.base, "--alpha": request.alpha, "--revision": request.revision,
        "--source-layout": request.source_layout, "--description": request.description,
        "--capability": request.capabilities, "--domain": request.domain,
        "--carry": request.carry, "--training-data": request.training_data, "--license": request.license,
    }  # fmt: skip
    wrong = [option for option, value in given.items() if value]
    if wrong:
        raise UsageError(
            f"a version from a remote says these for itself: {', '.join(wrong)}",
            where=request.source,
            hint="Leave them out.",
        )
