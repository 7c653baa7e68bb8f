"""Sharing versions: registries and folders, what travels, what is refused."""

from __future__ import annotations

import json
import stat
import sys
from pathlib import Path

import pytest
import sharing_makers as sharing

from adaptrix.hub.versions import TagMoved
from adaptrix.registry.fetching import Diverged
from adaptrix.registry.registry import Registry
from adaptrix.schema.errors import (
    AccessDenied,
    IntegrityError,
    NotFound,
    PolicyRefused,
    RemoteError,
    UsageError,
)
from adaptrix.schema.report import Verdict

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = ROOT / "samples" / "adapters"
registries = sys.modules["loopback_registry"]
makers = sys.modules["oci_makers"]
stocked, quick, url, user = sharing.stocked, sharing.quick, sharing.url, sharing.user


def test_a_composition_travels_with_its_lineage(url, user):
    alice, bob = stocked(user("alice", url)), user("bob", url)
    report = alice.push("mix")
    assert (report.status, report.versions, report.remote) == ("new", 3, "team/mix:latest")
    pulled = bob.pull("team/mix")
    assert pulled.digest == alice.digest("mix") == report.digest
    assert pulled.reference == "mix:latest"
    assert [row.digest for row in bob.log("mix")] == [row.digest for row in alice.log("mix")]
    assert bob.verify("mix").verdict is Verdict.PASS
    assert bob.fsck().verdict is Verdict.PASS
    assert bob.digest("mix~1") == alice.digest("math")
    assert [row.reference for row in bob.ls()] == ["mix:latest"]


def test_only_what_is_missing_travels(url, user):
    alice, bob = stocked(user("alice", url)), user("bob", url)
    assert alice.push("math").skipped_bytes == 0
    files = sum(blob.size_bytes for blob in alice.home.index.blobs(alice.digest("math")))
    report = alice.push("mix")
    assert report.skipped_bytes >= files
    planned = alice.push("mix", tag="v1", dry_run=True)
    assert (planned.status, planned.changed) == ("planned", False)
    assert planned.uploaded_bytes < 5_000
    again = alice.push("mix")
    assert (again.status, again.uploaded_bytes) == ("unchanged", 0)
    first = bob.pull("team/math")
    second = bob.pull("team/mix")
    assert first.fetched_bytes >= files
    assert second.fetched_bytes < first.fetched_bytes + second.bytes
    assert bob.pull("team/mix").status == "unchanged"


def test_a_dry_run_sends_and_fetches_nothing(url, user):
    alice, bob = stocked(user("alice", url)), user("bob", url)
    planned = alice.push("mix", dry_run=True)
    assert planned.uploaded_bytes > planned.skipped_bytes == 0
    with pytest.raises(NotFound):
        bob.pull("team/mix")
    alice.push("mix")
    report = bob.pull("team/mix", dry_run=True)
    assert (report.status, report.digest) == ("planned", alice.digest("mix"))
    assert bob.ls() == ()
    assert list(bob.home.blobs.digests()) == []


def test_a_tag_that_somebody_else_moved_is_not_overwritten(url, user):
    alice, bob = stocked(user("alice", url)), user("bob", url)
    alice.push("math")
    bob.pull(str(SAMPLES / "news"), name="math")
    with pytest.raises(TagMoved) as caught:
        bob.push("math")
    assert caught.value.got == alice.digest("math")
    assert caught.value.exit_status == 1
    bob.push("math", force=True)
    with pytest.raises(TagMoved):
        alice.push("math")
    with pytest.raises(Diverged):
        alice.pull("team/math")
    assert alice.pull("team/math", name="theirs").digest == bob.digest("math")
    assert alice.pull("team/math", force=True).digest == bob.digest("math")


def test_latest_moves_forward_and_other_tags_stay(url, user):
    alice, bob = stocked(user("alice", url)), user("bob", url)
    alice.push("mix")
    alice.push("mix", tag="v1")
    bob.pull("team/mix")
    old = alice.digest("mix")
    alice.compose([("math", 0.5), ("code", 0.5)], output="mix")
    assert alice.push("mix").status == "updated"
    with pytest.raises(TagMoved):
        alice.push("mix", tag="v1")
    assert bob.pull("team/mix").status == "updated"
    assert bob.digest("mix") == alice.digest("mix") != old
    assert bob.pull("team/mix:v1").digest == old
    assert bob.pull(f"team/mix@{old}", name="before").digest == old


