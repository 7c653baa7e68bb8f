"""Logging in to a registry: Basic, and Bearer tokens from a token server.

A registry that wants more says in ``WWW-Authenticate`` what; the answer is kept for the
life of the client. Sources: RFC 9110, 11.6.1; CNCF distribution's token specification.
"""

from __future__ import annotations

import base64
import json
import re
from dataclasses import dataclass

import httpx

from adaptrix.hub.credentials import Credential
from adaptrix.hub.faults import error_for_status
from adaptrix.hub.http import origin_of, require_secure, shown
from adaptrix.schema.errors import AccessDenied, RemoteError

MAX_TOKEN_BYTES = 1 << 20
_SCHEME = re.compile(r"(?:^|,)\s*(Basic|Bearer)\s+", re.IGNORECASE)
_PARAMETER = re.compile(r'([A-Za-z_]+)="([^"]*)"')


@dataclass(frozen=True, slots=True, kw_only=True)
class Challenge:
    """What a registry asks for.

    Attributes:
        scheme: ``basic`` or ``bearer``.
        realm, service: As it says.
        scopes: One entry per scope.
    """

    scheme: str
    realm: str = ""
    service: str = ""
    scopes: tuple[str, ...] = ()

    @classmethod
    def parse(cls, header: str) -> Challenge | None:
        """The challenge that we can answer; Bearer before Basic, None when there is none."""
        marks = list(_SCHEME.finditer(header))
        found: dict[str, Challenge] = {}
        for mark, after in zip(marks, [*marks[1:], None], strict=False):
            end = after.start() if after else len(header)
            fields = dict(_PARAMETER.findall(header[mark.end() : end]))
            scheme = mark[1].lower()
            found[scheme] = cls(
                scheme=scheme,
                realm=fields.get("realm", ""),
                service=fields.get("service", ""),
                # A mount is challenged with two scopes in one text.
                scopes=tuple(fields.get("scope", "").split()),
            )
        return found.get("bearer") or found.get("basic")


class Authorizer:
    """Authorization headers for one origin."""

    def __init__(
        self, client: httpx.Client, origin: str, credential: Credential | None, *, insecure: bool
    ) -> None:
        self._client = client
        self._origin = origin_of(origin)
        self._credential = credential
        self._insecure = insecure
        self._basic = False
        self._tokens: dict[tuple[str, ...], str] = {}

    @property
    def knows_a_secret(self) -> bool:
        """Whether somebody has logged in."""
        return self._credential is not None

    def headers(self, url: str, scopes: tuple[str, ...]) -> dict[str, str]:
        """What to send along to ``url``; nothing beyond the registry's own origin."""
        if origin_of(url) != self._origin:
            return {}
        if self._basic and self._credential is not None:
            return {"Authorization": _basic(self._credential)}
        token = self._tokens.get(scopes) or self._given_token()
        return {"Authorization": f"Bearer {token}"} if token else {}

    def learn(self, header: str, scopes: tuple[str, ...]) -> bool:
        """Take up a challenge; whether it makes sense to ask again.

        Raises:
            AccessDenied: the token server says no.
            RemoteError: it cannot be asked.
        """
        challenge = Challenge.parse(header)
        if challenge is None:
            return False
        if challenge.scheme == "basic":
            usable = self._credential is not None and bool(self._credential.username)
            again = usable and not self._basic
            self._basic = usable
            return again
        if self._given_token():
            return False
        self._tokens[scopes] = self._fetch_token(challenge, scopes)
        return True

    def _given_token(self) -> str:
        credential = self._credential
        return credential.secret if credential is not None and not credential.username else ""

    def _fetch_token(self, challenge: Challenge, scopes: tuple[str, ...]) -> str:
        where = shown(challenge.realm)
        if not challenge.realm.startswith(("http://", "https://")):
            raise RemoteError("no token server in the challenge", where=where, code="bad_answer")
        insecure = self._insecure or self._origin[0] == "http"
        require_secure(challenge.realm, insecure=insecure and self._same_host(challenge.realm))
        wanted = challenge.scopes or scopes
        query: list[tuple[str, str | int | float | bool | None]]
        query = [("scope", scope) for scope in wanted]
        if challenge.service:
            query.insert(0, ("service", challenge.service))
        headers = {}
        if self._credential is not None:
            headers["Authorization"] = _basic(self._credential)
        try:
            with self._client.stream(
                "GET", challenge.realm, params=query, headers=headers
            ) as response:
                status = response.status_code
                body = _limited(response, where) if status == 200 else b""
        except httpx.HTTPError as error:
            raise RemoteError(f"no token: {type(error).__name__}", where=where) from error
        if status in {400, 401, 403}:
            raise AccessDenied(
                f"the token server refused (HTTP {status})", where=where, hint="adaptrix login"
            )
        if status != 200:
            raise error_for_status(status, where)
        return _token_of(body, where)

    def _same_host(self, url: str) -> bool:
        return origin_of(url)[1].partition(":")[0] == self._origin[1].partition(":")[0]


def _basic(credential: Credential) -> str:
    pair = f"{credential.username}:{credential.secret}".encode()
    return f"Basic {base64.b64encode(pair).decode('ascii')}"


def _limited(response: httpx.Response, where: str) -> bytes:
    found = bytearray()
    for chunk in response.iter_bytes():
        found += chunk
        if len(found) > MAX_TOKEN_BYTES:
            raise RemoteError("a token of more than 1 MiB", where=where, code="bad_answer")
    return bytes(found)


def _token_of(body: bytes, where: str) -> str:
    try:
        document = json.loads(body)
        token = document.get("token") or document.get("access_token")
    except (ValueError, AttributeError):
        token = None
    if not isinstance(token, str) or not token.isprintable() or " " in token:
        # The answer may hold a secret: it is not repeated.
        raise RemoteError("the token server sent no token", where=where, code="bad_answer")
    return token
