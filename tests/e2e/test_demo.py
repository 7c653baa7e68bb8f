"""The demo as a newcomer starts it: offline, in a temporary home, and honest about it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_demo_goes_the_whole_way(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "adaptrix.cli.main", "demo", "--json"],
        check=False, capture_output=True, text=True, timeout=600,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src"), "HOME": str(tmp_path),
             "ADAPTRIX_HOME": str(tmp_path / "untouched")},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    document = json.loads(done.stdout)
    assert document["verdict"] == "PASS"
    assert [row["verdict"] for row in document["adapters"]] == ["PASS"] * 5
    assert {row["format"] for row in document["adapters"]} == {"peft", "mlx", "gguf"}
    assert all(
        row["family"] == "phi" and row["fidelity"] == "exact" for row in document["adapters"]
    )
    scores = {row["task"]: row for row in document["scores"]}
    assert len(scores) == 5
    for row in scores.values():
        assert row["items"] >= 200
        assert row["base"] <= 0.10
        assert row["adapter"] >= 0.90
    assert min(scores["math"]["composed"], scores["code"]["composed"]) >= 0.80
    assert not (tmp_path / "untouched").exists()
