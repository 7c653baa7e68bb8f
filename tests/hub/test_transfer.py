"""Faults of a hub, each with its outcome, against a real server and the real client."""

from __future__ import annotations

import hashlib
import random
import sys
from contextlib import contextmanager

import pytest

from adaptrix.hub.faults import ContentMismatch
from adaptrix.hub.huggingface import HuggingFaceHub
from adaptrix.hub.ranged import RangedSource
from adaptrix.hub.settings import HubSettings
from adaptrix.hub.transfer import fetch_file
from adaptrix.schema.digest import Digest
from adaptrix.schema.errors import (
    AccessDenied,
    AdaptrixError,
    IntegrityError,
    NotFound,
    PolicyRefused,
    RemoteError,
)
from adaptrix.schema.reference import HubSource
from adaptrix.store.disk import DiskStore

Fault = sys.modules["loopback_hub"].Fault
BODY = random.Random(1).randbytes(3_000_000)
SMALL = b'{"r": 8}'


@pytest.fixture
def served(hub):
    hub.repository("any/lora").commit({"adapter_model.safetensors": BODY, "config.json": SMALL})
    return hub


def fetch(tmp_path, name="adapter_model.safetensors", pauses=None):
    settings = HubSettings.from_environment()
    remote = HuggingFaceHub(HubSource(repository="any/lora"), settings)
    snapshot = remote.snapshot()
    file = next(file for file in snapshot.files if file.path == name)
    store = DiskStore(tmp_path / "store")

    @contextmanager
    def sink():
        partial = file.sha256.hex if file.sha256 else None
        with store.writer(
            expected_digest=file.sha256, expected_size=file.size_bytes, partial=partial
        ) as writer:
            yield writer

    pause = pauses.append if pauses is not None else (lambda _s: None)
    fetch_file(remote, snapshot, file, sink, settings=settings, pause=pause)
    return store


def test_snapshot_is_pinned_and_announces_digests(served):
    sha = served.repository("any/lora").refs["main"]
    snapshot = HuggingFaceHub(
        HubSource(repository="any/lora"), HubSettings.from_environment()
    ).snapshot()
    assert snapshot.commit == sha
    large, small = snapshot.files
    assert large.sha256 == Digest(hashlib.sha256(BODY).hexdigest())
    assert small.git_oid == hashlib.sha1(b"blob 8\0" + SMALL).hexdigest()


def test_body_arrives_verified(served, tmp_path):
    store = fetch(tmp_path)
    assert store.read(Digest.of(BODY)) == BODY
    store = fetch(tmp_path, "config.json")
    assert store.read(Digest.of(SMALL)) == SMALL


def test_cut_connection_is_resumed_from_where_it_was(served, tmp_path):
    served.fail("adapter_model.safetensors", Fault("cut", at=2_000_000))
    store = fetch(tmp_path)
    assert store.has(Digest.of(BODY))
    asked = [r.headers.get("range") for r in served.fetched("adapter_model.safetensors")]
    assert asked[0] is None
    start = int(asked[1].removeprefix("bytes=").removesuffix("-"))
    assert 0 < start <= 2_000_000


def test_next_process_continues_a_broken_pull(served, tmp_path):
    served.fail("adapter_model.safetensors", *[Fault("cut", at=2_000_000)] * 1)
    served.fail("adapter_model.safetensors", *[Fault("status", status=503)] * 3)
    with pytest.raises(RemoteError):
        fetch(tmp_path)
    assert fetch(tmp_path).has(Digest.of(BODY))
    assert served.fetched("adapter_model.safetensors")[-1].headers["range"].startswith("bytes=")


def test_truncated_body_is_fetched_again_and_refused_when_it_stays_so(served, tmp_path):
    served.fail("adapter_model.safetensors", Fault("truncate", at=1000))
    assert fetch(tmp_path).has(Digest.of(BODY))
    served.fail("config.json", *[Fault("truncate", at=3)] * 4)
    with pytest.raises(RemoteError, match="3 of 8 bytes") as caught:
        fetch(tmp_path, "config.json")
    assert caught.value.exit_status == 6


def test_wrong_bytes_of_the_right_length_never_enter(served, tmp_path):
    served.fail("adapter_model.safetensors", Fault("flip", at=77))
    assert fetch(tmp_path).has(Digest.of(BODY))
    served.fail("config.json", Fault("flip", at=2), Fault("flip", at=2))
    with pytest.raises(ContentMismatch) as caught:
        fetch(tmp_path, "config.json")
    assert caught.value.exit_status == 1
    served.fail("adapter_model.safetensors", Fault("flip", at=1), Fault("flip", at=1))
    with pytest.raises(IntegrityError):
        fetch(tmp_path / "other")
    assert list(DiskStore(tmp_path / "other" / "store").digests()) == []


