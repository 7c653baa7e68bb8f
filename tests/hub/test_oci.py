"""The registry client against a registry of our own that misbehaves on demand."""

from __future__ import annotations

import hashlib
import random
import socket
import sys
from contextlib import contextmanager

import pytest

from adaptrix.hub.credentials import Credential
from adaptrix.hub.faults import ContentMismatch, Restart
from adaptrix.hub.oci_auth import Challenge
from adaptrix.hub.remote import RemoteFile, Snapshot
from adaptrix.hub.transfer import fetch_file
from adaptrix.hub.versions import Sent, TagMoved, VersionFiles
from adaptrix.schema.digest import Digest
from adaptrix.schema.errors import (
    AccessDenied,
    FormatError,
    IntegrityError,
    NotFound,
    PolicyRefused,
    RemoteError,
)
from adaptrix.store.disk import DiskStore

makers = sys.modules["oci_makers"]
Fault = sys.modules["loopback_registry"].Fault
LoopbackRegistry = sys.modules["loopback_registry"].LoopbackRegistry
BODY = random.Random(3).randbytes(3_000_000)
BLOB = makers.blob_of(BODY)


def stocked(server, name="math"):
    """The body and a manifest that names it, under ``name:v1``."""
    registry = makers.client(server.url)
    for data in (BODY, makers.EMPTY):
        registry.push_blob(name, makers.blob_of(data), makers.opened(data))
    manifest = makers.manifest_of(BLOB)
    digest = registry.push_manifest(name, manifest, tag="v1", expected=None)
    return registry, digest


def fetch(registry, tmp_path, name="math", pauses=None):
    store = DiskStore(tmp_path / "store")
    store.prepare()
    file = RemoteFile(path="body", size_bytes=len(BODY), sha256=BLOB.digest)
    snapshot = Snapshot(repository=name, commit="0" * 40, files=(file,))

    @contextmanager
    def sink():
        with store.writer(
            expected_digest=BLOB.digest, expected_size=len(BODY), partial="body"
        ) as writer:
            yield writer

    travelled = fetch_file(
        VersionFiles(registry, name, snapshot), snapshot, file, sink, settings=makers.QUICK,
        pause=(pauses if pauses is not None else []).append,
    )  # fmt: skip
    assert store.read(BLOB.digest) == BODY
    return travelled


def test_what_is_pushed_comes_back_with_its_digest(registry_server):
    registry, digest = stocked(registry_server)
    registry.ping()
    assert registry.resolve("math", "v1") == digest
    assert hashlib.sha256(registry.manifest("math", digest)).hexdigest() == digest.hex
    assert registry.names() == ("math",)
    assert registry.tags("math") == ("v1",)
    assert registry.tags("absent") == ()
    assert registry.resolve("math", "v2") is None
    assert b"".join(registry.stream("math", BLOB.digest, len(BODY))) == BODY
    cut = b"".join(registry.stream("math", BLOB.digest, len(BODY), start=10, stop=25))
    assert cut == BODY[10:25]


def test_a_blob_that_is_there_does_not_travel_again(registry_server):
    registry, _ = stocked(registry_server)
    before = len(registry_server.sent("PUT", "/blobs/"))
    assert registry.push_blob("math", BLOB, makers.opened(BODY)) is Sent.PRESENT
    assert len(registry_server.sent("PUT", "/blobs/")) == before


def test_a_blob_of_a_neighbour_is_mounted(registry_server):
    registry, _ = stocked(registry_server)
    sent = registry.push_blob("mix", BLOB, makers.opened(BODY), near=("absent", "math"))
    assert sent is Sent.MOUNTED
    assert registry_server.blobs["mix", str(BLOB.digest)] == BODY
    assert registry.push_blob("other", BLOB, makers.opened(BODY), near=("no",)) is Sent.UPLOADED


def test_a_chunked_upload_goes_on_where_it_was_cut(registry_server):
    registry = makers.client(registry_server.url, chunk_bytes=1_000_000)
    registry_server.fail("PATCH", "session", Fault("cut", at=300_000), Fault("cut", at=100_000))
    assert registry.push_blob("math", BLOB, makers.opened(BODY)) is Sent.UPLOADED
    assert registry_server.blobs["math", str(BLOB.digest)] == BODY
    ranges = [r.headers["content-range"] for r in registry_server.sent("PATCH")]
    assert ranges[:3] == ["0-999999", "300000-1299999", "400000-1399999"]
    assert len(registry_server.sent("POST")) == 1


