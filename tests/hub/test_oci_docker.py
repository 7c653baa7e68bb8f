"""The registry client against CNCF distribution: anonymous, htpasswd, and tokens."""

from __future__ import annotations

import random
import shutil
import sys

import pytest

from adaptrix.hub.credentials import Credential
from adaptrix.hub.versions import Sent, TagMoved
from adaptrix.schema.errors import AccessDenied

makers = sys.modules["oci_makers"]
docker = sys.modules["docker_registry"]
BODY = random.Random(5).randbytes(2_500_000)
BLOB = makers.blob_of(BODY)

pytestmark = [
    pytest.mark.skipif(docker.DOCKER_REGISTRY is None, reason="no docker-registry here"),
    pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl here"),
]


def as_user(user):
    return Credential(username=user, secret=docker.PASSWORDS[user])


@pytest.fixture(params=["anonymous", "htpasswd", "token"])
def served(request, tmp_path):
    """A registry and the credential of one who may write."""
    if request.param == "token":
        with docker.TokenServer(tmp_path / "issuer") as issuer:
            with docker.DockerRegistry(
                tmp_path / "registry", auth="token", token_server=issuer
            ) as server:
                yield server, as_user("writer")
        return
    auth = request.param if request.param == "htpasswd" else ""
    with docker.DockerRegistry(tmp_path / "registry", auth=auth) as server:
        yield server, as_user("writer") if auth else None


def test_push_mount_move_and_pull(served):
    server, credential = served
    registry = makers.client(server.url, credential=credential, chunk_bytes=1_000_000)
    registry.ping()
    for data in (BODY, makers.EMPTY):
        assert registry.push_blob("team/math", makers.blob_of(data), makers.opened(data)) is Sent.UPLOADED  # fmt: skip
    assert registry.push_blob("team/math", BLOB, makers.opened(BODY)) is Sent.PRESENT
    assert registry.push_blob("mix", BLOB, makers.opened(b""), near=("team/math",)) is Sent.MOUNTED
    digest = registry.push_manifest("team/math", makers.manifest_of(BLOB), tag="v1", expected=None)
    assert registry.resolve("team/math", "v1") == digest
    assert registry.manifest("team/math", digest) == makers.manifest_of(BLOB)
    assert b"".join(registry.stream("mix", BLOB.digest, len(BODY))) == BODY
    assert b"".join(registry.stream("mix", BLOB.digest, len(BODY), start=2_000_000)) == BODY[2_000_000:]  # fmt: skip
    assert "team/math" in registry.names()
    assert registry.tags("team/math") == ("v1",)
    other = makers.manifest_of(BLOB, annotations={"a": "b"})
    with pytest.raises(TagMoved):
        registry.push_manifest("team/math", other, tag="v1", expected=None)
    registry.push_manifest("team/math", other, tag="v1", expected=digest)


def test_strangers_are_refused(served):
    server, credential = served
    if credential is None:
        pytest.skip("this registry is open to all")
    wrong = Credential(username="writer", secret="not-the-secret")
    for given in (None, wrong):
        with pytest.raises(AccessDenied) as caught:
            makers.client(server.url, credential=given).push_blob("math", BLOB, makers.opened(BODY))
        assert "not-the-secret" not in str(caught.value)


def test_a_reader_reads_and_does_not_write(tmp_path):
    with docker.TokenServer(tmp_path / "issuer") as issuer:
        with docker.DockerRegistry(
            tmp_path / "registry", auth="token", token_server=issuer
        ) as server:
            writer = makers.client(server.url, credential=as_user("writer"))
            writer.push_blob("math", BLOB, makers.opened(BODY))
            reader = makers.client(server.url, credential=as_user("reader"))
            assert b"".join(reader.stream("math", BLOB.digest, len(BODY))) == BODY
            with pytest.raises(AccessDenied):
                reader.push_blob("other", BLOB, makers.opened(BODY))
            asked = issuer.asked
    # Both scopes of a mount, each in a parameter of its own.
    assert all(" " not in scope for query in asked for scope in query.get("scope", []))
