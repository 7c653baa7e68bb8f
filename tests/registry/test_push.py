"""Sharing versions: registries and folders, what travels, what is refused."""

from __future__ import annotations

import io
import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from adaptrix.hub.layout import LayoutFolder
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


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setenv("ADAPTRIX_HUB_BACKOFF", "0.01")
    monkeypatch.setenv("ADAPTRIX_HUB_ATTEMPTS", "4")
    monkeypatch.setenv("HF_HUB_DOWNLOAD_TIMEOUT", "2")
    monkeypatch.delenv("ADAPTRIX_REMOTE", raising=False)
    monkeypatch.delenv("ADAPTRIX_TOKEN", raising=False)


@pytest.fixture(params=["memory", "docker", "folder"])
def url(request, tmp_path):
    """Where a team shares."""
    if request.param == "folder":
        yield str(tmp_path / "share")
    elif request.param == "memory":
        with registries.LoopbackRegistry() as server:
            yield f"{server.url}/adapters"
    else:
        if registries.DOCKER_REGISTRY is None:
            pytest.skip("no docker-registry here")
        with registries.DockerRegistry(tmp_path / "registry") as server:
            yield f"{server.url}/adapters"


@pytest.fixture
def user(tmp_path):
    """Make a user with a registry of their own."""
    opened = []

    def make(name, url=None):
        registry = Registry(tmp_path / name)
        opened.append(registry)
        if url is not None:
            registry.add_remote("team", url)
        return registry

    yield make
    for registry in opened:
        registry.close()


def stocked(registry):
    for name in ("math", "code"):
        registry.pull(str(SAMPLES / name), name=name)
    registry.compose([("math", 1.0), ("code", 0.5)], output="mix")
    return registry


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


def test_a_shared_folder_is_an_oci_layout(user, tmp_path):
    alice = stocked(user("alice", str(tmp_path / "share")))
    alice.push("mix")
    index = json.loads((tmp_path / "share" / "index.json").read_text())
    names = [e["annotations"]["org.opencontainers.image.ref.name"] for e in index["manifests"]]
    assert "mix:latest" in names
    assert len(names) == 3
    assert json.loads((tmp_path / "share" / "oci-layout").read_text()) == {
        "imageLayoutVersion": "1.0.0"
    }
    # Somebody's home can be read as a folder, and is never written as one.
    bob = user("bob", str(alice.settings.home))
    assert bob.pull("team/mix").digest == alice.digest("mix")
    with pytest.raises(UsageError, match="own registry"):
        bob.push("mix", "team/new")


def test_a_folder_takes_no_wrong_bytes(tmp_path):
    folder = LayoutFolder(tmp_path / "share")
    blob = makers.blob_of(b"right")
    with pytest.raises(IntegrityError):
        folder.push_blob("math", blob, lambda: io.BytesIO(b"wrong"))
    assert not folder.has_blob("math", blob)
    assert [p.name for p in (tmp_path / "share").iterdir() if p.name.startswith(".adaptrix-")] == []


def test_a_folder_compares_before_it_moves_a_tag(tmp_path):
    folder = LayoutFolder(tmp_path / "share")
    one, other = (makers.manifest_of(annotations={"n": n}) for n in "12")
    first = folder.push_manifest("m", one, tag="v1", expected=None)
    with pytest.raises(TagMoved) as caught:
        folder.push_manifest("m", other, tag="v1", expected=None)
    assert caught.value.got == first == folder.resolve("m", "v1")
    second = folder.push_manifest("m", other, tag="v1", expected=first)
    assert folder.resolve("m", "v1") == second
    assert folder.push_manifest("m", one, tag="v1", expected=None, force=True) == first
    assert folder.tags("m") == ("v1",)


def test_a_folder_is_swept_and_never_taken_over(tmp_path):
    share = tmp_path / "share"
    share.mkdir()
    old, young = share / ".adaptrix-1-old", share / ".adaptrix-2-young"
    for path in (old, young):
        path.write_text("left by a crash")
    os.utime(old, (0, 0))
    LayoutFolder(share).push_blob("m", makers.blob_of(b"x"), makers.opened(b"x"))
    assert not old.exists()
    assert young.exists()
    other = tmp_path / "photos"
    other.mkdir()
    (other / "cat.jpg").write_text("meow")
    with pytest.raises(UsageError, match="something else"):
        LayoutFolder(other).push_blob("m", makers.blob_of(b"x"), makers.opened(b"x"))


