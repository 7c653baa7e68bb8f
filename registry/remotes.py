"""Remotes: their names, their secrets, and how a reference leads to one of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from adaptrix.hub.credentials import FILE_NAME, Credential, Credentials
from adaptrix.hub.location import RemoteKind, RemoteLocation
from adaptrix.registry.settings import Settings
from adaptrix.registry.sources import require_online
from adaptrix.schema.canonical import Json, canonical_json
from adaptrix.schema.digest import Digest
from adaptrix.schema.errors import (
    AdaptrixError,
    FormatError,
    InvalidReference,
    NotFound,
    UsageError,
)
from adaptrix.schema.reference import DEFAULT_TAG, OciSource, Reference, parse_source

if TYPE_CHECKING:
    from adaptrix.hub.versions import VersionRemote
    from adaptrix.store.home import Home

REMOTES_FILE = "remotes.json"
HUB_ORIGIN = "hf"


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteRow:
    """One line of ``remote ls``.

    Attributes:
        login: Whether a secret is stored for it.
        default: Whether it is meant where no remote is named.
    """

    name: str
    url: str
    kind: str
    login: bool
    default: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A name at a remote.

    Attributes:
        location: The remote.
        base: What stands before the name: ``team/``, ``oci://host/``.
        name: The name there; ``""`` for all of them.
        tag: The tag there, ``latest`` when none was written.
        revision: The tag as it was written, ``""`` when it was not: a hub's revision.
        digest: The digest there, when one was written.
    """

    location: RemoteLocation
    base: str
    name: str = ""
    tag: str = DEFAULT_TAG
    revision: str = ""
    digest: Digest | None = None

    @property
    def label(self) -> str:
        """The whole, for messages and the reflog: ``team/math:v1``."""
        if not self.name:
            return self.base
        at = f"@{self.digest}" if self.digest else ""
        return f"{self.base}{self.name}:{self.tag}{at}"


