import sqlite3
from datetime import UTC, datetime, timedelta
from sqlite3 import Connection

import pytest
from store_makers import add

from adaptrix.schema.digest import Digest
from adaptrix.schema.errors import FormatError, InvalidReference, NotFound, StoreError, UsageError
from adaptrix.store import database
from adaptrix.store.faults import StoreBusy
from adaptrix.store.home import Home
from adaptrix.store.references import ReferenceConflict, ReferenceRecord


def test_set_get_delete_log(home):
    first, second = add(home, 1), add(home, 2)
    refs = home.references
    assert refs.get("math", "latest") is None
    assert refs.set("math", "latest", first, expected=None, reason="pull org/math")
    assert refs.set("math", "latest", second, expected=first, reason="pull org/math")
    assert refs.get("math", "latest") == second
    assert [str(row) for row in refs.all()] == ["math:latest"]
    assert refs.delete("math", "latest", expected=second, reason="rm")
    assert refs.get("math", "latest") is None
    assert refs.all() == []
    moves = [(entry.old, entry.new, entry.reason) for entry in refs.log("math", "latest")]
    assert moves == [
        (second, None, "rm"),
        (first, second, "pull org/math"),
        (None, first, "pull org/math"),
    ]
    assert refs.set("math", "latest", first, expected=None, reason="back")
    assert len(refs.log("math", "latest")) == 4


def test_tags_are_separate(home):
    first, second = add(home, 1), add(home, 2)
    home.references.set("math", "v1", first, expected=None, reason="")
    home.references.set("math", "v2", second, expected=None, reason="")
    assert home.references.get("math", "v1") == first
    assert len(home.references.log("math", "v1")) == 1


def test_the_same_again_is_no_move(home):
    first = add(home, 1)
    home.references.set("math", "latest", first, expected=None, reason="pull")
    blobs = list(home.blobs.digests())
    assert not home.references.set("math", "latest", first, expected=first, reason="pull")
    assert list(home.blobs.digests()) == blobs
    assert len(home.references.log("math", "latest")) == 1


def test_a_loser_gets_both_sides(home):
    first, second = add(home, 1), add(home, 2)
    home.references.set("math", "latest", first, expected=None, reason="")
    for wanted in (None, second):
        with pytest.raises(ReferenceConflict) as caught:
            home.references.set("math", "latest", second, expected=wanted, reason="")
        assert (caught.value.wanted, caught.value.got) == (wanted, first)
        assert caught.value.exit_status == 1
    with pytest.raises(ReferenceConflict):
        home.references.delete("math", "latest", expected=second, reason="")
    with pytest.raises(ReferenceConflict, match="no such name"):
        home.references.delete("news", "latest", expected=second, reason="")
    assert len(home.references.log("math", "latest")) == 1


def test_only_versions_have_names(home):
    for digest in (Digest.of(b"no"), home.blobs.put(b"no version")):
        with pytest.raises(NotFound) as caught:
            home.references.set("math", "latest", digest, expected=None, reason="")
        assert caught.value.code == "unknown_version"


@pytest.mark.parametrize(
    ("name", "tag"), [("Math", "v1"), ("", "v1"), ("a/b/c/d", "v1"), ("../x", "v1"), ("m", "a b")]
)
def test_names_are_checked(home, name, tag):
    with pytest.raises(InvalidReference):
        home.references.set(name, tag, add(home, 1), expected=None, reason="")


def test_a_reason_has_a_limit(home):
    with pytest.raises(UsageError):
        home.references.set("math", "v1", add(home, 1), expected=None, reason="x" * 1001)


def test_a_move_is_a_blob_that_follows_the_one_before(home):
    first, second = add(home, 1), add(home, 2)
    home.references.set("math", "latest", first, expected=None, reason="pull “org/math”")
    home.references.set("math", "latest", second, expected=first, reason="again")
    newer, older = home.references.log("math", "latest")
    record = ReferenceRecord.parse(home.blobs.read(newer.record))
    assert record.previous == older.record
    assert (record.name, record.tag, record.digest) == ("math", "latest", second)
    start = ReferenceRecord.parse(home.blobs.read(older.record))
    assert (start.previous, start.reason) == (None, "pull “org/math”")
    assert start.time == older.time


