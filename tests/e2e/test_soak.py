"""Clients and collectors at once on one home: nothing that is named is ever lost.

Seconds by default; ten minutes with ``ADAPTRIX_SOAK=1`` (``make soak``).
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from adaptrix.registry.registry import Registry
from adaptrix.schema.report import Verdict

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = ROOT / "samples" / "adapters"
SOAK = os.environ.get("ADAPTRIX_SOAK", "") not in {"", "0"}
SECONDS = 600 if SOAK else 8
WORKERS = 4


def test_nothing_is_lost_while_others_collect(tmp_path):
    home = tmp_path / "home"
    with Registry(home) as registry:
        for name in ("math", "code"):
            registry.pull(str(SAMPLES / name), name=name)
        registry.add_remote("share", str(tmp_path / "share"))
        registry.push("math", "share")
    worker = Path(__file__).with_name("soak_worker.py")
    settings = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    running = [
        subprocess.Popen(
            [sys.executable, str(worker), str(home), str(number), str(SECONDS)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=settings,
        )
        for number in range(WORKERS)
    ]  # fmt: skip
    outputs = [process.communicate(timeout=SECONDS + 120) for process in running]
    assert [process.returncode for process in running] == [0] * WORKERS, outputs
    lines = [line for output, _ in outputs for line in output.splitlines()]
    assert [line for line in lines if line.startswith("failed")] == []
    steps = sum(int(line.split()[1]) for line in lines if line.startswith("steps"))
    kept = dict(line.split()[1:] for line in lines if line.startswith("kept"))
    assert steps >= WORKERS  # a busy machine does few in so short a time
    with Registry(home) as registry:
        for name, digest in kept.items():
            assert str(registry.digest(name)) == digest
        report = registry.fsck(full=True)
        assert {p.code for p in report.problems} <= {"unfinished_version"}, report.problems
        assert report.verdict is Verdict.PASS
        for row in registry.ls():
            assert registry.verify(row.reference).verdict is Verdict.PASS
    with Registry(tmp_path / "reader") as reader:
        reader.add_remote("share", str(tmp_path / "share"))
        assert reader.pull_all("share").skipped == ()
    print(f"{steps} commands by {WORKERS} processes in {SECONDS} s, nothing lost")
