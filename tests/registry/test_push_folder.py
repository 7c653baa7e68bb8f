"""Sharing in a folder, offline, and with tools that know OCI layouts."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import sharing_makers as sharing

from adaptrix.hub.layout import LayoutFolder
from adaptrix.hub.versions import TagMoved
from adaptrix.registry.registry import Registry
from adaptrix.schema.errors import (
    IntegrityError,
    RemoteError,
    UsageError,
)

ROOT = Path(__file__).resolve().parents[2]
docker = sys.modules["docker_registry"]
makers = sys.modules["oci_makers"]
stocked, quick, url, user = sharing.stocked, sharing.quick, sharing.url, sharing.user


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
@pytest.mark.skipif(docker.DOCKER_REGISTRY is None, reason="no docker-registry here")
def test_skopeo_copies_between_registries_and_back_unchanged(user, tmp_path):
    policy = tmp_path / "policy.json"
    policy.write_text('{"default": [{"type": "insecureAcceptAnything"}]}')

    def copy(source, target, *options):
        subprocess.run(
            ["skopeo", "--policy", policy, "copy", "--preserve-digests", *options, source, target],
            check=True, capture_output=True, env={**os.environ, "TMPDIR": str(tmp_path)},
        )  # fmt: skip

    with (
        docker.DockerRegistry(tmp_path / "one") as one,
        docker.DockerRegistry(tmp_path / "two") as two,
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