def test_a_session_that_the_registry_lost_begins_anew(registry_server):
    registry = makers.client(registry_server.url, chunk_bytes=1_000_000)
    registry_server.fail("PATCH", "session-0", Fault("status", status=404))
    registry_server.fail("GET", "session-0", Fault("status", status=404))
    assert registry.push_blob("math", BLOB, makers.opened(BODY)) is Sent.UPLOADED
    assert len(registry_server.sent("POST")) == 2


def test_a_whole_upload_is_repeated_after_a_cut(registry_server):
    registry_server.fail("PUT", "/uploads/", Fault("cut", at=1000), Fault("status", status=503))
    registry = makers.client(registry_server.url)
    assert registry.push_blob("math", BLOB, makers.opened(BODY)) is Sent.UPLOADED
    assert registry_server.blobs["math", str(BLOB.digest)] == BODY


@pytest.mark.parametrize(
    ("fault", "pause"),
    [
        (Fault("status", status=429, headers={"Retry-After": "0"}), 0.0),
        (Fault("status", status=429, headers={"Retry-After": "1000000000"}), 0.05),
        (Fault("status", status=503), None),
    ],
)  # fmt: skip
def test_pauses_are_taken_and_capped(registry_server, fault, pause):
    stocked(registry_server)
    pauses = []
    registry = makers.client(registry_server.url, pause=pauses.append)
    registry_server.fail("GET", "/tags/", fault)
    assert registry.tags("math") == ("v1",)
    assert len(pauses) == 1
    assert pause is None or pauses == [pause]


def test_a_storm_ends_with_the_last_error(registry_server):
    registry = makers.client(registry_server.url, pause=lambda _: None)
    registry_server.fail("GET", "/v2/", *[Fault("status", status=503)] * 9)
    with pytest.raises(RemoteError, match="HTTP 503"):
        registry.ping()
    assert len(registry_server.requests) == makers.QUICK.attempts


def test_a_cut_download_goes_on(registry_server, tmp_path):
    registry, _ = stocked(registry_server)
    registry_server.fail("GET", "/blobs/", Fault("cut", at=1_200_000))
    pauses = []
    fetch(registry, tmp_path, pauses=pauses)
    asked = [r.headers.get("range") for r in registry_server.sent("GET", "/blobs/")]
    assert asked[0] is None
    assert asked[1].startswith("bytes=")
    assert 0 < int(asked[1].removeprefix("bytes=").rstrip("-")) <= 1_200_000
    assert len(pauses) == 1


@pytest.mark.parametrize("kind", ["flip", "wrong_range", "whole", "stall"])
def test_bad_bytes_never_enter_the_store(registry_server, tmp_path, kind):
    registry, _ = stocked(registry_server)
    first = Fault("cut", at=1_000_000) if kind in {"wrong_range", "whole"} else Fault(kind, at=99)
    then = [Fault(kind, at=99)] if kind in {"wrong_range", "whole"} else []
    registry_server.fail("GET", "/blobs/", first, *then)
    fetch(registry, tmp_path)


def test_another_part_than_was_asked_for_is_refused(registry_server):
    """Ranged reads of headers have no digest to be caught by."""
    registry, _ = stocked(registry_server)
    registry_server.fail("GET", "/blobs/", Fault("wrong_range"))
    with pytest.raises(Restart):
        list(registry.stream("math", BLOB.digest, len(BODY), start=10, stop=20))


def test_bytes_that_stay_wrong_are_refused(registry_server, tmp_path):
    registry, _ = stocked(registry_server)
    registry_server.fail("GET", "/blobs/", *[Fault("flip", at=7)] * 3)
    with pytest.raises(IntegrityError):
        fetch(registry, tmp_path)


def test_a_manifest_that_is_another_one_is_refused(registry_server):
    registry, digest = stocked(registry_server)
    registry_server.lie = makers.manifest_of()
    with pytest.raises(ContentMismatch) as caught:
        registry.manifest("math", digest)
    assert caught.value.actual == Digest.of(makers.manifest_of())


def test_without_an_announced_digest_it_is_computed():
    with LoopbackRegistry(tells_digest=False) as server:
        registry, digest = stocked(server)
        assert registry.resolve("math", "v1") == digest


