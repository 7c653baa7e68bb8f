"""CNCF distribution on 127.0.0.1, open, with htpasswd, or with a token server.

The token server signs with openssl, since CNCF distribution wants real signatures.
"""

from __future__ import annotations

import base64
import json
import shutil
import socket
import subprocess
import time
import urllib.request
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from loopback_registry import Handler, Server

# bcrypt, cost 4: there is no bcrypt in the standard library.
HTPASSWD = """writer:$2b$04$a2oAq9CSXF1Ro6deQDsG2.BxEKvoSQDUKxLCEezSPlDCFrPPPGULi
reader:$2b$04$HSt32mr4k.egAiO5BBVCUOuaIx9mzh33RApCxTrHUYFlcB0fnbiTe
"""
PASSWORDS = {"writer": "writer-secret", "reader": "reader-secret"}
DOCKER_REGISTRY = shutil.which("docker-registry")


class _TokenHandler(Handler):
    def do_GET(self):  # noqa: N802 - named by the library
        owner, parts = self.owner, urlsplit(self.path)
        query = parse_qs(parts.query)
        owner.asked.append(query)
        user = ""
        if given := self.headers.get("Authorization", "").removeprefix("Basic "):
            user, _, secret = base64.b64decode(given).decode().partition(":")
            if PASSWORDS.get(user) != secret:
                return self.answer(401, {"errors": [{"code": "UNAUTHORIZED"}]})
        allowed = {"writer": {"pull", "push", "*"}, "reader": {"pull", "*"}}.get(user, set())
        access = []
        for scope in query.get("scope", []):
            kind, name, actions = scope.split(":")
            granted = sorted(set(actions.split(",")) & allowed)
            access.append({"type": kind, "name": name, "actions": granted})
        return self.answer(200, {"token": owner.sign(user, query["service"][0], access)})


class TokenServer(Server):
    """Issues signed tokens to the users above."""

    handler = _TokenHandler

    def __init__(self, folder: Path) -> None:
        self.folder, self.asked = folder, []
        folder.mkdir(parents=True, exist_ok=True)
        self.key, self.certificate = folder / "key.pem", folder / "certificate.pem"
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
             "-subj", "/CN=issuer", "-keyout", self.key, "-out", self.certificate],
            check=True, capture_output=True,
        )  # fmt: skip
        super().__init__()

    def sign(self, user, service, access):
        der = "".join(self.certificate.read_text().splitlines()[1:-1])
        header = {"typ": "JWT", "alg": "RS256", "x5c": [der]}
        now = int(time.time())
        claims = {
            "iss": "issuer", "sub": user, "aud": service, "exp": now + 300, "nbf": now - 10,
            "iat": now, "jti": str(len(self.asked)), "access": access,
        }  # fmt: skip
        text = b".".join(_url64(json.dumps(part).encode()) for part in (header, claims))
        signature = subprocess.run(
            ["openssl", "dgst", "-sha256", "-sign", self.key],
            check=True, input=text, capture_output=True,
        ).stdout  # fmt: skip
        return (text + b"." + _url64(signature)).decode()


def _url64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


class DockerRegistry:
    """CNCF distribution as Debian packages it, on a free port; a context manager."""

    def __init__(self, folder: Path, *, auth: str = "", token_server: TokenServer | None = None):
        self.folder, self.auth, self.token_server = folder, auth, token_server
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.host = f"127.0.0.1:{probe.getsockname()[1]}"

    @property
    def url(self) -> str:
        return f"http://{self.host}"

    def __enter__(self):
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "config.yml").write_text(self._config())
        self._log = (self.folder / "log").open("wb")
        self._process = subprocess.Popen(
            [DOCKER_REGISTRY, "serve", self.folder / "config.yml"],
            stdout=self._log, stderr=self._log,
        )  # fmt: skip
        self._wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(10)
        self._log.close()

    def _wait(self) -> None:
        for _ in range(200):
            try:
                urllib.request.urlopen(f"{self.url}/v2/", timeout=1).close()
            except urllib.error.HTTPError as error:
                error.close()
                return
            except OSError:
                time.sleep(0.05)
            else:
                return
        raise AssertionError((self.folder / "log").read_text())

    def _config(self) -> str:
        lines = [
            "version: 0.1", "log: {level: error}",
            f"storage: {{filesystem: {{rootdirectory: {self.folder / 'storage'}}}}}",
            f"http: {{addr: '{self.host}', secret: here}}",
        ]  # fmt: skip
        if self.auth == "htpasswd":
            (self.folder / "htpasswd").write_text(HTPASSWD)
            lines.append(f"auth: {{htpasswd: {{realm: here, path: {self.folder / 'htpasswd'}}}}}")
        if self.auth == "token" and self.token_server:
            server = self.token_server
            lines.append(
                f"auth: {{token: {{realm: '{server.url}/token', service: here, issuer: issuer, "
                f"rootcertbundle: {server.certificate}}}}}"
            )
        return "\n".join(lines) + "\n"
