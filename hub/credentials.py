"""Secrets of registries: one file, readable by its owner only.

A secret is sent to the origin that it was given for and to the token server that this
origin names, never printed, and never part of a URL.
"""

from __future__ import annotations

import json
import os
import secrets
import stat
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from adaptrix.schema.errors import AccessDenied, PolicyRefused, StoreError

FILE_NAME = "credentials.json"
_FOR_OTHERS = stat.S_IRWXG | stat.S_IRWXO


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """A user and a secret; without a user, the secret is a bearer token.

    Attributes:
        username: Name, or ``""``.
        secret: Password or token; not part of ``repr``.
    """

    username: str = ""
    secret: str = field(repr=False)


class Credentials:
    """The file of secrets, by origin (``https://host:port``).

    Attributes:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def get(self, origin: str) -> Credential | None:
        """The credential for an origin.

        Raises:
            PolicyRefused: others may read the file.
            StoreError: it is damaged.
        """
        found = self._read().get(origin)
        if found is None:
            return None
        return Credential(username=found["username"], secret=found["secret"])

    def put(self, origin: str, credential: Credential | None) -> None:
        """Keep a credential, or forget it.

        Raises:
            PolicyRefused: others may read the file.
            StoreError: it cannot be written.
        """
        entries = self._read()
        entries.pop(origin, None)
        if credential is not None:
            entries[origin] = {"username": credential.username, "secret": credential.secret}
        self._write(entries)

    def _read(self) -> dict[str, dict[str, str]]:
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise AccessDenied("the credentials cannot be read", where=str(self.path)) from error
        with os.fdopen(descriptor, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if mode & _FOR_OTHERS:
                raise PolicyRefused(
                    f"others may read the credentials (mode {stat.S_IMODE(mode):04o})",
                    where=str(self.path),
                    hint=f"Run chmod 600 {self.path}; replace the tokens if others have an account.",
                )
            return _entries(file.read(), self.path)

    def _write(self, entries: Mapping[str, Mapping[str, str]]) -> None:
        content = json.dumps(entries, indent=1, sort_keys=True).encode()
        temporary = self.path.with_name(f".{FILE_NAME}-{secrets.token_hex(6)}")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            with os.fdopen(os.open(temporary, flags, 0o600), "wb") as file:
                os.fchmod(file.fileno(), 0o600)
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self.path)
        except OSError as error:
            reason = error.strerror or "cannot be written"
            raise StoreError(reason, where=str(self.path)) from error
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


def _entries(data: bytes, path: Path) -> dict[str, dict[str, str]]:
    try:
        document = json.loads(data)
        return {
            str(origin): {"username": str(entry["username"]), "secret": str(entry["secret"])}
            for origin, entry in document.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError):
        # The text itself holds secrets: it must not become part of a message.
        raise StoreError(
            "damaged credentials", where=str(path), hint="Remove the file and log in again."
        ) from None