def test_a_lost_home_is_rebuilt_by_pull_all(url, user):
    alice = stocked(user("alice", url))
    for name in ("math", "code", "mix"):
        alice.push(name)
    alice.push("mix", tag="v1")
    carol = user("carol", url)
    report = carol.pull_all("team")
    assert {row.reference for row in report.rows} == {
        "math:latest", "code:latest", "mix:latest", "mix:v1",
    }  # fmt: skip
    assert report.skipped == ()
    wanted = {row.reference: row.digest for row in alice.ls()} | {"mix:v1": alice.digest("mix")}
    assert {row.reference: row.digest for row in carol.ls()} == wanted
    assert carol.fsck().verdict is Verdict.PASS


def test_looking_into_a_remote(url, user):
    alice, bob = stocked(user("alice", url)), user("bob", url)
    alice.push("mix")
    alice.push("math")
    rows = bob.ls("team/")
    assert [row.reference for row in rows] == ["team/math:latest", "team/mix:latest"]
    assert [row.digest for row in rows] == [alice.digest("math"), alice.digest("mix")]
    assert rows[0].ranks == alice.ls("math")[0].ranks
    assert [row.reference for row in bob.search("MIX", remote="team")] == ["team/mix:latest"]
    assert bob.inspect("team/math").parameters == alice.inspect("math").parameters
    assert list(bob.home.blobs.digests()) == []


def test_damage_at_home_does_not_travel(url, user):
    alice = stocked(user("alice", url))
    blob = alice.home.manifest(alice.digest("math")).layer("adapter_model.safetensors").digest
    place = alice.home.blobs.place(blob)
    data = bytearray(place.read_bytes())
    data[-1] ^= 1
    place.chmod(0o644)
    place.write_bytes(data)
    with pytest.raises(IntegrityError, match="the store holds"):
        alice.push("math")


def test_what_is_not_there_is_not_found(url, user):
    alice = stocked(user("alice", url))
    alice.push("math")
    for source in ("team/absent", "team/math:v9", "nobody/math"):
        with pytest.raises((NotFound, RemoteError, UsageError)) as caught:
            alice.pull(source)
        assert caught.value.exit_status in {5, 6}
    with pytest.raises(NotFound, match="no such remote"):
        alice.push("math", "nobody")
    with pytest.raises(NotFound, match="no such remote"):
        alice.ls("nobody/")
    with pytest.raises(UsageError):
        alice.pull("team/math", license="mit")


def test_a_manifest_that_lies_is_refused(user, registry_server):
    """A registry may hold anything: its claims are computed again."""
    alice, bob = stocked(user("alice")), user("bob")
    digest = alice.digest("math")
    manifest = alice.home.manifest(digest)
    from dataclasses import replace

    module = manifest.record.modules[0]
    lied = replace(
        manifest.record, modules=(replace(module, scale=99.0), *manifest.record.modules[1:])
    )
    false = replace(manifest, record=lied)
    remote = makers.client(registry_server.url)
    for layer in manifest.layers:
        data = alice.home.blobs.read(layer.digest)
        remote.push_blob("math", layer, makers.opened(data))
    config = false.config_bytes()
    remote.push_blob("math", makers.blob_of(config), makers.opened(config))
    remote.push_manifest("math", false.to_bytes(), tag="latest", expected=None)
    with pytest.raises(IntegrityError, match="scale: expected 99") as caught:
        bob.pull(f"oci://{registry_server.host}/math")
    assert caught.value.code == "claim_broken"
    assert bob.ls() == ()


def test_what_another_tool_pushed_is_read_as_files(user, registry_server):
    bob = user("bob")
    remote = makers.client(registry_server.url)
    layers = []
    for path in sorted((SAMPLES / "math").iterdir()):
        data = path.read_bytes()
        title = {"org.opencontainers.image.title": path.name}
        layer = makers.blob_of(data)
        remote.push_blob("x/math", layer, makers.opened(data))
        layers.append({**layer.to_json(), "annotations": title})
    remote.push_blob("x/math", makers.blob_of(makers.EMPTY), makers.opened(makers.EMPTY))
    manifest = json.dumps({**json.loads(makers.manifest_of()), "layers": layers}).encode()
    digest = remote.push_manifest("x/math", manifest, tag="v1", expected=None)
    source = f"oci://{registry_server.host}/x/math:v1"
    assert bob.inspect(source).format.name == "peft"
    report = bob.pull(source)
    local = bob.pull(str(SAMPLES / "math"), name="local")
    assert (report.reference, report.tensors_digest) == ("x/math:v1", local.tensors_digest)
    record = bob.show("x/math:v1").manifest.record.source
    assert (record.kind, record.commit) == ("oci", digest.hex)
    assert record.repository == f"{registry_server.host}/x/math"


