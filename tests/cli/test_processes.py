"""The command as a process: closed streams, arguments that are no text, disks without room."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = ROOT / "samples" / "adapters"
COMMAND = [sys.executable, "-m", "adaptrix.cli.start"]


def environment(home):
    return {**os.environ, "PYTHONPATH": str(ROOT / "src"), "ADAPTRIX_HOME": str(home)}


def adaptrix(home, *arguments, **options):
    return subprocess.run(
        [*COMMAND, *arguments], check=False, capture_output=True, timeout=120,
        stdin=subprocess.DEVNULL, env=environment(home), **options,
    )  # fmt: skip


@pytest.fixture
def home(tmp_path):
    assert (
        adaptrix(tmp_path / "home", "pull", str(SAMPLES / "math"), "--as", "math").returncode == 0
    )
    return tmp_path / "home"


@pytest.mark.parametrize(("stream", "line", "status"), [(1, "ls", 0), (2, "show nope", 5)])
def test_a_closed_stream_swallows_what_is_written(home, stream, line, status):
    words = [*COMMAND, *line.split()]
    closed = ["sh", "-c", f'exec "$@" {stream}>&-', "sh", *words]
    done = subprocess.run(closed, check=False, capture_output=True, env=environment(home))
    assert (done.returncode, done.stdout, done.stderr) == (status, b"", b"")


def test_a_path_may_hold_bytes_that_are_no_text(home, tmp_path):
    source = os.fsencode(tmp_path) + b"/bad\xff\xfename"
    shutil.copytree(os.fsencode(SAMPLES / "math"), source)
    assert adaptrix(home, "pull", source).stdout.startswith(b"bad-name:latest  new  PASS")
    assert adaptrix(home, "convert", source, "--to", "mlx", "-o", source + b"2").returncode == 0


@pytest.mark.parametrize(
    "words", [["search", b"m\xffth"], ["ls", b"m\xff*"], ["show", b"m\xff"],
              ["run", "--adapters", "math", "-p", b"caf\xe9"]],
)  # fmt: skip
def test_text_that_is_no_utf8_is_a_mistake_of_the_line(home, words):
    done = adaptrix(home, *words)
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"bug" not in done.stderr
    assert b"\\udc" in done.stderr


def test_an_interrupt_is_one_line_from_the_first_moment(home):
    for delay_s in (0.06, 0.1, 0.2, 0.3):
        process = subprocess.Popen(
            [*COMMAND, "fsck", "--full"], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env=environment(home), text=True,
        )  # fmt: skip
        time.sleep(delay_s)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=120)
        if process.returncode == -signal.SIGINT:
            assert "adaptrix" not in err  # the interpreter itself was still starting
        elif process.returncode:
            assert (process.returncode, err.count("\n")) == (130, 1)


def test_a_disk_without_room_is_still_read(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small tmpfs needs privileges")
    home = disk / "home"
    try:
        assert adaptrix(home, "pull", str(SAMPLES / "math"), "--as", "math").returncode == 0
        with pytest.raises(OSError, match="space"), (disk / "rest").open("wb", 0) as rest:
            while True:
                rest.write(bytes(1 << 12))
        for line in ("ls", "show math", "log math", "reflog", "verify math", "du", "fsck"):
            done = adaptrix(home, *line.split())
            assert done.returncode == 0, (line, done.stderr)
        for line in ("tag math v1", "rm math --yes", "gc"):
            done = adaptrix(home, *line.split())
            assert (done.returncode, done.stdout) == (1, b""), line
            assert b"disk full" in done.stderr
            assert b"gc may help" not in done.stderr
        (disk / "rest").unlink()
        assert adaptrix(home, "tag", "math", "v1").returncode == 0
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_dry_runs_say_so_and_need_nothing_to_be_writable(home, tmp_path):
    lines = {
        f"pull {SAMPLES / 'qa'} --as qa": "planned", "compose math -o mix": "planned",
        "rm math": "would remove", "tag math v1": "would be", "restore math math": "would be",
        "convert math --to mlx -o out": "would be", "init": "would make",
    }  # fmt: skip
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "--bind", str(home), str(disk)]
    read_only = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    try:
        if read_only:
            subprocess.run(["mount", "-o", "remount,bind,ro", str(disk)], check=True)
        for line, words in lines.items():
            place = disk if read_only else home
            done = adaptrix(place, *line.split(), "--dry-run", cwd=tmp_path)
            assert (done.returncode, done.stderr) == (0, b""), (line, done.stderr)
            assert words in done.stdout.decode(), line
    finally:
        if read_only:
            subprocess.run(["umount", str(disk)], check=True)
