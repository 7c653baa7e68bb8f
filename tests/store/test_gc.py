import os
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from store_makers import add, make_manifest, weights

from adaptrix.schema.digest import Digest
from adaptrix.schema.errors import StoreError
from adaptrix.schema.report import Verdict
from adaptrix.store import gc
from adaptrix.store.faults import StoreBusy
from adaptrix.store.home import Home

DAY_S = 86_400.0


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = datetime.now(UTC)

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def home(tmp_path: Path, clock: Clock):
    with Home.open(tmp_path / "home", clock=clock) as opened:
        yield opened


def age(home: Home, days: float, *digests: Digest) -> None:
    moment = time.time() - days * DAY_S
    for digest in digests or home.blobs.digests():
        os.utime(home.blobs.place(digest), (moment, moment))


def test_nothing_to_do(home):
    home.references.set("math", "latest", add(home, 1), expected=None, reason="")
    age(home, 1000)
    report = home.gc(grace_s=0)
    assert (report.removed, report.freed_bytes, report.in_grace) == ((), 0, 0)


def test_unreached_blobs_go_after_the_grace_period(home):
    young, old = home.blobs.put(b"young"), home.blobs.put(b"old one")
    age(home, 15, old)
    report = home.gc()
    assert report.removed == (old,)
    assert report.freed_bytes == 7
    assert (report.in_grace, report.in_grace_bytes) == (1, 5)
    assert list(home.blobs.digests()) == [young]


def test_dry_run_says_the_same_and_does_nothing(home):
    digest = add(home, 1)
    age(home, 15)
    planned = home.gc(dry_run=True)
    assert planned.dry_run
    assert digest in planned.removed
    assert home.blobs.has(digest)
    assert [entry.digest for entry in home.versions()] == [digest]
    done = home.gc()
    assert done.removed == planned.removed
    assert done.freed_bytes == planned.freed_bytes
    assert home.versions() == ()
    assert home.fsck().problems == ()


def test_a_young_manifest_keeps_its_old_files(home):
    digest = add(home, 1)
    age(home, 15)
    os.utime(home.blobs.place(digest))
    assert home.gc().removed == ()


def test_lineage_keeps_ancestors(home):
    first = add(home, 1)
    second = add(home, 2, parents=[first])
    third = add(home, 3, parents=[second])
    home.references.set("math", "latest", third, expected=None, reason="")
    age(home, 1000)
    assert home.gc().removed == ()
    assert {entry.digest for entry in home.versions()} == {first, second, third}


def test_the_reflog_keeps_what_was_named_for_a_while(home, clock):
    first, second = add(home, 1), add(home, 2)
    clock.now -= timedelta(days=80)
    home.references.set("math", "latest", first, expected=None, reason="pull")
    clock.now += timedelta(days=70)
    home.references.set("math", "latest", second, expected=first, reason="pull")
    age(home, 50)
    assert home.gc().removed == ()
    assert home.gc(reflog_s=5 * DAY_S).versions == 1
    assert [entry.digest for entry in home.versions()] == [second]
    assert home.references.get("math", "latest") == second
    assert len(home.references.log("math", "latest")) == 1
    before = home.references.log("math", "latest")
    home.reindex()
    assert home.references.all()[0].digest == second
    assert [entry.new for entry in before] == [second]
    assert home.fsck().verdict is Verdict.PASS


def removed_long_ago(home, clock):
    """A version that was named and removed 200 days ago."""
    digest = add(home, 1)
    clock.now -= timedelta(days=200)
    home.references.set("math", "latest", digest, expected=None, reason="pull")
    home.references.delete("math", "latest", expected=digest, reason="rm")
    return digest


def test_a_removed_name_is_forgotten_in_the_end_and_stays_removed(home, clock):
    removed_long_ago(home, clock)
    age(home, 199)
    report = home.gc()
    assert (report.versions, report.moves) == (1, 2)
    assert list(home.blobs.digests()) == []
    home.reindex()
    assert home.references.all() == []


def test_a_removal_is_not_forgotten_before_what_it_removes(home, clock):
    """Else a rebuild from what is left would bring the name back."""
    removed_long_ago(home, clock)
    newest, oldest = home.references.log("math", "latest")
    age(home, 199)
    os.utime(home.blobs.place(oldest.record))
    home.gc()
    assert home.blobs.has(newest.record)
    home.reindex()
    assert home.references.all() == []


def test_records_go_oldest_first(home, clock):
    digest = removed_long_ago(home, clock)
    newest, oldest = home.references.log("math", "latest")
    everything = set(home.blobs.digests())
    order = gc._in_order(home.blobs, everything, {digest}, set())
    assert order[:3] == (oldest.record, newest.record, digest)
    assert set(order) == everything


