"""kill -9, a full disk and a failing disk at the state-changing system calls of every verb.

Afterwards the store is whole, names point to the old or the new version and to nothing in
between, and the same command succeeds. The default run takes a share of all places; with
``ADAPTRIX_SOAK=1`` (``make soak``) it takes every one.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from adaptrix.registry.registry import Registry
from adaptrix.schema.report import Verdict

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = ROOT / "samples" / "adapters"
SOAK = os.environ.get("ADAPTRIX_SOAK", "") not in {"", "0"}
VERBS = ("pull", "compose", "tag", "rm", "gc", "push")
PLACES_PER_VERB = 6
UNEXPECTED = 70
CALLS = (
    "write", "pwrite64", "fsync", "fdatasync", "rename", "renameat", "renameat2", "unlink",
    "unlinkat", "ftruncate", "fchmod", "mkdir", "utimensat",
)  # fmt: skip
WRITES, SYNCS = ("write", "pwrite64", "ftruncate", "mkdir"), ("fsync", "fdatasync")


def _can_trace() -> bool:
    if shutil.which("strace") is None:
        return False
    tried = ["strace", "-f", "-e", "trace=none", "-o", os.devnull, "true"]
    return subprocess.run(tried, check=False, capture_output=True).returncode == 0


pytestmark = pytest.mark.skipif(not _can_trace(), reason="strace cannot trace here")


class ForkServer:
    """See fork_server.py."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("fork_server.py"))],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"},
        )  # fmt: skip

    def run(self, verb: str, home: Path, *options: str) -> int:
        """Run a verb under strace; returns its status, negative for a signal."""
        self._process.stdin.write(f"{verb} {home}\n")
        self._process.stdin.flush()
        child = int(self._process.stdout.readline())
        with subprocess.Popen(
            ["strace", "-f", "-p", str(child), *options], stderr=subprocess.PIPE, text=True
        ) as tracer:
            assert "attached" in tracer.stderr.readline()
            os.kill(child, signal.SIGCONT)
            status = int(self._process.stdout.readline())
            tracer.communicate(timeout=60)
        return status

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()
        self._process.stderr.close()


@pytest.fixture(scope="module")
def server():
    found = ForkServer()
    yield found
    found.close()


@pytest.fixture(scope="module")
def stocked(tmp_path_factory):
    """A home with two adapters, a garbage version, and a shared folder."""
    folder = tmp_path_factory.mktemp("crash")
    with Registry(folder / "home") as registry:
        for name in ("math", "code"):
            registry.pull(str(SAMPLES / name), name=name)
        registry.compose([("code", 0.5)], output="garbage")
        registry.rm("garbage")
    return folder


def fresh(stocked: Path, tmp_path: Path) -> Path:
    home = tmp_path / "home"
    shutil.rmtree(home, ignore_errors=True)
    shutil.rmtree(tmp_path / "share", ignore_errors=True)
    shutil.copytree(stocked / "home", home)
    with Registry(home) as registry:
        registry.add_remote("share", str(tmp_path / "share"))
    return home


def places(server, verb, stocked, tmp_path) -> list[tuple[str, int]]:
    """Every state-changing call of a verb, as (name, how many of that name so far)."""
    home, log = fresh(stocked, tmp_path), tmp_path / "calls"
    traced = ",".join(CALLS)
    assert server.run(verb, home, "-e", f"trace={traced}", "-o", str(log)) == 0
    names = re.findall(r"^\d+ +(\w+)\(", log.read_text(errors="replace"), re.MULTILINE)
    seen: Counter[str] = Counter()
    found = []
    for name in names:
        seen[name] += 1
        found.append((name, seen[name]))
    assert len(found) > 5
    return found


def chosen(found: list[tuple[str, int]]) -> list[tuple[str, int]]:
    if SOAK or len(found) <= PLACES_PER_VERB:
        return found
    step = len(found) / PLACES_PER_VERB
    return [found[int(step * (at + 0.5))] for at in range(PLACES_PER_VERB)]


def names_of(home: Path) -> dict[str, str]:
    with Registry(home) as registry:
        return {str(row): str(row.digest) for row in registry.home.references.all()}


