"""What can go wrong with a remote, each with its exit status and whether to try again."""

from __future__ import annotations

import hashlib

from adaptrix.schema.digest import Digest
from adaptrix.schema.errors import (
    AccessDenied,
    AdaptrixError,
    IntegrityError,
    NotFound,
    RemoteError,
)

TEMPORARY_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})

_LASTING = frozenset({"http_status", "offline", "bad_answer", "unreachable"})


class Restart(RemoteError):
    """The bytes that are here already are of no use: begin anew."""

    code = "restart"


class RateLimited(RemoteError):
    """The server asks for a pause.

    Attributes:
        pause_s: How long, when it says so.
    """

    code = "rate_limited"

    def __init__(self, message: str, *, where: str, pause_s: float | None) -> None:
        super().__init__(message, where=where, hint="Wait a little and pull again.")
        self.pause_s = pause_s


class ContentMismatch(IntegrityError):
    """The bytes are not what the remote announced.

    Attributes:
        expected: Announced digest or git id.
        actual: What the bytes have.
    """

    code = "digest_mismatch"

    def __init__(self, *, where: str, expected: object, actual: object, size_bytes: int) -> None:
        super().__init__(
            f"expected {expected}, got {actual} ({size_bytes} bytes)",
            where=where,
            hint="The file was damaged on its way or at its source. Nothing was stored.",
        )
        self.expected, self.actual = expected, actual


def error_for_status(
    status: int, where: str, *, code: str = "", pause_s: float | None = None, token: bool = False
) -> AdaptrixError:
    """The error for an HTTP status.

    Args:
        status: HTTP status.
        where: What was asked for.
        code: The Hub's ``X-Error-Code``.
        pause_s: ``Retry-After``.
        token: Whether a token was sent.
    """
    if code in {"RepoNotFound", "RevisionNotFound", "EntryNotFound"} and status in {401, 404}:
        return _missing(code, where, token=token)
    if status in {401, 403}:
        gated = code == "GatedRepo"
        hint = (
            "Ask for access on the repository's page."
            if gated and token
            else "Set HF_TOKEN to a token that may read it."
        )
        return AccessDenied(
            f"{'gated' if gated else 'not allowed'} (HTTP {status})", where=where, hint=hint
        )
    if status in {404, 410}:
        return _missing(code, where, token=token)
    if status == 429:
        return RateLimited("too many requests (HTTP 429)", where=where, pause_s=pause_s)
    error = RemoteError(f"the server answered HTTP {status}", where=where)
    if status not in TEMPORARY_STATUSES:
        error.code = "http_status"
    return error


def is_temporary(error: AdaptrixError) -> bool:
    """Whether the same request may succeed later."""
    return error.temporary and error.code not in _LASTING


def _missing(code: str, where: str, *, token: bool) -> AdaptrixError:
    what = {
        "RepoNotFound": "no such repository",
        "RevisionNotFound": "no such revision",
        "EntryNotFound": "no such file",
    }.get(code, "not found")
    hint = "Check the spelling."
    if code == "RepoNotFound" and not token:
        hint = "Check the spelling; for a private repository set HF_TOKEN."
    return NotFound(f"{what} (HTTP 404)", where=where, hint=hint)


def announced(sha256: Digest | None, git_oid: str | None) -> str:
    """The announced digest, for messages."""
    return str(sha256) if sha256 is not None else f"git:{git_oid}"


def git_blob_id(data: bytes) -> str:
    """What git calls a file with this content."""
    head = f"blob {len(data)}\0".encode()
    return hashlib.sha1(head + data, usedforsecurity=False).hexdigest()