def test_a_ghost_record_goes(home):
    """What a crash left between the record and the index."""
    digest = add(home, 1)
    home.references.set("math", "latest", digest, expected=None, reason="pull")
    from adaptrix.store.references import ReferenceRecord

    tip = home.references.log("math", "latest")[0].record
    ghost = home.blobs.put_record(
        ReferenceRecord(
            name="math", tag="latest", digest=None, previous=tip, time=datetime.now(UTC), reason="",
        ).to_bytes()
    )  # fmt: skip
    age(home, 15)
    assert home.gc().removed == (ghost,)


def test_a_blob_that_is_used_again_stays(home):
    digest = home.blobs.put(b"again")
    age(home, 15)
    home.blobs.put(b"again")
    assert home.gc().removed == ()
    age(home, 15)
    assert not gc._remove(home.blobs, digest, time.time() - 16 * DAY_S)
    assert home.blobs.has(digest)
    assert gc._remove(home.blobs, digest, time.time() - 14 * DAY_S)


def test_a_blob_renewed_while_it_is_aside_comes_back(home, monkeypatch):
    digest = home.blobs.put(b"again")
    age(home, 15)
    rename = Path.rename

    def renewed(path: Path, target: Path) -> Path:
        if path == home.blobs.place(digest):
            os.utime(path)
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", renewed)
    assert not gc._remove(home.blobs, digest, time.time() - 14 * DAY_S)
    assert home.blobs.read(digest) == b"again"
    assert list(home.blobs.temporary.iterdir()) == []


def test_a_version_whose_files_are_shared_leaves_them(home):
    keep = add(home, 1)
    lose = add(home, 2)
    home.references.set("math", "latest", keep, expected=None, reason="")
    age(home, 15)
    report = home.gc()
    assert lose in report.removed
    assert Digest.of(weights(2)) in report.removed
    assert Digest.of(b'{"r":4}') not in report.removed
    assert home.fsck().verdict is Verdict.PASS


def test_writers_hold_it_off_and_it_holds_off_writers(home):
    with home.lease(), pytest.raises(StoreBusy) as caught:
        gc.collect(home, timeout_s=0.1)
    assert caught.value.temporary
    assert caught.value.exit_status == 1
    with home.lease(), home.lease():
        pass


def test_a_move_that_is_under_way_keeps_its_record(home, monkeypatch):
    version = add(home, 1)
    put, at_work, go_on = home.blobs.put_record, threading.Event(), threading.Event()

    def slow_put(data: bytes) -> Digest:
        written = put(data)
        at_work.set()
        assert go_on.wait(30)
        return written

    monkeypatch.setattr(home.blobs, "put_record", slow_put)

    def move() -> None:
        with Home.open(home.path) as own:
            own.references._blobs = home.blobs  # the slow one
            own.references.set("math", "latest", version, expected=None, reason="")

    def collect() -> None:
        with Home.open(home.path) as own:
            own.gc(grace_s=0, reflog_s=0)

    mover, collector = threading.Thread(target=move), threading.Thread(target=collect)
    mover.start()
    assert at_work.wait(30)
    collector.start()
    collector.join(0.3)  # it has the lock, and would plan now
    go_on.set()
    mover.join(30)
    collector.join(30)
    assert home.references.get("math", "latest") == version
    assert home.fsck().verdict is Verdict.PASS


def test_an_index_that_does_not_know_enough_stops_it(home):
    digest = add(home, 1)
    home.references.set("math", "latest", digest, expected=None, reason="")
    with home.index.writing() as transaction:
        transaction.forget(digest)
    age(home, 15)
    count = len(list(home.blobs.digests()))
    with pytest.raises(StoreError, match="nothing was removed"):
        home.gc()
    assert len(list(home.blobs.digests())) == count
    home.reindex()
    assert home.gc().removed == ()


def test_the_clock_of_this_machine_does_not_decide(home, monkeypatch):
    home.blobs.put(b"young")
    monkeypatch.setattr(time, "time", lambda: 4e9)
    assert home.gc().removed == ()


def test_usage(home):
    first, second = add(home, 1), add(home, 2)
    home.references.set("math", "latest", first, expected=None, reason="")
    usage = home.du()
    sizes = [home.blobs.size(digest) for digest in home.blobs.digests()]
    assert (usage.versions, usage.references, usage.blobs) == (2, 1, len(sizes))
    assert usage.blob_bytes == sum(sizes)
    both = sum(
        layer.size_bytes for digest in (first, second) for layer in home.manifest(digest).layers
    )
    assert usage.version_bytes == both
    distinct = {
        layer.digest: layer.size_bytes
        for digest in (first, second)
        for layer in home.manifest(digest).layers
    }
    assert usage.file_bytes == sum(distinct.values()) < both
    assert usage.ratio == both / usage.file_bytes
    assert usage.index_bytes > 0
    assert make_manifest(home.blobs, 1).digest == first