def test_a_tag_moves_only_from_where_it_was_known_to_be(registry_server):
    registry, digest = stocked(registry_server)
    other = makers.manifest_of(BLOB, annotations={"a": "b"})
    with pytest.raises(TagMoved) as caught:
        registry.push_manifest("math", other, tag="v1", expected=None)
    assert (caught.value.wanted, caught.value.got) == (None, digest)
    assert registry.resolve("math", "v1") == digest
    moved = registry.push_manifest("math", other, tag="v1", expected=digest)
    assert registry.resolve("math", "v1") == moved
    again = registry.push_manifest("math", makers.manifest_of(BLOB), tag="v1", expected=None, force=True)  # fmt: skip
    assert again == digest


def test_pages_are_followed_to_their_end():
    with LoopbackRegistry(page_size=2) as server:
        registry, _ = stocked(server)
        for tag in "abcde":
            registry.push_manifest("math", makers.manifest_of(BLOB), tag=tag, expected=None)
        assert registry.tags("math") == ("a", "b", "c", "d", "e", "v1")


def test_a_prefix_holds_the_names():
    with LoopbackRegistry() as server:
        stocked(server, "team/math")
        stocked(server, "teams/other")
        assert makers.client(f"{server.url}/team").names() == ("math",)


def test_basic_login():
    with LoopbackRegistry(user=("writer", "s3cret")) as server:
        given = Credential(username="writer", secret="s3cret")
        makers.client(server.url, credential=given).ping()
        for credential in (None, Credential(username="writer", secret="wrong-s3cret")):
            with pytest.raises(AccessDenied) as caught:
                makers.client(server.url, credential=credential).ping()
            assert "s3cret" not in str(caught.value)
            assert caught.value.exit_status == 4
        assert len(server.requests) == 2 + 1 + 2


def test_secrets_stay_at_their_origin(registry_server):
    """A registry that sends blobs from elsewhere does not make us send our secret there."""
    stocked(registry_server)
    with LoopbackRegistry(user=("writer", "s3cret")) as server:
        place = f"{registry_server.url}/v2/math/blobs/{BLOB.digest}"
        registry = makers.client(
            server.url, credential=Credential(username="writer", secret="s3cret")
        )
        registry.ping()
        server.fail("GET", "/blobs/", Fault("status", status=307, headers={"Location": place}))
        assert b"".join(registry.stream("math", BLOB.digest, len(BODY))) == BODY
        assert "authorization" in server.requests[-1].headers
        assert "authorization" not in registry_server.requests[-1].headers


def test_redirects_to_files_are_refused(registry_server):
    registry, _ = stocked(registry_server)
    headers = {"Location": "file:///etc/passwd"}
    registry_server.fail("GET", "/blobs/", Fault("status", status=302, headers=headers))
    with pytest.raises(PolicyRefused):
        list(registry.stream("math", BLOB.digest, len(BODY)))


def test_plain_http_beyond_this_machine_is_refused():
    with pytest.raises(PolicyRefused):
        makers.client("http://registry.example/team")


def test_nobody_there_is_a_network_error():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    pauses = []
    with pytest.raises(RemoteError) as caught:
        makers.client(f"http://127.0.0.1:{port}", pause=pauses.append).ping()
    assert (caught.value.exit_status, caught.value.code) == (6, "unreachable")
    assert pauses == []


def test_an_absent_manifest_is_not_found(registry_server):
    with pytest.raises(NotFound):
        makers.client(registry_server.url).manifest("math", Digest.of(b"no"))


def test_challenges():
    header = (
        'Bearer realm="https://auth.example/token",service="r",'
        'scope="repository:a:pull,push repository:b:pull"'
    )
    found = Challenge.parse(header)
    assert found.scopes == ("repository:a:pull,push", "repository:b:pull")
    assert (found.scheme, found.realm, found.service) == (
        "bearer",
        "https://auth.example/token",
        "r",
    )
    assert Challenge.parse('Basic realm="x"').scheme == "basic"
    assert Challenge.parse('Basic realm="x", Bearer realm="y"').realm == "y"
    assert Challenge.parse("Negotiate") is None
    assert Challenge.parse("") is None


def test_a_registry_that_answers_with_a_page_is_no_registry(registry_server):
    registry = makers.client(registry_server.url)
    registry_server.fail("GET", "/tags/", Fault("status", status=200))
    with pytest.raises(FormatError, match="not JSON"):
        registry.tags("math")