def test_hostile_file_names_are_refused(user, registry_server):
    remote = makers.client(registry_server.url)
    for data in (b"x", makers.EMPTY):
        remote.push_blob("bad", makers.blob_of(data), makers.opened(data))
    layer = makers.blob_of(b"x").to_json()
    layer["annotations"] = {"org.opencontainers.image.title": "../../etc/cron.d/x"}
    manifest = json.dumps({**json.loads(makers.manifest_of()), "layers": [layer]}).encode()
    remote.push_manifest("bad", manifest, tag="latest", expected=None)
    with pytest.raises(PolicyRefused, match="unsafe"):
        user("bob").pull(f"oci://{registry_server.host}/bad")


def test_pull_all_leaves_what_is_no_adapter(user, registry_server):
    alice = stocked(user("alice", registry_server.url))
    alice.push("math")
    remote = makers.client(registry_server.url)
    remote.push_blob("image", makers.blob_of(makers.EMPTY), makers.opened(makers.EMPTY))
    remote.push_manifest("image", makers.manifest_of(), tag="latest", expected=None)
    report = user("bob", registry_server.url).pull_all("team")
    assert [row.reference for row in report.rows] == ["math:latest"]
    assert [(row.reference, row.failed) for row in report.skipped] == [("team/image:latest", False)]


def test_remotes_are_kept_and_checked(tmp_path, user):
    alice = user("alice")
    alice.add_remote("team", "https://registry.example/adapters/")
    alice.add_remote("share", str(tmp_path / "share"))
    alice.add_remote("hub", "hf:some-org")
    rows = {row.name: (row.kind, row.url) for row in alice.remotes.rows()}
    assert rows == {
        "team": ("oci", "https://registry.example/adapters"),
        "share": ("folder", str(tmp_path / "share")),
        "hub": ("hub", "hf:some-org"),
    }
    with pytest.raises(UsageError, match="which remote"):
        alice.push("anything", "")
    with pytest.raises(UsageError, match="there already"):
        alice.add_remote("team", "https://other.example")
    with pytest.raises(PolicyRefused):
        alice.add_remote("plain", "http://registry.example")
    alice.add_remote("plain", "http://registry.example", insecure=True)
    for wrong in ("https://user:hunter2@host/x", "ftp://host", "https://host/UPPER?x", ""):
        with pytest.raises(UsageError) as caught:
            alice.add_remote("wrong", wrong)
        assert "hunter2" not in str(caught.value) + caught.value.hint
    alice.remove_remote("team")
    with pytest.raises(NotFound):
        alice.remove_remote("team")


def test_a_login_is_tried_kept_and_private(user):
    with registries.LoopbackRegistry(user=("writer", "s3cret")) as server:
        alice = stocked(user("alice", server.url))
        with pytest.raises(AccessDenied) as caught:
            alice.push("math")
        assert caught.value.exit_status == 4
        with pytest.raises(AccessDenied) as caught:
            alice.log_in("team", username="writer", secret="wr0ng")
        assert "wr0ng" not in str(caught.value) + caught.value.hint
        kept = alice.settings.home / "credentials.json"
        assert not kept.exists()
        alice.log_in("team", username="writer", secret="s3cret")
        assert stat.S_IMODE(kept.stat().st_mode) == 0o600
        assert alice.remotes.rows()[0].login
        alice.push("math")
        assert alice.pull(f"oci://{server.host}/math").status == "unchanged"
        kept.chmod(0o644)
        with pytest.raises(PolicyRefused, match="0644"):
            alice.push("math")
        kept.chmod(0o600)
        alice.remove_remote("team")
        assert "s3cret" not in kept.read_text()
        assert all("s3cret" not in f"{r.path}{r.query}" for r in server.requests)


def test_the_token_of_the_environment_is_for_the_default_remote(tmp_path, monkeypatch):
    with (
        registries.LoopbackRegistry() as one,
        registries.LoopbackRegistry() as other,
    ):
        monkeypatch.setenv("ADAPTRIX_TOKEN", "t0ken")
        monkeypatch.setenv("ADAPTRIX_REMOTE", "one")
        with Registry(tmp_path / "home") as alice:
            alice.add_remote("one", one.url)
            alice.add_remote("other", other.url)
            for remote in ("one", "other"):
                alice.ls(f"{remote}/")
        assert one.requests[-1].headers["authorization"] == "Bearer t0ken"
        assert all("authorization" not in r.headers for r in other.requests)
