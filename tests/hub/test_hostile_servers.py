"""Servers that answer with what no server should: each ends with one error, and soon."""

from __future__ import annotations

import gzip
import json
import sys
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from adaptrix.hub import oci
from adaptrix.hub.faults import Restart
from adaptrix.hub.huggingface import HuggingFaceHub
from adaptrix.hub.oci_transport import MAX_ANSWER_BYTES
from adaptrix.hub.settings import HubSettings
from adaptrix.hub.versions import VersionFiles
from adaptrix.registry.fetching import MAX_LAYERS, BlobFetch, artifact_snapshot, read_artifact
from adaptrix.schema.digest import Digest
from adaptrix.schema.errors import (
    AdaptrixError,
    FormatError,
    IntegrityError,
    PolicyRefused,
    RemoteError,
)
from adaptrix.schema.reference import HubSource
from adaptrix.store.home import Home

makers = sys.modules["oci_makers"]
Fault = sys.modules["loopback_registry"].Fault
HubFault = sys.modules["loopback_hub"].Fault
BODY = bytes(range(256)) * 64
BLOB = makers.blob_of(BODY)


@contextmanager
def server(answer):
    """Every request is answered by ``answer(handler)``; gives the address and the paths asked."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_GET(self):
            asked.append(self.path)
            try:
                answer(self)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True

        do_HEAD = do_GET  # noqa: N815 - named by the library

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.daemon_threads = True
        threading.Thread(target=running.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{running.server_address[1]}", asked
        running.shutdown()


def say(handler, body=b"", *, status=200, kind="application/json", **headers):
    handler.send_response(status)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **named}.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(body)


def quick_hub(url):
    settings = HubSettings(
        endpoint=url, timeout_s=1.0, attempts=1, backoff_s=0.001, longest_pause_s=0.05
    )
    return HuggingFaceHub(HubSource(repository="any/lora"), settings)


def test_redirects_in_circles_end():
    with server(lambda h: say(h, status=307, Location=h.path)) as (url, asked):
        with pytest.raises(RemoteError, match="in circles"):
            list(makers.client(url).stream("math", BLOB.digest, len(BODY)))
        assert len(asked) < 10


def test_redirects_of_the_hub_in_circles_end(hub):
    hub.repository("any/lora").commit({"config.json": b"{}"})
    remote = HuggingFaceHub(HubSource(repository="any/lora"), HubSettings.from_environment())
    snapshot = remote.snapshot()
    place = f"{hub.endpoint}/any/lora/resolve/{snapshot.commit}/config.json"
    hub.fail("config.json", *[HubFault("redirect", target=place)] * 9)
    with pytest.raises(RemoteError, match="in circles"):
        list(remote.stream(snapshot, snapshot.files[0]))


def endless(handler):
    handler.send_response(200)
    handler.end_headers()
    while True:
        handler.wfile.write(b"x" * 65536)


def test_a_body_without_an_end_is_left_at_its_announced_size(tmp_path):
    with server(endless) as (url, _), Home.open(tmp_path / "home") as home:
        started = time.monotonic()
        with pytest.raises(AdaptrixError):
            BlobFetch(home, makers.client(url), "math").bring(BLOB)
        assert time.monotonic() - started < 20
        assert not home.blobs.has(BLOB.digest)
        kept = sum(path.stat().st_size for path in (home.path / "tmp").rglob("*") if path.is_file())
        assert kept <= len(BODY)


def test_an_answer_without_an_end_is_refused():
    with server(endless) as (url, _):
        with pytest.raises(PolicyRefused, match=str(MAX_ANSWER_BYTES)) as caught:
            makers.client(url).tags("math")
    assert caught.value.exit_status == 7


def test_a_packed_body_is_refused():
    """A few bytes of gzip unpack to gigabytes; nothing here asks for an encoding."""
    bomb = gzip.compress(bytes(1 << 20))
    with server(lambda h: say(h, bomb, Content_Encoding="gzip")) as (url, _):
        with pytest.raises(RemoteError, match="encoded body"):
            list(makers.client(url).stream("math", BLOB.digest, len(BODY)))
        with pytest.raises(AdaptrixError) as caught:
            makers.client(url).tags("math")
        assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("body", [b"<html>log in</html>", b"[]", b"null", b'{"tags": {"a": 1}}', b"\xff", b"[" * 100_000])  # fmt: skip
def test_answers_that_are_no_list_of_tags(body):
    with server(lambda h: say(h, body, kind="text/html")) as (url, _):
        with pytest.raises(AdaptrixError) as caught:
            makers.client(url).tags("math")
        assert caught.value.exit_status in {2, 6}


def test_the_next_page_is_never_elsewhere():
    with server(lambda h: say(h, b'{"tags": ["stolen"]}')) as (elsewhere, asked):
        link = f'<{elsewhere}/v2/math/tags/list?n=1>; rel="next"'
        with server(lambda h: say(h, b'{"tags": ["a"]}', Link=link)) as (url, _):
            with pytest.raises(RemoteError, match="elsewhere"):
                makers.client(url).tags("math")
        assert asked == []


def test_pages_in_circles_end(monkeypatch):
    monkeypatch.setattr(oci, "_MAX_PAGES", 20)
    link = '</v2/math/tags/list?n=1>; rel="next"'
    with server(lambda h: say(h, b'{"tags": ["a"]}', Link=link)) as (url, asked):
        with pytest.raises(RemoteError, match="without an end"):
            makers.client(url).tags("math")
        assert len(asked) == 20


@pytest.mark.parametrize("commit", ["../../etc", "/abs", "a" * 10_000, "", "0" * 39, None, 7])
def test_a_commit_that_is_no_commit_is_refused(commit):
    body = json.dumps({"id": "any/lora", "sha": commit, "siblings": [], "tags": []}).encode()
    with server(lambda h: say(h, body)) as (url, _):
        with pytest.raises(RemoteError, match="no commit id") as caught:
            quick_hub(url).snapshot()
    assert caught.value.exit_status == 6
    assert len(str(caught.value)) < 1000


def test_a_hub_that_is_a_login_page():
    page = b"<html>log in</html>"
    with server(lambda h: say(h, page, kind="text/html")) as (url, _):
        with pytest.raises(RemoteError) as caught:
            quick_hub(url).snapshot()
    assert (caught.value.exit_status, caught.value.code) == (6, "bad_answer")


def test_a_digest_header_that_is_no_digest():
    for header in ("../../x", "sha256:" + "A" * 64, "sha512:00", "sha256-" + "0" * 64):
        with server(lambda h, d=header: say(h, b"{}", Docker_Content_Digest=d)) as (url, _):
            with pytest.raises(RemoteError, match="no digest"):
                makers.client(url).resolve("math", "latest")


def layer(name="adapter_model.safetensors", **changes):
    title = {"org.opencontainers.image.title": name}
    return {**BLOB.to_json(), "annotations": title, **changes}


@contextmanager
def served(changes):
    """A registry whose one manifest is changed so; gives its client and the digest."""
    plain = {**json.loads(makers.manifest_of()), "layers": [layer()]}
    data = json.dumps({**plain, **changes}).encode()
    with server(lambda h: say(h, data)) as (url, _):
        yield makers.client(url), Digest.of(data)


INDEX = "application/vnd.oci.image.index.v1+json"


@pytest.mark.parametrize(
    "changes",
    [
        {"mediaType": INDEX, "manifests": []},
        {"mediaType": "text/plain"},
        {"layers": {"0": 1}},
        {"layers": [layer(f"{n}.safetensors") for n in range(MAX_LAYERS + 1)]},
        {"layers": [layer(digest="sha512:" + "0" * 128)]},
        {"layers": [layer(digest="../../x")]},
        {"layers": [layer(size=-1)]},
        {"layers": [layer(size="12")]},
        {"layers": [layer(size=1e3)]},
        {"layers": [layer(size=None)]},
        {"layers": [layer(), layer(digest=str(Digest.of(b"other")))]},
        {"layers": [layer(), 7]},
    ],
    ids=lambda changes: ",".join(changes)[:20],
)
def test_manifests_that_are_none(changes):
    with served(changes) as (remote, digest):
        with pytest.raises((FormatError, IntegrityError, PolicyRefused)) as caught:
            artifact_snapshot(remote, "math", read_artifact(remote, "math", digest))
    assert len(str(caught.value)) < 1000


def test_the_manifest_without_any_change_is_one():
    with served({}) as (remote, digest):
        found = artifact_snapshot(remote, "math", read_artifact(remote, "math", digest))
    assert [file.path for file in found.files] == ["adapter_model.safetensors"]


def test_a_layer_elsewhere_is_never_fetched_from_there():
    """Foreign-layer ``urls`` and inline ``data`` are no source of bytes."""
    with server(lambda h: say(h, BODY)) as (elsewhere, asked):
        entry = layer(urls=[f"{elsewhere}/x"], data="AAAA")
        with served({"layers": [entry]}) as (remote, digest):
            artifact = read_artifact(remote, "math", digest)
            snapshot = artifact_snapshot(remote, "math", artifact)
            files = VersionFiles(remote, "math", snapshot)
            assert b"".join(files.stream(snapshot, snapshot.files[0])) != BODY
        assert asked == []


def test_a_hub_file_that_shrinks_between_two_parts(hub):
    """The second part is of another file: what came is thrown away, not joined."""
    hub.repository("any/lora").commit({"adapter_model.safetensors": BODY})
    remote = HuggingFaceHub(HubSource(repository="any/lora"), HubSettings.from_environment())
    snapshot = remote.snapshot()
    list(remote.stream(snapshot, snapshot.files[0]))
    hub.repositories["any/lora"].commits[snapshot.commit]["adapter_model.safetensors"] = BODY[:-1]
    with pytest.raises(Restart):
        list(remote.stream(snapshot, snapshot.files[0], offset=100))
    sent = hub.fetched("adapter_model.safetensors")[-1].headers
    assert sent["if-range"].startswith('"')
