"""fsck by levels, repair from a remote, doctor."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from adaptrix.registry.registry import Registry
from adaptrix.schema.report import Verdict

SAMPLES = Path(__file__).resolve().parents[2] / "samples" / "adapters"


@pytest.fixture
def registry(tmp_path, monkeypatch):
    monkeypatch.delenv("ADAPTRIX_REMOTE", raising=False)
    with Registry(tmp_path / "home") as found:
        for name in ("math", "code"):
            found.pull(str(SAMPLES / name), name=name)
        found.compose([("math", 1.0), ("code", 1.0)], output="mix")
        found.add_remote("share", str(tmp_path / "share"))
        yield found


def damage(registry, name):
    """Flip a bit of a version's weights."""
    digest = registry.home.manifest(registry.digest(name)).layer("adapter_model.safetensors").digest
    place = registry.home.blobs.place(digest)
    data = bytearray(place.read_bytes())
    data[len(data) // 2] ^= 4
    place.chmod(0o644)
    place.write_bytes(data)
    return digest


def test_a_damaged_blob_is_fetched_again_from_a_remote(registry):
    registry.push("mix")
    blob = damage(registry, "code")  # an ancestor: it travelled with mix
    assert registry.fsck(quick=True).verdict is Verdict.PASS
    assert registry.fsck().verdict is Verdict.FAIL
    report = registry.fsck(repair=True)
    assert report.repaired == (blob,)
    assert report.quarantined == (blob,)
    assert report.verdict is Verdict.PASS
    assert registry.fsck(full=True).problems == ()
    assert registry.verify("code").verdict is Verdict.PASS


def test_a_lost_manifest_is_fetched_again(registry):
    registry.push("mix")
    digest = registry.digest("mix")
    registry.home.blobs.place(digest).unlink()
    report = registry.fsck(repair=True)
    assert report.repaired == (digest,)
    assert report.verdict is Verdict.PASS


def test_what_no_remote_has_stays_reported(registry, tmp_path):
    blob = damage(registry, "math")
    report = registry.fsck(repair=True)
    assert (report.repaired, report.quarantined) == ((), (blob,))
    assert report.verdict is Verdict.FAIL
    registry.push("code")
    shutil.rmtree(tmp_path / "share")
    assert registry.fsck(repair=True).repaired == ()


def test_full_computes_every_claim(registry):
    report = registry.fsck(full=True)
    assert report.claims > 3 * 4
    assert report.verdict is Verdict.PASS
    manifest = registry.home.manifest(registry.digest("math"))
    modules = manifest.record.modules
    lied = replace(manifest.record, modules=(replace(modules[0], scale=77.0), *modules[1:]))
    false = registry.home.add_version(replace(manifest, record=lied))
    registry.home.references.set("liar", "latest", false, expected=None, reason="test")
    assert registry.fsck().verdict is Verdict.PASS
    report = registry.fsck(full=True)
    assert [problem.code for problem in report.problems] == ["claim_broken"]
    assert false.short in report.problems[0].where


def test_a_sample_hashes_a_part(registry):
    whole = registry.fsck().hashed_bytes
    parts = [registry.fsck(sample=0.5).hashed_bytes for _ in range(8)]
    assert 0 < sum(parts) < 8 * whole
    assert registry.fsck(quick=True).hashed_bytes == 0


def test_doctor_finds_what_is_wrong(registry, monkeypatch, tmp_path):
    found = {check.name: check for check in registry.doctor().checks}
    assert registry.doctor().verdict is Verdict.PASS
    assert found["index"].detail == "3 versions"
    assert found["remote share"].status == "warning"
    monkeypatch.setenv("ADAPTRIX_HOEM", "/x")
    registry.add_remote("away", "http://127.0.0.1:9")
    (registry.settings.home / "credentials.json").write_text("{}")
    (registry.settings.home / "credentials.json").chmod(0o644)
    report = registry.doctor()
    found = {check.name: check for check in report.checks}
    assert found["environment"].detail == "ADAPTRIX_HOEM"
    assert found["credentials"].status == "error"
    assert found["remote away"].status == "warning"
    assert report.verdict is Verdict.FAIL
