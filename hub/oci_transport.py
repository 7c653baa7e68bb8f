"""Requests to one registry: authorised, retried, redirected, and with bounded answers.

Secrets go to the registry's own origin only; a redirect to storage elsewhere carries none.
Sources: OCI distribution-spec 1.1; RFC 9110.
"""

from __future__ import annotations

import json
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx

from adaptrix.hub.credentials import Credential
from adaptrix.hub.faults import RateLimited, error_for_status, is_temporary
from adaptrix.hub.http import (
    MAX_REDIRECTS,
    REDIRECTS,
    origin_of,
    redirect_target,
    require_secure,
    retry_after_s,
    shown,
)
from adaptrix.hub.oci_auth import Authorizer
from adaptrix.hub.settings import HubSettings
from adaptrix.hub.transfer import pause_s
from adaptrix.schema.errors import (
    AccessDenied,
    AdaptrixError,
    NotFound,
    PolicyRefused,
    RemoteError,
)

MAX_ANSWER_BYTES = 4 << 20
_MAX_MESSAGE = 200
Body = Callable[[], Iterable[bytes]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A whole answer."""

    status: int
    url: str
    headers: Mapping[str, str]
    body: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request.

    Attributes:
        method: HTTP method.
        url: Absolute, or a path at the registry.
        scopes: What a token must allow.
        headers: Extra headers.
        body: Makes the body anew for each attempt.
        expected: Statuses that are answers; every other one is an error.
        once: Whether a failed attempt must not be repeated here.
    """

    method: str
    url: str
    scopes: tuple[str, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Body | None = None
    expected: frozenset[int] = frozenset({200})
    once: bool = False


class OciTransport:
    """HTTP to one registry.

    Attributes:
        origin: ``https://host:port``.
        settings: Attempts, pauses and time-outs.
    """

    def __init__(
        self,
        origin: str,
        *,
        credential: Credential | None = None,
        settings: HubSettings | None = None,
        insecure: bool = False,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        require_secure(origin, insecure=insecure)
        self.origin = origin
        self.settings = settings or HubSettings()
        self.insecure = insecure
        self._pause = pause
        self._reached = False
        self._client = httpx.Client(
            timeout=self.settings.timeout_s,
            follow_redirects=False,
            headers={"User-Agent": "adaptrix", "Accept-Encoding": "identity"},
        )
        # A client that is merely forgotten would leave its connections to the collector.
        self._finalizer = weakref.finalize(self, self._client.close)
        self._authorizer = Authorizer(self._client, origin, credential, insecure=insecure)

    def close(self) -> None:
        """Close the connections."""
        self._finalizer()

    def ask(self, call: Call) -> Answer:
        """Send ``call`` and read the whole answer, trying again where that may help.

        Raises:
            AdaptrixError: the last attempt's error.
        """
        attempt = 0
        while True:
            attempt += 1
            try:
                with self.open(call) as response:
                    return _answer(response)
            except AdaptrixError as error:
                last = call.once or attempt >= self.settings.attempts
                if last or not is_temporary(error):
                    raise
                self._pause(pause_s(error, attempt, self.settings))

    @contextmanager
    def open(self, call: Call) -> Iterator[httpx.Response]:
        """Send ``call`` once and hand out the answer with its body unread.

        Raises:
            AdaptrixError: no answer, or one with an unexpected status.
        """
        url = self.absolute(call.url)
        where = f"{call.method} {shown(url)}"
        with self._translated(where):
            response = self._send(call, url)
            self._reached = True
            try:
                if response.status_code not in call.expected:
                    raise self._refusal(response, where)
                yield response
            finally:
                response.close()

    def absolute(self, url: str, *, base: str = "") -> str:
        """``url`` with the registry's origin, unless it has one.

        Raises:
            PolicyRefused: it leads from https to http.
        """
        joined = str(httpx.URL(base or self.origin).join(url))
        require_secure(joined, insecure=self.insecure)
        if self.origin.startswith("https://") and not joined.startswith("https://"):
            raise PolicyRefused("refused to go from https to http", where=shown(joined))
        return joined

    def pause(self, error: AdaptrixError, attempt: int) -> None:
        """Wait before the next attempt of something that the caller repeats."""
        self._pause(pause_s(error, attempt, self.settings))

    def _send(self, call: Call, url: str) -> httpx.Response:
        """Send, answering challenges and following redirects."""
        challenged = False
        for _ in range(MAX_REDIRECTS + 2):
            response = self._client.send(self._request(call, url), stream=True)
            status = response.status_code
            if status == 401 and not challenged and origin_of(url) == origin_of(self.origin):
                response.close()
                challenged = True
                if self._authorizer.learn(
                    response.headers.get("www-authenticate", ""), call.scopes
                ):
                    continue
                return response
            if status in REDIRECTS and call.method in {"GET", "HEAD"}:
                response.close()
                url = redirect_target(url, response, shown(url))
                continue
            return response
        raise RemoteError("redirected in circles", where=shown(url), code="bad_answer")

    def _request(self, call: Call, url: str) -> httpx.Request:
        headers = {**call.headers, **self._authorizer.headers(url, call.scopes)}
        content = call.body() if call.body is not None else None
        return self._client.build_request(call.method, url, headers=headers, content=content)

    @contextmanager
    def _translated(self, where: str) -> Iterator[None]:
        try:
            yield
        except httpx.TimeoutException as error:
            raise RemoteError("no answer in time", where=where, code="timeout") from error
        except httpx.HTTPError as error:
            text = str(error) or type(error).__name__
            hint = "Check the network and the address."
            # A place that never answered is more likely misspelt than busy.
            fresh = isinstance(error, httpx.ConnectError) and not self._reached
            code = "unreachable" if fresh else "network"
            raise RemoteError(text, where=where, hint=hint, code=code) from error
        except httpx.InvalidURL as error:
            raise RemoteError("no valid address", where=where, code="bad_answer") from error

    def _refusal(self, response: httpx.Response, where: str) -> AdaptrixError:
        status = response.status_code
        said = "" if response.is_closed else _message(response)
        if status in {401, 403}:
            hint = "Log in with adaptrix login, or ask for the permission."
            if self._authorizer.knows_a_secret:
                hint = "The login is not enough for this: ask for the permission, or log in anew."
            return AccessDenied(f"not allowed (HTTP {status}){said}", where=where, hint=hint)
        if status in {404, 410}:
            return NotFound(f"not there (HTTP {status}){said}", where=where)
        pause = retry_after_s(response.headers.get("retry-after"))
        error = error_for_status(status, where, pause_s=pause)
        error.message += said
        if isinstance(error, RateLimited):
            error.hint = "Wait a little and try again."
        return error


def _answer(response: httpx.Response) -> Answer:
    found = bytearray()
    for chunk in response.iter_raw():
        found += chunk
        if len(found) > MAX_ANSWER_BYTES:
            raise PolicyRefused(
                f"an answer of more than {MAX_ANSWER_BYTES} bytes",
                where=shown(str(response.request.url)),
            )
    return Answer(
        status=response.status_code,
        url=str(response.request.url),
        headers=response.headers,
        body=bytes(found),
    )


def _message(response: httpx.Response) -> str:
    """What an OCI error document says (distribution-spec, error codes)."""
    try:
        entry = json.loads(_answer(response).body)["errors"][0]
        text = f"{entry['code']} {entry.get('message', '')}".strip()
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, AdaptrixError):
        return ""
    return f": {text[:_MAX_MESSAGE]}"
