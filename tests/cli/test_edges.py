"""The command line at its edges: terminals, full disks, interrupts, completion, refusals."""

from __future__ import annotations

import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from adaptrix.cli import main
from adaptrix.schema import errors as tree

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = ROOT / "samples" / "adapters"
COMMAND = [sys.executable, "-m", "adaptrix.cli.main"]


def environment(home, **more):
    return {**os.environ, "PYTHONPATH": str(ROOT / "src"), "ADAPTRIX_HOME": str(home), **more}


def adaptrix(home, *arguments, **more):
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        check=False, capture_output=True, text=True, timeout=120, input="",
        env=environment(home, **more),
    )  # fmt: skip


@pytest.fixture(scope="module")
def stocked(tmp_path_factory):
    home = tmp_path_factory.mktemp("edges") / "home"
    done = adaptrix(home, "pull", SAMPLES / "math", "--as", "math")
    assert done.returncode == 0, done.stderr
    return home


def on_a_terminal(home, arguments, typed):
    """Run with a pseudo-terminal as stdin; stdout and stderr stay pipes."""
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, *arguments], stdin=follower, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=environment(home), text=True,
    )  # fmt: skip
    os.close(follower)
    os.write(leader, typed.encode())
    try:
        out, err = process.communicate(timeout=120)
    finally:
        process.kill()
        os.close(leader)
    return process.returncode, out, err


def test_no_prompt_on_a_terminal_is_a_chat(stocked):
    typed = "problem : tom has 3 apples and gets 4 more . how many in all ? answer :\n/exit\n"
    status, out, err = on_a_terminal(stocked, ["run", "--adapters", "math"], typed)
    assert status == 0, err
    assert out.strip() == "3 + 4 = 7"
    assert "/exit to leave" in err


@pytest.mark.parametrize("flag", ["--json", "-q", "--compare"])
def test_no_chat_where_one_answer_is_wanted(stocked, flag):
    status, out, err = on_a_terminal(stocked, ["run", "--adapters", "math", flag], "x\n")
    assert (status, out) == (2, "")
    assert "no prompt" in err


def test_rm_asks_on_a_terminal(stocked):
    adaptrix(stocked, "tag", "math", "old")
    status, out, err = on_a_terminal(stocked, ["rm", "math:old"], "n\n")
    assert status == 130
    assert "Remove math:old?" in err
    status, out, _ = on_a_terminal(stocked, ["rm", "math:old"], "y\n")
    assert (status, out) == (0, "removed math:old\n")


def test_an_adapter_is_not_counted_twice(stocked):
    done = adaptrix(stocked, "run", "--adapters", "math,math:latest", "--dry-run")
    assert done.returncode == 2
    assert "named twice" in done.stderr


def test_json_and_quiet_exclude_each_other_before_anything_happens(stocked):
    adaptrix(stocked, "tag", "math", "kept")
    done = adaptrix(stocked, "rm", "math:kept", "--yes", "-q", "--json")
    assert done.returncode == 2
    assert "math:kept" in adaptrix(stocked, "ls", "-q").stdout.split()


def test_home_before_and_after_the_verb(stocked, tmp_path):
    other = tmp_path / "other"
    assert json.loads(adaptrix(stocked, "--home", other, "ls", "--json").stdout)["rows"] == []
    assert json.loads(adaptrix(other, "ls", "--home", stocked, "--json").stdout)["rows"] != []


def test_dry_runs_write_nothing(stocked, tmp_path):
    fresh = tmp_path / "fresh"
    assert adaptrix(fresh, "init", "--dry-run").returncode == 0
    assert not fresh.exists()
    before = adaptrix(stocked, "ls", "-q").stdout
    for arguments in (
        ["tag", "math", "t", "--dry-run"],
        ["compose", "math=2", "-o", "double", "--dry-run"],
        ["pull", SAMPLES / "news", "--as", "news", "--dry-run"],
        ["convert", "math", "--to", "mlx", "-o", tmp_path / "out", "--dry-run"],
        ["fsck", "--repair", "--dry-run"],
    ):
        assert adaptrix(stocked, *arguments).returncode == 0
    assert adaptrix(stocked, "ls", "-q").stdout == before
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_behind_stdout_is_no_bug_of_ours(stocked):
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*COMMAND, "ls"], check=False, stdout=full, stderr=subprocess.PIPE, text=True,
            timeout=60, env=environment(stocked),
        )  # fmt: skip
    assert done.returncode == 1
    assert "No space left" in done.stderr
    assert "bug" not in done.stderr