def test_offline_says_so_before_anything_travels(user, registry_server, monkeypatch):
    alice = stocked(user("alice", registry_server.url))
    monkeypatch.setenv("ADAPTRIX_OFFLINE", "1")
    with Registry(alice.settings.home) as again:
        with pytest.raises(RemoteError, match="offline"):
            again.push("math")
    assert registry_server.requests == []


def test_a_version_is_exported_as_an_oci_layout(user, tmp_path):
    alice, out = stocked(user("alice")), tmp_path / "layout"
    planned = alice.export_layout("mix", out, dry_run=True)
    assert planned.written_bytes > 0
    assert not (out / "index.json").exists()
    report = alice.export_layout("mix", out)
    assert (report.versions, report.written_bytes) == (3, planned.written_bytes)
    assert json.loads((out / "oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}
    bob = user("bob")
    bob.add_remote("disk", str(out))
    assert bob.pull("disk/mix").digest == alice.digest("mix")
    assert alice.export_layout("mix", out).written_bytes == 0
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("years of work")
    with pytest.raises(UsageError):
        alice.export_layout("mix", tmp_path / "other")
    with pytest.raises(UsageError):
        alice.export_layout("mix")


def test_every_name_is_listed_on_demand(user, monkeypatch):
    monkeypatch.setattr("adaptrix.store.references.MAX_LISTED_REFERENCES", 2)
    monkeypatch.setattr("adaptrix.store.layout.MAX_LISTED_REFERENCES", 2)
    alice = stocked(user("alice"))
    index = alice.settings.home / "index.json"
    assert json.loads(index.read_text())["manifests"] == []
    assert alice.export_layout(dry_run=True).names == 3
    assert json.loads(index.read_text())["manifests"] == []
    assert alice.export_layout().names == 3
    names = {m["annotations"]["org.opencontainers.image.ref.name"]
             for m in json.loads(index.read_text())["manifests"]}  # fmt: skip
    assert names == {"math:latest", "code:latest", "mix:latest"}


@pytest.mark.skipif(shutil.which("skopeo") is None, reason="no skopeo here")
@pytest.mark.skipif(registries.DOCKER_REGISTRY is None, reason="no docker-registry here")
def test_skopeo_copies_between_registries_and_back_unchanged(user, tmp_path):
    policy = tmp_path / "policy.json"
    policy.write_text('{"default": [{"type": "insecureAcceptAnything"}]}')

    def copy(source, target, *options):
        subprocess.run(
            ["skopeo", "--policy", policy, "copy", "--preserve-digests", *options, source, target],
            check=True, capture_output=True, env={**os.environ, "TMPDIR": str(tmp_path)},
        )  # fmt: skip

    with (
        registries.DockerRegistry(tmp_path / "one") as one,
        registries.DockerRegistry(tmp_path / "two") as two,
    ):
        alice = stocked(user("alice", one.url))
        alice.push("mix")
        plain = ("--src-tls-verify=false", "--dest-tls-verify=false")
        copy(f"docker://{one.host}/mix:latest", f"docker://{two.host}/copied:v1", *plain)
        copy(f"docker://{two.host}/copied:v1", f"oci:{tmp_path / 'layout'}:mix", *plain)
        bob = user("bob")
        assert bob.pull(f"oci://{two.host}/copied:v1").digest == alice.digest("mix")
        bob.add_remote("folder", str(tmp_path / "layout"))
        report = bob.pull("folder/mix", name="again")
        assert report.digest == alice.digest("mix")
        # And a home, a layout itself, goes back into a registry.
        copy(f"oci:{bob.settings.home}:again:latest", f"docker://{one.host}/back:v1", *plain)
        assert alice.pull(f"oci://{one.host}/back:v1").digest == alice.digest("mix")
