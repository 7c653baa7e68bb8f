import pytest
from store_makers import add, weights

from adaptrix.schema.digest import Digest
from adaptrix.schema.report import Verdict
from adaptrix.store.home import Home


@pytest.fixture
def version(home: Home) -> Digest:
    digest = add(home, 1)
    home.references.set("math", "latest", digest, expected=None, reason="pull")
    return digest


def damage(home: Home, digest: Digest, content: bytes) -> None:
    path = home.blobs.place(digest)
    path.chmod(0o644)
    path.write_bytes(content)


def codes(home: Home, **options: bool) -> list[tuple[str, str]]:
    return [(problem.code, problem.where) for problem in home.fsck(**options).problems]


def test_clean(home, version):
    seen: list[int] = []
    report = home.fsck(progress=seen.append)
    assert report.verdict is Verdict.PASS
    assert (report.versions, report.references, report.problems) == (1, 1, ())
    assert report.hashed_bytes == sum(seen) == home.du().blob_bytes
    quick = home.fsck(quick=True)
    assert (quick.verdict, quick.hashed_bytes, quick.blobs) == (Verdict.PASS, 0, report.blobs)


def test_bit_rot_is_found_quarantined_and_healed(home, version):
    blob = Digest.of(weights(1))
    rotten = bytearray(weights(1))
    rotten[7] ^= 1
    damage(home, blob, bytes(rotten))
    assert home.fsck(quick=True).verdict is Verdict.PASS
    report = home.fsck()
    assert report.verdict is Verdict.FAIL
    assert [(p.code, p.where) for p in report.problems] == [("corrupt_blob", str(blob))]
    assert report.quarantined == ()
    repaired = home.fsck(repair=True)
    assert repaired.quarantined == (blob,)
    (moved,) = (home.path / "quarantine").iterdir()
    assert moved.read_bytes() == bytes(rotten)
    assert codes(home) == [("missing_blob", str(version))]
    home.blobs.put(weights(1))
    assert home.fsck().verdict is Verdict.PASS


def test_a_file_of_another_size_is_found_quickly(home, version):
    damage(home, Digest.of(weights(1)), b"short")
    assert codes(home, quick=True) == [("corrupt_blob", str(version))]


def test_a_lost_manifest(home, version):
    home.blobs.place(version).unlink()
    assert codes(home) == [
        ("missing_blob", str(version)),
        ("dangling_reference", "math:latest"),
    ]


def test_a_lost_config(home, version):
    home.blobs.place(home.manifest(version).config_descriptor().digest).unlink()
    assert [code for code, _ in codes(home)] == [
        "invalid_manifest", "missing_blob", "dangling_reference",
    ]  # fmt: skip


def test_a_lost_record(home, version):
    home.blobs.place(home.references.log("math", "latest")[0].record).unlink()
    assert codes(home) == [("missing_blob", "math:latest")]


def test_an_index_that_knows_less(home, version):
    parent = add(home, 2)
    child = add(home, 3, parents=[parent])
    home.references.set("child", "latest", child, expected=None, reason="compose")
    with home.index.writing() as transaction:
        transaction.forget(parent)
    assert codes(home) == [("stale_index", str(parent))]
    home.reindex()
    assert codes(home) == []


def test_a_version_that_was_never_finished_is_only_worth_a_note(home, version):
    other = add(home, 2)
    with home.index.writing() as transaction:
        transaction.forget(other)
    report = home.fsck()
    assert [problem.code for problem in report.problems] == ["unfinished_version"]
    assert report.verdict is Verdict.PASS


def test_planted_and_foreign_files(home, version, tmp_path):
    (home.blobs.folder / ("0" * 64)).symlink_to(tmp_path / "elsewhere")
    (home.blobs.folder / "README").write_text("hello")
    (home.blobs.folder / ("A" * 64)).write_text("hello")
    found = codes(home)
    assert [code for code, _ in found] == ["planted_link", "foreign_file", "foreign_file"]
    assert home.fsck().verdict is Verdict.FAIL


def test_layout_files_are_checked_and_repaired(home, version):
    (home.path / "index.json").write_text("{}")
    (home.path / "oci-layout").unlink()
    assert codes(home) == [("invalid_layout", "oci-layout"), ("invalid_layout", "index.json")]
    assert home.fsck(repair=True).problems == ()
    assert codes(home) == []


def test_a_parent_elsewhere_is_only_worth_a_note(home):
    add(home, 1, parents=[Digest.of(b"elsewhere")])
    report = home.fsck()
    assert [problem.code for problem in report.problems] == ["missing_parent"]
    assert report.verdict is Verdict.PASS


def test_names_and_reflog_that_disagree(home, version):
    from datetime import UTC, datetime

    from adaptrix.store.entries import ReflogEntry

    record = home.references.log("math", "latest")[0].record
    entry = ReflogEntry(old=version, new=None, reason="", time=datetime.now(UTC), record=record)
    with home.index.writing() as transaction:
        transaction.log("math", "latest", entry)
    assert codes(home) == [("stale_index", "math:latest")]


def test_a_home_that_was_copied_is_whole(home, version, tmp_path):
    import shutil

    home.close()
    shutil.copytree(home.path, tmp_path / "copy")
    home.blobs.place(version).chmod(0o400)
    with Home.open(tmp_path / "copy") as copy:
        assert copy.fsck().verdict is Verdict.PASS
        assert copy.references.get("math", "latest") == version
