"""Several processes at once, and processes that are killed."""

import os
import signal
import time

import pytest
from store_makers import weights

from adaptrix.schema.digest import Digest
from adaptrix.schema.report import Verdict
from adaptrix.store.home import Home

SAME = """
import sys
from pathlib import Path
from store_makers import add
from adaptrix.store.home import Home
from adaptrix.store.references import ReferenceConflict
with Home.open(Path(sys.argv[1])) as home:
    for seed in range(3):
        digest = add(home, seed)
    try:
        home.references.set("math", "latest", digest, expected=None, reason="pull")
        print("moved")
    except ReferenceConflict as conflict:
        print("same" if conflict.got == digest else "other")
"""


def test_eight_processes_store_the_same_thing(python, tmp_path):
    running = [python(SAME, tmp_path / "home") for _ in range(8)]
    results = [process.communicate(timeout=120) for process in running]
    assert [errors for _, errors in results] == [""] * 8
    assert sorted(output.strip() for output, _ in results) == ["moved"] + ["same"] * 7
    with Home.open(tmp_path / "home") as home:
        report = home.fsck()
        assert report.problems == ()
        assert report.versions == 3
        assert list(home.blobs.temporary.iterdir()) == []


RACE = """
import sys
from pathlib import Path
from store_makers import add
from adaptrix.store.home import Home
from adaptrix.store.references import ReferenceConflict
wins = 0
with Home.open(Path(sys.argv[1])) as home:
    for step in range(12):
        new = add(home, 100 * int(sys.argv[2]) + step)
        before = home.references.get("math", "latest")
        try:
            home.references.set("math", "latest", new, expected=before, reason=sys.argv[2])
            wins += 1
        except ReferenceConflict:
            pass
print(wins)
"""


def test_compare_and_swap_between_processes(python, tmp_path):
    with Home.open(tmp_path / "home"):
        pass
    running = [python(RACE, tmp_path / "home", str(number)) for number in range(4)]
    results = [process.communicate(timeout=120) for process in running]
    assert [errors for _, errors in results] == [""] * 4
    wins = sum(int(output) for output, _ in results)
    with Home.open(tmp_path / "home") as home:
        log = home.references.log("math", "latest")
        assert len(log) == wins
        # Every winner swapped against the winner before it: no update was lost.
        assert [entry.old for entry in log[:-1]] == [entry.new for entry in log[1:]]
        assert log[-1].old is None
        before = home.references.all(), log
        assert home.fsck().problems == ()
        home.reindex()
        assert (home.references.all(), home.references.log("math", "latest")) == before


COLLECT = """
import sys, time
from pathlib import Path
from adaptrix.store.home import Home
end = time.monotonic() + float(sys.argv[2])
runs = 0
with Home.open(Path(sys.argv[1])) as home:
    while time.monotonic() < end:
        home.gc(grace_s=0)
        runs += 1
        time.sleep(0.005)
print(runs)
"""
STORE = """
import os, sys, time
from pathlib import Path
from store_makers import add, make_manifest
from adaptrix.store.home import Home
end = time.monotonic() + float(sys.argv[2])
names = []
with Home.open(Path(sys.argv[1])) as home:
    while time.monotonic() < end:
        seed = len(names) % 7
        name = f"n{sys.argv[3]}-{len(names)}"
        with home.lease():
            digest = home.add_version(make_manifest(home.blobs, seed))
            home.references.set(name, "latest", digest, expected=None, reason="pull")
        names.append(name)
    for name in names:
        digest = home.references.get(name, "latest")
        for layer in home.manifest(digest).layers:
            home.blobs.read(layer.digest)
print(len(names))
"""


def test_collecting_without_grace_beside_writers_loses_nothing(python, tmp_path):
    home_path, seconds = tmp_path / "home", "3"
    with Home.open(home_path) as home:
        assert home.versions() == ()
    running = [python(STORE, home_path, seconds, str(number)) for number in range(2)]
    collector = python(COLLECT, home_path, seconds)
    results = [process.communicate(timeout=120) for process in (*running, collector)]
    assert [errors for _, errors in results] == [""] * 3
    assert all(int(output) > 0 for output, _ in results)
    with Home.open(home_path) as home:
        assert home.fsck().verdict is Verdict.PASS
        assert len(home.references.all()) == sum(int(output) for output, _ in results[:2])