def test_the_clock_is_a_seam(tmp_path):
    moment = datetime(2030, 5, 6, 7, 8, 9, 10, tzinfo=UTC)
    with Home.open(tmp_path / "home", clock=lambda: moment) as home:
        home.references.set("math", "v1", add(home, 1), expected=None, reason="")
        assert home.references.log("math", "v1")[0].time == moment


@pytest.mark.parametrize(
    "change",
    [
        {"name": "Math"}, {"name": None}, {"digest": "sha256:1"}, {"digest": 4}, {"time": 5},
        {"time": "yesterday"}, {"time": "2030-05-06T07:08:09"}, {"reason": None}, {"extra": 1},
        {"mediaType": "x"}, {"previous": []}, {"tag": {}},
    ],
)  # fmt: skip
def test_what_is_no_record(change):
    import json

    good = ReferenceRecord(
        name="math",
        tag="v1",
        digest=Digest.of(b"1"),
        previous=None,
        time=datetime(2030, 5, 6, tzinfo=UTC),
        reason="",
    ).to_bytes()
    ReferenceRecord.parse(good)
    document = json.loads(good) | change
    bad = json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
    with pytest.raises(FormatError):
        ReferenceRecord.parse(bad)
    with pytest.raises(FormatError):
        ReferenceRecord.parse(good + b" ")


def test_times_in_another_zone_are_written_in_utc():
    from datetime import timezone

    zone = timezone(timedelta(hours=5))
    record = ReferenceRecord(
        name="m", tag="t", digest=None, previous=None, time=datetime(2030, 1, 1, 5, tzinfo=zone),
        reason="",
    )  # fmt: skip
    assert b"2030-01-01T00:00:00.000000+00:00" in record.to_bytes()
    assert ReferenceRecord.parse(record.to_bytes()) == record


def test_a_move_that_fails_late_leaves_no_record(home):
    """Else the next rebuild would move the name after all."""
    first, second = add(home, 1), add(home, 2)
    home.references.set("math", "latest", first, expected=None, reason="")
    blobs = list(home.blobs.digests())
    listed = (home.path / "index.json").read_bytes()
    (home.path / "index.json").unlink()
    (home.path / "index.json").mkdir()
    with pytest.raises(StoreError):
        home.references.set("math", "latest", second, expected=first, reason="")
    (home.path / "index.json").rmdir()
    assert list(home.blobs.digests()) == blobs
    home.reindex()
    assert home.references.get("math", "latest") == first
    assert (home.path / "index.json").read_bytes() == listed


def test_a_commit_that_fails_leaves_no_record(home, monkeypatch):
    first, second = add(home, 1), add(home, 2)
    home.references.set("math", "latest", first, expected=None, reason="")
    before = list(home.blobs.digests()), (home.path / "index.json").read_bytes()

    class Full(Connection):
        def commit(self):
            self.rollback()
            raise sqlite3.OperationalError("database or disk is full")

    def connect(target):
        return sqlite3.connect(target, uri=True, check_same_thread=False, factory=Full)

    home.close()
    monkeypatch.setattr(database, "_connect", connect)
    with pytest.raises(StoreError, match="full"):
        home.references.set("math", "latest", second, expected=first, reason="")
    home.close()
    monkeypatch.undo()
    assert home.references.get("math", "latest") == first
    assert (list(home.blobs.digests()), (home.path / "index.json").read_bytes()) == before
    assert home.fsck().problems == ()


def test_a_writer_that_never_ends_is_waited_for_and_named(tmp_path, monkeypatch):
    monkeypatch.setattr(database, "BUSY_TIMEOUT_MS", 50)
    with Home.open(tmp_path / "home") as home:
        digest = add(home, 1)
        other = sqlite3.connect(home.path / "adaptrix.sqlite3", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreBusy) as caught:
            home.references.set("math", "latest", digest, expected=None, reason="")
        assert caught.value.temporary
        assert home.references.get("math", "latest") is None
        other.close()
        assert home.references.set("math", "latest", digest, expected=None, reason="")