def outcome(server, verb, stocked, tmp_path) -> tuple[dict[str, str], dict[str, str]]:
    """The names before a verb and after it."""
    home = fresh(stocked, tmp_path)
    before = names_of(home)
    assert server.run(verb, home, "-e", "trace=none", "-o", os.devnull) == 0
    return before, names_of(home)


def check(home: Path, verb: str, states, place, server, tmp_path) -> None:
    with Registry(home) as registry:
        report = registry.fsck()
        assert {p.code for p in report.problems} <= {"unfinished_version"}, (verb, place)
        assert report.verdict is Verdict.PASS
    assert names_of(home) in states, (verb, place)
    if verb == "rm" and names_of(home) == states[1]:
        return  # done already: there is nothing left to remove
    assert server.run(verb, home, "-e", "trace=none", "-o", os.devnull) == 0, (verb, place)
    assert names_of(home) == states[1]
    if verb == "push":
        with Registry(tmp_path / "reader") as reader:
            reader.add_remote("share", str(tmp_path / "share"))
            assert str(reader.pull("share/math", force=True).digest) == states[0]["math:latest"]
    with Registry(home) as registry:
        assert registry.reindex().problems == ()
    assert names_of(home) == states[1], (verb, place)


@pytest.mark.parametrize("verb", VERBS)
def test_kill_at_state_changing_calls(server, verb, stocked, tmp_path):
    states = outcome(server, verb, stocked, tmp_path)
    killed = 0
    found = places(server, verb, stocked, tmp_path)
    for name, number in chosen(found):
        home = fresh(stocked, tmp_path)
        inject = f"inject={name}:signal=KILL:when={number}"
        status = server.run(verb, home, "-e", f"trace={name}", "-e", inject, "-o", os.devnull)
        killed += status == -signal.SIGKILL
        check(home, verb, states, (name, number), server, tmp_path)
    print(f"{verb}: killed at {killed} of {len(found)} calls")
    assert killed > 0


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize(("error", "calls"), [("ENOSPC", WRITES), ("EIO", SYNCS)])
def test_a_disk_that_is_full_or_fails(server, verb, stocked, tmp_path, error, calls):
    states = outcome(server, verb, stocked, tmp_path)
    found = [place for place in places(server, verb, stocked, tmp_path) if place[0] in calls]
    failed = 0
    for name, number in chosen(found):
        home = fresh(stocked, tmp_path)
        inject = f"inject={name}:error={error}:when={number}"
        status = server.run(verb, home, "-e", f"trace={name}", "-e", inject, "-o", os.devnull)
        assert status != UNEXPECTED, (verb, name, number)
        failed += status != 0
        check(home, verb, states, (name, number), server, tmp_path)
    assert failed > 0


def test_bytes_are_on_disk_before_a_name_points_to_them(server, stocked, tmp_path):
    """Temporary file synced → renamed → folder synced → index committed, for every blob."""
    home, log = fresh(stocked, tmp_path), tmp_path / "order"
    traced = "trace=fsync,fdatasync,rename,pwrite64"
    assert server.run("compose", home, "-y", "-e", traced, "-o", str(log)) == 0
    calls = [line.partition(" ")[2].strip() for line in log.read_text().splitlines()]
    into = re.compile(r'rename\("([^"]+/tmp/[^"]+)", "[^"]+/blobs/sha256/([0-9a-f]{64})"\)')
    renames = [(at, match) for at, call in enumerate(calls) if (match := into.search(call))]
    assert len(renames) >= 4  # weights, configuration, manifest, record
    commits = [
        at for at, call in enumerate(calls)
        if "adaptrix.sqlite3-wal" in call and call.startswith(("fsync", "fdatasync"))
    ]  # fmt: skip
    for at, match in renames:
        synced = [n for n in range(at) if "fsync(" in calls[n] and match[1] in calls[n]]
        assert synced, f"{match[2]} was renamed before it was synced"
        folder = next(
            n for n in range(at, len(calls)) if "fsync(" in calls[n] and "blobs/sha256>" in calls[n]
        )
        assert any(commit > folder for commit in commits), match[2]
        assert not [c for c in commits if at < c < folder], "committed before the folder was synced"
