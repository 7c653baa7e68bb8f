"""What a remote has: its manifests and configurations, without fetching any weights."""

from __future__ import annotations

from collections.abc import Iterator

from adaptrix.hub.location import RemoteKind
from adaptrix.hub.versions import VersionRemote, visible_tags
from adaptrix.registry.fetching import Artifact, config_descriptor, read_artifact
from adaptrix.registry.remote_pulling import connected
from adaptrix.registry.remotes import Place, Remotes
from adaptrix.registry.reports import Row
from adaptrix.registry.searching import fits, parse_query
from adaptrix.registry.settings import Settings
from adaptrix.schema.digest import Digest
from adaptrix.schema.errors import FormatError, UsageError
from adaptrix.schema.manifest import Manifest
from adaptrix.schema.record import AdapterRecord


def remote_rows(settings: Settings, place: Place) -> tuple[Row, ...]:
    """One row per tag of a remote, sorted; what is no adapter is marked as such.

    Raises:
        RemoteError: it cannot be reached, or does not list what it has.
    """
    _require_listed(place)
    with connected(settings, place) as remote:
        return tuple(row for row, _ in _rows(remote, place.base))


def search_remote(settings: Settings, remote: str, text: str) -> tuple[Row, ...]:
    """The rows of a remote that fit; words may be anywhere in a text.

    Raises:
        UsageError: a filter by date, which manifests do not hold.
    """
    query = parse_query(text)
    if query.since or query.until:
        raise UsageError("a remote knows no dates", where="since: or until:")
    place = Place(location=Remotes(settings).get(remote), base=f"{remote}/")
    _require_listed(place)
    with connected(settings, place) as connection:
        found = list(_rows(connection, place.base))
    return tuple(row for row, record in found if fits(query, row, record))


def _require_listed(place: Place) -> None:
    if place.location.kind is RemoteKind.HUB:
        raise UsageError("a hub is not listed: look at its page", where=place.label)


def _rows(remote: VersionRemote, base: str) -> Iterator[tuple[Row, AdapterRecord | None]]:
    for name in remote.names():
        for tag in visible_tags(remote.tags(name)):
            digest = remote.resolve(name, tag)
            if digest is not None:
                yield _row(remote, name, f"{base}{name}:{tag}", digest)


def _row(
    remote: VersionRemote, name: str, reference: str, digest: Digest
) -> tuple[Row, AdapterRecord | None]:
    try:
        artifact = read_artifact(remote, name, digest)
    except FormatError:
        return _foreign(reference, digest, 0), None
    if not artifact.ours:
        return _foreign(reference, digest, _size(artifact)), None
    blob = config_descriptor(artifact, reference)
    config = b"".join(remote.stream(name, blob.digest, blob.size_bytes))
    record = Manifest.parse(artifact.data, config).record
    conversion = record.conversion
    row = Row(
        reference=reference,
        digest=digest,
        family=record.family or "unknown",
        format=conversion.format if conversion else "composed",
        method=record.method,
        ranks=tuple(sorted({module.rank for module in record.modules})),
        modules=len(record.modules),
        parameters=record.parameters,
        bytes=_size(artifact),
        base=record.base.name,
        verdict=record.verdict,
        domain=record.domain,
        description=record.description,
        license=record.license,
    )
    return row, record


def _size(artifact: Artifact) -> int:
    sizes = [layer.get("size") for layer in artifact.document["layers"] if isinstance(layer, dict)]
    return sum(size for size in sizes if isinstance(size, int))


def _foreign(reference: str, digest: Digest, size_bytes: int) -> Row:
    """Something that another tool pushed; ``inspect`` may say more."""
    return Row(
        reference=reference,
        digest=digest,
        family="unknown",
        format="other",
        method="",
        ranks=(),
        modules=0,
        parameters=0,
        bytes=size_bytes,
        base="",
        verdict="",
        domain="",
        description="",
        license="",
    )
