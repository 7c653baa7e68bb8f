"""Where a remote is: ``https://host[/prefix]``, ``oci://…``, ``hf:org``, or a folder."""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from adaptrix.hub.http import LOOPBACK, require_secure
from adaptrix.schema.errors import UsageError
from adaptrix.schema.reference import OciSource

_HUB_URL = re.compile(r"(?:https?://(?:www\.)?(?:huggingface\.co|hf\.co)/|hf://|hf:)(.*)")
_HUB_NAMESPACE = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?", re.ASCII)
_PREFIX = re.compile(
    r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*"
)
_HOST = re.compile(r"[A-Za-z0-9.-]+(?::[0-9]{1,5})?|\[[0-9a-fA-F:]+\](?::[0-9]{1,5})?", re.ASCII)


class RemoteKind(enum.StrEnum):
    """What kind of place a remote is."""

    OCI = "oci"
    FOLDER = "folder"
    HUB = "hub"


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteLocation:
    """A place; ``RemoteLocation.parse(l.url, insecure=l.insecure) == l``.

    Attributes:
        kind: What it is.
        origin: ``https://host:port`` of a registry, else ``""``.
        path: Prefix of repositories in a registry, namespace on a hub, or the folder.
        insecure: Whether plain http is accepted beyond this machine.
    """

    kind: RemoteKind
    origin: str = ""
    path: str = ""
    insecure: bool = False

    @property
    def url(self) -> str:
        """The location as text."""
        if self.kind is RemoteKind.HUB:
            return f"hf:{self.path}"
        if self.kind is RemoteKind.FOLDER:
            return self.path
        return f"{self.origin}/{self.path}" if self.path else self.origin

    @classmethod
    def parse(cls, text: str, *, insecure: bool = False) -> Self:
        """Read a location.

        Raises:
            UsageError: no such location, or one with a user or a password in it.
            PolicyRefused: plain http beyond this machine.
        """
        if match := _HUB_URL.fullmatch(text):
            return cls(kind=RemoteKind.HUB, path=_checked(match[1].strip("/"), _HUB_NAMESPACE))
        if text.startswith(("http://", "https://", "oci://")):
            return cls._registry(text, insecure=insecure)
        if text.startswith("file://"):
            text = urlsplit(text).path
        if not text or "://" in text or "\0" in text:
            raise UsageError("expected https://host[/prefix], oci://…, hf:org or a folder")
        return cls(kind=RemoteKind.FOLDER, path=str(Path(text).expanduser().absolute()))

    @classmethod
    def of_source(cls, source: OciSource) -> Self:
        """The registry that an ``oci://`` source names."""
        return cls(kind=RemoteKind.OCI, origin=f"{_scheme(source.host)}://{source.host}")

    @classmethod
    def _registry(cls, text: str, *, insecure: bool) -> Self:
        parts = urlsplit(text)
        if "@" in parts.netloc or parts.query or parts.fragment:
            # Not repeated: it may hold a password.
            raise UsageError(
                "a remote's URL holds no user, password or query",
                where="remote",
                hint="Use adaptrix login REMOTE --username USER, with the secret on stdin.",
            )
        if not _HOST.fullmatch(parts.netloc):
            raise UsageError(f"{parts.netloc[:80]!r} is no host[:port]", where="remote")
        scheme = _scheme(parts.netloc) if parts.scheme == "oci" else parts.scheme
        if insecure and parts.scheme == "oci":
            scheme = "http"
        origin = f"{scheme}://{parts.netloc}"
        require_secure(origin, insecure=insecure)
        prefix = parts.path.strip("/")
        path = _checked(prefix, _PREFIX) if prefix else ""
        return cls(kind=RemoteKind.OCI, origin=origin, path=path, insecure=insecure)


def _scheme(host: str) -> str:
    """Registries on this machine speak http, as every OCI tool assumes."""
    return "http" if urlsplit(f"//{host}").hostname in LOOPBACK else "https"


def _checked(text: str, pattern: re.Pattern[str]) -> str:
    if not pattern.fullmatch(text):
        raise UsageError(f"{text[:80]!r} is no path of a remote", where="remote")
    return text
