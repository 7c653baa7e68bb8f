"""Inspect and convert: a stored version, a path, or a remote source, opened to be read.

``inspect`` looks at headers where they are. ``convert`` takes values, so what is remote is
fetched first, verified like in a pull.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from adaptrix.convert.reading import Reading, read_adapter
from adaptrix.hub.location import RemoteKind
from adaptrix.registry.remotes import Place, Remotes
from adaptrix.registry.requests import PullRequest, located, read_options
from adaptrix.registry.settings import Settings
from adaptrix.registry.sources import OpenedSource, open_local, require_online
from adaptrix.schema.errors import InvalidReference, NotFound
from adaptrix.schema.reference import HubSource, PathSource
from adaptrix.schema.report import Candidate, Inspection

if TYPE_CHECKING:
    from adaptrix.store.home import Home

VALUES_BYTES = 64 << 20
"""``inspect`` reads values of local files up to this size; of larger ones the headers alone."""


def inspect_source(
    existing_home: Callable[[], Home | None], settings: Settings, request: PullRequest
) -> Inspection:
    """See :meth:`Registry.inspect`."""
    found = _found(existing_home, settings, request)
    if isinstance(found, OpenedSource):
        size_bytes = sum(source.size_bytes for source in found.files.files.values())
        opened, values = found, size_bytes <= VALUES_BYTES
    else:
        opened, values = _ranged(settings, request, found), False
    carry = request.carry or opened.stored
    options = replace(
        read_options(request), check_values=values, carry=carry, decided=opened.decided
    )
    return replace(read_adapter(opened.files, options).inspection, source=opened.label)


def read_source(
    existing_home: Callable[[], Home | None],
    home: Callable[[], Home],
    settings: Settings,
    request: PullRequest,
) -> Reading:
    """Read all of a source; what is remote is brought into the store, without a name.

    Raises:
        NotFound: nothing of that name, here or there.
        IntegrityError: what came is not what was announced.
    """
    found = _found(existing_home, settings, request)
    if isinstance(found, OpenedSource):
        opened = found
    elif request.dry_run:
        opened = _ranged(settings, request, found)
        options = replace(read_options(request), check_values=False)
        return read_adapter(opened.files, options)
    else:
        with home().lease():
            opened = _fetched(home(), settings, request, found)
            return read_adapter(opened.files, read_options(request))
    carry = request.carry or opened.stored
    options = replace(read_options(request), carry=carry, decided=opened.decided)
    return read_adapter(opened.files, options)


def _found(
    existing_home: Callable[[], Home | None], settings: Settings, request: PullRequest
) -> OpenedSource | HubSource | Place:
    """What the source is: opened when it is on this machine."""
    stored = _stored(existing_home, request.source)
    if stored is not None:
        return stored
    place = Remotes(settings).place(request.source)
    if place is not None and place.location.kind is not RemoteKind.HUB:
        return place
    found = located(request, place)
    return open_local(found) if isinstance(found, PathSource) else found


def _ranged(settings: Settings, request: PullRequest, found: HubSource | Place) -> OpenedSource:
    if isinstance(found, Place):
        from adaptrix.registry.remote_pulling import open_place  # noqa: PLC0415

        return open_place(settings, found)
    from adaptrix.registry.hubbing import open_remote, ranged  # noqa: PLC0415

    require_online(settings.offline, str(found))
    remote, snapshot = open_remote(found, Remotes(settings).hub_token(request.source))
    return ranged(remote, snapshot, label=str(found))


def _fetched(
    home: Home, settings: Settings, request: PullRequest, found: HubSource | Place
) -> OpenedSource:
    from adaptrix.registry.hubbing import fetch_snapshot, open_remote  # noqa: PLC0415

    if isinstance(found, Place):
        from adaptrix.registry.remote_pulling import fetch_place  # noqa: PLC0415

        return fetch_place(home, settings, found)
    require_online(settings.offline, str(found))
    remote, snapshot = open_remote(found, Remotes(settings).hub_token(request.source))
    return fetch_snapshot(home, remote, snapshot, label=str(found), progress=None).opened


def _stored(existing_home: Callable[[], Home | None], text: str) -> OpenedSource | None:
    if Path(text).expanduser().exists():
        return None
    home = existing_home()
    if home is None:
        return None
    from adaptrix.registry.looking import version_files  # noqa: PLC0415
    from adaptrix.registry.resolve import resolve  # noqa: PLC0415

    try:
        reference, digest = resolve(home, text)
    except (InvalidReference, NotFound):
        return None
    files = version_files(home, digest, reference)
    record = home.manifest(digest).record
    decided = None
    if record.family and record.conversion is not None:
        decided = Candidate(family=record.family, probability=record.conversion.confidence)
    return OpenedSource(label=reference, files=files, stored=True, decided=decided)
