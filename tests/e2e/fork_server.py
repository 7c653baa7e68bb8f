"""Runs verbs in children that can be traced from their first step.

Imports once; then, for every line ``verb home`` on stdin: forks a child that stops itself,
prints its process id, and, when the child has ended, its status. So a tracer can attach
before anything happens, and a crash costs milliseconds instead of an interpreter's start.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from pathlib import Path

from adaptrix.registry.composing import compose
from adaptrix.registry.registry import Registry
from adaptrix.schema.errors import AdaptrixError
from adaptrix.store.database import Database
from adaptrix.store.index import Index

SAMPLES = Path(__file__).resolve().parents[2] / "samples" / "adapters"
NEEDED = (compose, Database, Index)
UNEXPECTED = 70


def pull(registry: Registry) -> None:
    registry.pull(str(SAMPLES / "news"), name="math")


def make(registry: Registry) -> None:
    registry.compose([("math", 1.0), ("code", 1.0)], output="mix")


def tag(registry: Registry) -> None:
    registry.tag("code", "v1")


def rm(registry: Registry) -> None:
    registry.rm("code")


def collect(registry: Registry) -> None:
    registry.home.gc(grace_s=0.0, reflog_s=0.0)


def push(registry: Registry) -> None:
    registry.push("math", "share")


VERBS = {"pull": pull, "compose": make, "tag": tag, "rm": rm, "gc": collect, "push": push}


def child(verb: str, home: str) -> None:
    """Wait for the tracer, then do it; the status says how it ended."""
    status = 0
    os.kill(os.getpid(), signal.SIGSTOP)
    try:
        with Registry(Path(home)) as registry:
            VERBS[verb](registry)
    except AdaptrixError as error:
        os.write(2, f"{error.code}: {error}\n".encode())
        status = error.exit_status
    except BaseException as error:
        os.write(2, f"{type(error).__name__}: {error}\n".encode())
        status = UNEXPECTED
    os._exit(status)


def main() -> None:
    gc.collect()
    gc.freeze()
    for line in sys.stdin:
        verb, home = line.split()
        process = os.fork()
        if not process:
            child(verb, home)
        os.waitpid(process, os.WUNTRACED)
        sys.stdout.write(f"{process}\n")
        sys.stdout.flush()
        _, status = os.waitpid(process, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