# Ends the process, as by kill -9, at the n-th call that changes the disk.
CRASH = """
import os, signal, sys
from pathlib import Path
from store_makers import add
from adaptrix.store.home import Home

left = int(sys.argv[2])
def dying(call):
    def wrapped(*arguments, **options):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*arguments, **options)
    return wrapped

home = Home.open(Path(sys.argv[1]))
for name in ("write", "fsync", "rename", "unlink", "utime", "fchmod", "open"):
    setattr(os, name, dying(getattr(os, name)))
digest = add(home, 7)
home.references.set("math", "latest", digest, expected=None, reason="pull")
home.references.set("math", "v1", digest, expected=None, reason="tag")
home.references.delete("math", "v1", expected=digest, reason="rm")
left = 0
home.gc(grace_s=0, reflog_s=0)
print("done")
"""


def test_killed_at_every_step_the_home_is_whole_and_the_work_can_be_repeated(python, tmp_path):
    finished = 0
    for step in range(1, 200, 4):
        path = tmp_path / f"home{step}"
        with Home.open(path) as home:
            assert home.versions() == ()
        process = python(CRASH, path, str(step))
        _, errors = process.communicate(timeout=60)
        if process.returncode == 0:
            finished += 1
        else:
            assert process.returncode == -signal.SIGKILL, errors
        with Home.open(path) as home:
            named = home.references.all()
            problems = home.fsck().problems
            assert {p.code for p in problems} <= {"unfinished_version"}, problems
            for row in named:
                assert home.manifest(row.digest).digest == row.digest
            home.reindex()
            assert home.fsck().problems == ()
        with Home.open(path) as home:
            from store_makers import add

            digest = add(home, 7)
            before = home.references.get("math", "latest")
            home.references.set("math", "latest", digest, expected=before, reason="again")
            assert home.references.get("math", "latest") == digest
            assert home.fsck().verdict is Verdict.PASS
        if finished:
            break
    assert finished, "no run went to its end: raise the number of steps"


KILL_IN_STREAM = """
import os, sys, time
from pathlib import Path
from adaptrix.store.disk import DiskStore
store = DiskStore(Path(sys.argv[1]))
with store.writer(partial="big", expected_size=1_000_000) as sink:
    sink.write(bytes(300_000))
    print("half", flush=True)
    time.sleep(60)
"""


def test_a_killed_download_is_resumed(python, tmp_path):
    process = python(KILL_IN_STREAM, tmp_path / "home")
    assert process.stdout.readline() == "half\n"
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    with Home.open(tmp_path / "home") as home:
        assert list(home.blobs.digests()) == []
        assert home.fsck().problems == ()
        wanted = Digest.of(bytes(1_000_000))
        with home.blobs.writer(partial="big", expected_digest=wanted) as sink:
            assert sink.offset == 300_000
            sink.write(bytes(700_000))
        assert home.blobs.size(wanted) == 1_000_000


def test_a_part_in_use_by_another_process_is_left_alone(python, tmp_path):
    process = python(KILL_IN_STREAM, tmp_path / "home")
    try:
        assert process.stdout.readline() == "half\n"
        with Home.open(tmp_path / "home") as home:
            with home.blobs.writer(partial="big") as sink:
                assert sink.offset == 0
                sink.write(weights(1))
            assert home.blobs.has(Digest.of(weights(1)))
    finally:
        process.kill()
        process.communicate(timeout=60)


@pytest.mark.slow
def test_interrupted_by_the_user_the_store_is_consistent(python, tmp_path):
    process = python(KILL_IN_STREAM, tmp_path / "home")
    assert process.stdout.readline() == "half\n"
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert "KeyboardInterrupt" in errors
    with Home.open(tmp_path / "home") as home:
        names = [path.name for path in home.blobs.temporary.iterdir()]
        assert names == ["partial-big"]
        assert home.fsck().problems == ()