@pytest.mark.parametrize("kind", ["ignore_range", "wrong_range"])
def test_server_that_mishandles_ranges(served, tmp_path, kind):
    served.fail("adapter_model.safetensors", Fault("cut", at=2_000_000), Fault(kind))
    assert fetch(tmp_path).read(Digest.of(BODY)) == BODY


def test_rate_limit_waits_as_told(served, tmp_path):
    pauses: list[float] = []
    served.fail("config.json", Fault("status", status=429, headers={"Retry-After": "7"}))
    fetch(tmp_path, "config.json", pauses)
    assert pauses == [7.0]


@pytest.mark.parametrize(
    ("status", "kind", "exit_status"),
    [(401, AccessDenied, 4), (403, AccessDenied, 4), (404, NotFound, 5), (500, RemoteError, 6),
     (429, RemoteError, 6), (418, RemoteError, 6)],
)  # fmt: skip
def test_statuses(served, tmp_path, status, kind, exit_status):
    served.fail("config.json", *[Fault("status", status=status)] * 4)
    with pytest.raises(kind) as caught:
        fetch(tmp_path, "config.json")
    assert caught.value.exit_status == exit_status
    temporary = status in {429, 500}
    assert len(served.fetched("config.json")) == (4 if temporary else 1)


def test_stalled_server_is_given_up(served, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_DOWNLOAD_TIMEOUT", "0.3")
    monkeypatch.setenv("ADAPTRIX_HUB_ATTEMPTS", "1")
    served.fail("config.json", Fault("stall", at=2))
    with pytest.raises(RemoteError) as caught:
        fetch(tmp_path, "config.json")
    assert caught.value.exit_status == 6


@pytest.mark.parametrize(
    ("repository", "revision", "kind", "exit_status"),
    [("no/such", None, NotFound, 5), ("any/lora", "v9", NotFound, 5),
     ("any/private", None, AdaptrixError, 5), ("any/gated", None, AccessDenied, 4)],
)  # fmt: skip
def test_repositories_that_cannot_be_had(served, repository, revision, kind, exit_status):
    for name, gated in (("any/private", False), ("any/gated", True)):
        private = served.repository(name)
        private.commit({"config.json": SMALL})
        private.token, private.gated = "secret", gated
    source = HubSource(repository=repository, revision=revision)
    with pytest.raises(kind) as caught:
        HuggingFaceHub(source, HubSettings.from_environment()).snapshot()
    assert caught.value.exit_status == exit_status


def test_token_opens_and_stays_at_home(served, tmp_path, monkeypatch):
    private = served.repository("any/lora")
    private.token = "secret"
    monkeypatch.setenv("HF_TOKEN", "secret")
    with sys.modules["loopback_hub"].LoopbackHub() as elsewhere:
        elsewhere.repository("x/y").commit({"config.json": SMALL})
        target = f"{elsewhere.endpoint}/x/y/resolve/main/config.json"
        served.fail("config.json", Fault("redirect", target=target))
        fetch(tmp_path, "config.json")
        assert len(elsewhere.requests) == 1
        assert "authorization" not in elsewhere.requests[0].headers
    assert served.fetched("config.json")[0].headers["authorization"] == "Bearer secret"


def test_no_server_and_no_plain_http_abroad():
    source = HubSource(repository="any/lora")
    with pytest.raises(RemoteError) as caught:
        HuggingFaceHub(source, HubSettings(endpoint="http://127.0.0.1:9")).snapshot()
    assert caught.value.exit_status == 6
    with pytest.raises(PolicyRefused):
        HuggingFaceHub(source, HubSettings(endpoint="http://hub.example")).snapshot()


def test_hostile_file_names(hub):
    for name in ("../x", "/abs", "a\\b", "a/../b", "C:x"):
        hub.repository("any/evil").commit({name: SMALL})
        with pytest.raises(PolicyRefused) as caught:
            HuggingFaceHub(
                HubSource(repository="any/evil"), HubSettings.from_environment()
            ).snapshot()
        assert caught.value.exit_status == 7


def test_ranged_source_reads_what_is_asked(served):
    remote = HuggingFaceHub(HubSource(repository="any/lora"), HubSettings.from_environment())
    snapshot = remote.snapshot()
    source = RangedSource(remote, snapshot, snapshot.files[0])
    assert source.read(10, 20) == BODY[10:20]
    assert source.read(2_999_990, 3_000_000) == BODY[-10:]
    assert source.fetched_bytes < 600_000


def test_the_real_client_reads_the_fixture(served, tmp_path):
    import huggingface_hub

    path = huggingface_hub.hf_hub_download(
        "any/lora", "config.json", endpoint=served.endpoint, cache_dir=tmp_path, token=False
    )
    with open(path, "rb") as file:
        assert file.read() == SMALL