class Remotes:
    """The remotes of one registry."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._path = settings.home / REMOTES_FILE
        self._credentials = Credentials(settings.home / FILE_NAME)

    def all(self) -> dict[str, RemoteLocation]:
        """All remotes by name.

        Raises:
            FormatError: the file is damaged.
        """
        try:
            data = self._path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return {}
        try:
            entries = json.loads(data)["remotes"]
            return {
                str(name): RemoteLocation.parse(str(e["url"]), insecure=e["insecure"] is True)
                for name, e in sorted(entries.items())
            }
        except (ValueError, KeyError, TypeError, AttributeError, AdaptrixError) as error:
            raise FormatError(f"damaged: {error}", where=str(self._path)) from error

    def rows(self) -> tuple[RemoteRow, ...]:
        """All remotes, for people."""
        found, default = self.all(), self.default_name()
        return tuple(
            RemoteRow(
                name=name,
                url=location.url,
                kind=str(location.kind),
                login=self._credentials.get(_secret_key(location)) is not None,
                default=name == default,
            )
            for name, location in found.items()
        )

    def add(self, home: Home, name: str, url: str, *, insecure: bool, dry_run: bool) -> None:
        """Keep a remote under a name.

        Raises:
            UsageError: the name is taken, or not allowed, or the URL is none.
        """
        Reference(parts=(name,))  # InvalidReference when it could not begin one
        location = RemoteLocation.parse(url, insecure=insecure)
        found = self.all()
        if name in found and found[name] != location:
            raise UsageError(
                f"there already, as {found[name].url}",
                where=name,
                hint=f"Remove it first: adaptrix remote rm {name}",
            )
        if not dry_run:
            self._write(home, {**found, name: location})

    def remove(self, home: Home, name: str, *, dry_run: bool) -> None:
        """Forget a remote and its secret, unless another one needs it.

        Raises:
            NotFound: there is none of that name.
        """
        location = self.get(name)
        rest = {other: place for other, place in self.all().items() if other != name}
        if dry_run:
            return
        self._write(home, rest)
        if _secret_key(location) not in {_secret_key(other) for other in rest.values()}:
            self._credentials.put(_secret_key(location), None)

    def get(self, name: str) -> RemoteLocation:
        """The remote of that name.

        Raises:
            NotFound: there is none.
        """
        found = self.all()
        if name not in found:
            listed = ", ".join(found) or "none"
            raise NotFound(
                f"no such remote (there is: {listed})",
                where=name,
                hint="Add it: adaptrix remote add NAME URL",
            )
        return found[name]

    def default_name(self) -> str:
        """The remote that is meant where none is named; ``""`` when it is not clear."""
        if self._settings.remote:
            return self._settings.remote
        found = self.all()
        return next(iter(found)) if len(found) == 1 else ""

    def place(self, text: str) -> Place | None:
        """Read ``REMOTE/[name[:tag]]`` or ``oci://…``; None when it names no remote."""
        if text.startswith("oci://"):
            return self.oci_place(_oci(text))
        first, slash, rest = text.partition("/")
        if not slash or first not in self.all():
            return None
        location = self.get(first)
        if not rest:
            return Place(location=location, base=text)
        reference = Reference.parse(rest)
        if reference.ancestor:
            raise InvalidReference("a remote knows no ~N: pull it first", where=text)
        return Place(
            location=location,
            base=f"{first}/",
            name=reference.name,
            tag=reference.tag_or_default,
            digest=reference.digest,
            revision=reference.tag or "",
        )

    def oci_place(self, source: OciSource) -> Place:
        """The place that an ``oci://`` source names, as a known remote where one is there."""
        location = RemoteLocation.of_source(source)
        for known in self.all().values():
            if known.kind is RemoteKind.OCI and known.origin.partition("://")[2] == source.host:
                location = RemoteLocation(
                    kind=known.kind, origin=known.origin, insecure=known.insecure
                )
        return Place(
            location=location,
            base=f"oci://{source.host}/",
            name=source.repository,
            tag=source.tag or DEFAULT_TAG,
            digest=source.digest,
        )

    def open(self, location: RemoteLocation) -> VersionRemote:
        """Connect to a place that keeps versions.

        Raises:
            RemoteError: offline.
            UsageError: a hub keeps files, no versions.
        """
        if location.kind is RemoteKind.FOLDER:
            from adaptrix.hub.layout import LayoutFolder  # noqa: PLC0415

            return LayoutFolder(Path(location.path))
        if location.kind is RemoteKind.HUB:
            raise UsageError("a hub keeps files, no versions", where=location.url, code="not_here")
        require_online(self._settings.offline, location.url)
        from adaptrix.hub.oci import OciRegistry  # noqa: PLC0415 - imports an HTTP client
        from adaptrix.hub.settings import HubSettings  # noqa: PLC0415

        return OciRegistry(
            location,
            credential=self.credential(location),
            settings=HubSettings.from_environment(),
        )

    def credential(self, location: RemoteLocation) -> Credential | None:
        """The secret for a place; the one of the environment is for the default remote."""
        if self._settings.token:
            default = self.all().get(self.default_name())
            if default is not None and _secret_key(default) == _secret_key(location):
                stored = self._credentials.get(_secret_key(location))
                username = stored.username if stored else ""
                return Credential(username=username, secret=self._settings.token)
        return self._credentials.get(_secret_key(location))

    def hub_token(self, text: str) -> str:
        """The secret of the hub's remote that ``text`` begins with; ``""`` for none."""
        location = self.all().get(text.partition("/")[0])
        if location is None or location.kind is not RemoteKind.HUB:
            return ""
        credential = self.credential(location)
        return credential.secret if credential is not None else ""

    def log_in(self, home: Home, name: str, credential: Credential) -> RemoteLocation:
        """Try a secret, and keep it when the remote takes it.

        Raises:
            AccessDenied: it does not.
            UsageError: the remote needs none.
        """
        location = self.get(name)
        if location.kind is RemoteKind.FOLDER:
            raise UsageError("a folder needs no login", where=name)
        require_online(self._settings.offline, location.url)
        _try(location, credential)
        home.blobs.prepare()
        self._credentials.put(_secret_key(location), credential)
        return location

    def _write(self, home: Home, remotes: Mapping[str, RemoteLocation]) -> None:
        document: dict[str, Json] = {
            name: {"url": location.url, "insecure": location.insecure}
            for name, location in remotes.items()
        }
        content = canonical_json({"schema_version": 1, "remotes": document})
        from adaptrix.store.layout import replace_file  # noqa: PLC0415

        replace_file(home.path, REMOTES_FILE, content)


def _try(location: RemoteLocation, credential: Credential) -> None:
    from adaptrix.hub.settings import HubSettings  # noqa: PLC0415

    settings = HubSettings.from_environment()
    if location.kind is RemoteKind.HUB:
        from adaptrix.hub.hub_push import check_token  # noqa: PLC0415

        check_token(settings, credential.secret)
        return
    from adaptrix.hub.oci import OciRegistry  # noqa: PLC0415 - imports an HTTP client

    registry = OciRegistry(location, credential=credential, settings=settings)
    try:
        registry.ping()
    finally:
        registry.close()


def _secret_key(location: RemoteLocation) -> str:
    return location.origin if location.kind is RemoteKind.OCI else HUB_ORIGIN


def _oci(text: str) -> OciSource:
    source = parse_source(text)
    assert isinstance(source, OciSource)
    return source
