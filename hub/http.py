"""What every HTTP remote needs: which origins are safe, redirects, ranges, pauses."""

from __future__ import annotations

import email.utils
import re
import time
from typing import Any
from urllib.parse import urlsplit

from adaptrix.hub.faults import Restart
from adaptrix.schema.errors import PolicyRefused

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
REDIRECTS = frozenset({301, 302, 303, 307, 308})
MAX_REDIRECTS = 5
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


def origin_of(url: str) -> tuple[str, str]:
    """Scheme and ``host[:port]`` of ``url``: what a credential belongs to."""
    parts = urlsplit(url)
    return parts.scheme, parts.netloc


def shown(url: str) -> str:
    """``url`` for messages, without its query and user: they may hold secrets."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def require_secure(url: str, *, insecure: bool = False) -> None:
    """Refuse plain http beyond this machine.

    Raises:
        PolicyRefused: it is, and ``insecure`` was not asked for.
    """
    parts = urlsplit(url)
    if parts.scheme == "http" and not insecure and parts.hostname not in LOOPBACK:
        raise PolicyRefused(
            "plain http is allowed for this machine only",
            where=shown(url),
            hint="Use https.",
        )


def redirect_target(url: str, response: Any, where: str) -> str:
    """Where a redirect leads.

    Raises:
        PolicyRefused: to something else than http(s), or from https to http.
    """
    target = str(response.headers.get("location", ""))
    joined = str(response.url.join(target))
    old, new = urlsplit(url), urlsplit(joined)
    if new.scheme not in {"http", "https"} or (old.scheme == "https" and new.scheme == "http"):
        raise PolicyRefused(f"refused to follow a redirect to {new.scheme}:", where=where)
    return joined


def check_range(response: Any, start: int, size_bytes: int, where: str) -> None:
    """Check that a partial answer is the part that was asked for.

    Raises:
        Restart: it is another part, or of another file.
    """
    match = _RANGE.fullmatch(response.headers.get("content-range", ""))
    if response.status_code != 206 or not match or int(match[1]) != start:
        raise Restart("the server answered with another range", where=where)
    if match[3] not in {"*", str(size_bytes)}:
        raise Restart("the file has changed its size", where=where)


def retry_after_s(text: str | None) -> float | None:
    """Seconds from ``Retry-After``: a number or an HTTP date (RFC 9110, 10.2.3)."""
    if not text:
        return None
    if text.isdigit():
        return float(text)
    try:
        moment = email.utils.parsedate_to_datetime(text)
    except ValueError:
        return None
    return max(0.0, moment.timestamp() - time.time())