def test_a_reader_that_leaves_is_quiet(stocked):
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [*COMMAND, "ls"], check=False, stdout=writer, stderr=subprocess.PIPE, text=True,
        timeout=60, env=environment(stocked),
    )  # fmt: skip
    os.close(writer)
    assert done.stderr == ""


def test_interrupt_is_130_and_one_line(stocked):
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, "rm", "math"], stdin=follower, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=environment(stocked), text=True,
    )  # fmt: skip
    os.close(follower)
    assert process.stderr.read(6) == "Remove"
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    os.close(leader)
    assert process.returncode == 130
    assert "the store is consistent" in err
    assert "Traceback" not in err


def test_completion_knows_the_verbs(stocked):
    script = adaptrix(stocked, _ADAPTRIX_COMPLETE="source_bash").stdout
    assert "complete -o default -F _adaptrix_completion adaptrix" in script
    found = adaptrix(
        stocked, _ADAPTRIX_COMPLETE="complete_bash", COMP_WORDS="adaptrix re", COMP_CWORD="1"
    )
    assert {"reindex", "remote"} <= set(found.stdout.split())


def test_help_survives_an_ascii_terminal(stocked):
    done = adaptrix(stocked, "run", "--help", PYTHONIOENCODING="ascii:strict")
    assert done.returncode == 0
    assert "adaptrix run --adapters" in done.stdout


def test_offline_holds_for_the_base_too(stocked):
    started = time.monotonic()
    done = adaptrix(stocked, "run", "--adapters", "math", "-p", "x", "--base", "any/base",
                    ADAPTRIX_OFFLINE="1", HF_ENDPOINT="http://127.0.0.1:9")  # fmt: skip
    assert done.returncode == 6
    assert "Retrying" not in done.stderr
    assert time.monotonic() - started < 60


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (tree.UsageError, 2), (tree.FormatError, 2), (tree.Refused, 1), (tree.Inconclusive, 3),
        (tree.AccessDenied, 4), (tree.NotFound, 5), (tree.RemoteError, 6), (tree.PolicyRefused, 7),
        (tree.Interrupted, 130), (tree.IntegrityError, 1), (KeyboardInterrupt, 130),
        (ZeroDivisionError, 1),
    ],
)  # fmt: skip
def test_each_error_has_its_status_and_no_traceback(error, status, capsys, monkeypatch):
    raised = error("wanted, got", where="here", hint="do") if issubclass(
        error, tree.AdaptrixError) else error("wanted, got")  # fmt: skip

    def failing(*_arguments, **_options):
        raise raised

    monkeypatch.setattr(main, "app", failing)
    assert main.run(["ls", "--json"]) == status
    printed = capsys.readouterr()
    assert printed.out == ""
    assert json.loads(printed.err)["error"].keys() == {"code", "message", "hint", "where"}
    assert main.run(["ls"]) == status
    assert "Traceback" not in capsys.readouterr().err


def test_debug_shows_the_traceback(capsys, monkeypatch):
    def failing(*_arguments, **_options):
        raise tree.NotFound("gone")

    monkeypatch.setattr(main, "app", failing)
    monkeypatch.setenv("ADAPTRIX_DEBUG", "1")
    assert main.run(["ls"]) == 5
    assert "Traceback" in capsys.readouterr().err


def test_a_rebuilt_index_is_said_to_people_and_not_to_scripts(stocked, tmp_path):
    home = tmp_path / "copy"
    shutil.copytree(stocked, home, symlinks=True)
    for name in home.glob("adaptrix.sqlite3*"):
        name.unlink()
    quiet = shutil.copytree(home, tmp_path / "quiet")
    done = adaptrix(home, "ls")
    assert done.returncode == 0
    assert done.stderr.startswith("warning: the index was rebuilt from the blobs")
    assert adaptrix(quiet, "ls", "--json").stderr == ""
