"""Hostile files through inspect, pull and convert: a message, a status, little time and memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

conftest = sys.modules.get("tests.conftest") or sys.modules["conftest"]
HERE = Path(__file__).parent
conftest.load_helper("hostile_makers", HERE / "makers.py")
CASES = conftest.load_helper("hostile_cases", HERE / "cases.py").CASES
MEMORY = 1 << 30
"""Address space of the process that reads all of them, one after the other."""
MOST_S = 15.0


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """What each verb said of each case, by ``(number of the case, verb)``."""
    root = tmp_path_factory.mktemp("hostile")
    for number, case in enumerate(CASES):
        folder = root / "sources" / f"{number:03}"
        folder.mkdir(parents=True)
        case.make(folder)
    command = [sys.executable, str(HERE / "worker.py"), str(root), str(MEMORY)]
    environment = {**os.environ, "ADAPTRIX_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert len(found) == 3 * len(CASES), done.stderr[-2000:]
    return {(int(run["case"]), run["verb"]): run for run in found}


@pytest.mark.parametrize(
    "number", range(len(CASES)), ids=lambda n: f"{CASES[n].item} {CASES[n].name}"
)
def test_each_file_gets_its_message_and_status(number, runs):
    case = CASES[number]
    for verb in ("inspect", "pull", "convert"):
        run = runs[number, verb]
        wanted = case.status
        if verb == "inspect" and case.inspect is not None:
            wanted = case.inspect
        said = run["out"] + run["err"]
        assert run["status"] == wanted, f"{verb}: {said[-600:]}"
        assert case.code in said, f"{verb}: {said[-600:]}"
        assert "unexpected" not in run["err"]
        assert "Traceback" not in said
        assert "\x1b" not in said
        assert "\u202e" not in said
        assert run["seconds"] <= MOST_S
        assert not run["canary"]
        if wanted not in {0, 3}:
            assert run["left"] == []
            assert verb != "pull" or run["blobs"] == 0


def test_every_item_has_a_case():
    assert {case.item for case in CASES} == set(range(1, 39))
