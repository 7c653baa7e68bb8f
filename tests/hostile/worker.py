"""Runs the command line over hostile folders, in one process with little memory and time.

One line of JSON for each run: what was run, its exit status, its errors, how long it took.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import shutil
import signal
import sys
import time
from pathlib import Path

from adaptrix.cli.main import run

LIMIT_S = 20


def attempt(verb: str, source: Path, place: Path) -> dict[str, object]:
    target = {
        "inspect": [],
        "pull": ["--as", "x", "--home", str(place / "home")],
        "convert": ["--to", "peft", "-o", str(place / "out"), "--home", str(place / "none")],
    }[verb]
    out, err = io.StringIO(), io.StringIO()
    started = time.process_time()
    signal.setitimer(signal.ITIMER_VIRTUAL, LIMIT_S)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = run([verb, str(source), *target, "--json"])
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    left = [p.name for p in place.iterdir() if p.name.startswith((".out", "out"))]
    return {
        "status": status, "out": out.getvalue(), "err": err.getvalue(), "left": left,
        "seconds": time.process_time() - started, "canary": Path("CANARY").exists(),
    }  # fmt: skip


def too_long(*_: object) -> None:
    raise TimeoutError(f"longer than {LIMIT_S} s")


def main() -> None:
    root, memory = Path(sys.argv[1]), int(sys.argv[2])
    os.chdir(root)
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    signal.signal(signal.SIGVTALRM, too_long)
    # The folder that is pulled into first stays: what is refused must leave it empty.
    for source in sorted((root / "sources").iterdir()):
        for verb in ("inspect", "pull", "convert"):
            place = root / "place"
            place.mkdir()
            found = attempt(verb, source, place)
            blobs = list((place / "home").rglob("sha256/*/*")) if (place / "home").exists() else []
            found |= {"case": source.name, "verb": verb, "blobs": len(blobs)}
            sys.__stdout__.write(json.dumps(found) + "\n")
            sys.__stdout__.flush()
            shutil.rmtree(place)


if __name__ == "__main__":
    main()
