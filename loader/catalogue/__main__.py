"""``python -m adaptrix.loader.catalogue``: make the catalogue again, in bounded time.

Types are described by worker processes, a batch each, every type with a time limit; what is
done is kept in ``--work``, so that a run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from adaptrix.loader.catalogue.encoding import as_json, encode
from adaptrix.loader.catalogue.report import report_text

_HERE = Path(__file__).resolve()
_CATALOGUE = _HERE.parents[2] / "convert" / "architecture" / "catalogue.xz"
_REPORT = _HERE.parents[2] / "docs" / "architectures.md"
_BATCH = 24


def main(arguments: Sequence[str] | None = None) -> None:
    """See the module."""
    parser = argparse.ArgumentParser(prog="python -m adaptrix.loader.catalogue")
    parser.add_argument("types", nargs="*", help="model types; all of transformers' without")
    parser.add_argument("--work", type=Path, help="folder that keeps what is done")
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time")
    parser.add_argument("--limit-s", type=int, default=150, help="seconds for one type")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    work = chosen.work or Path(tempfile.mkdtemp(prefix="catalogue-"))
    work.mkdir(parents=True, exist_ok=True)
    if chosen.worker:
        _work(chosen.types, work, chosen.limit_s)
        return
    from transformers import CONFIG_MAPPING, __version__  # noqa: PLC0415

    wanted = chosen.types or list(CONFIG_MAPPING)
    missing = [name for name in wanted if not _place(work, name).exists()]
    batches = [missing[i : i + _BATCH] for i in range(0, len(missing), _BATCH)]
    with ThreadPoolExecutor(chosen.jobs) as pool:
        list(pool.map(lambda batch: _run(batch, work, chosen.limit_s), batches))
    found = [json.loads(_place(work, n).read_text()) for n in wanted if _place(work, n).exists()]
    good = [document for document in found if "error" not in document]
    if not chosen.types:
        _CATALOGUE.write_bytes(encode([d["family"] for d in good], __version__))
        _REPORT.write_text(report_text(found, __version__, _CATALOGUE.stat().st_size))
    sys.stdout.write(f"{len(good)} of {len(wanted)} types\n")


def _place(work: Path, model_type: str) -> Path:
    return work / f"{model_type}.json"


def _run(batch: Sequence[str], work: Path, limit_s: int) -> None:
    command = [sys.executable, "-m", "adaptrix.loader.catalogue", "--worker", "--work", str(work)]
    with contextlib.suppress(subprocess.TimeoutExpired):
        subprocess.run(  # noqa: S603 - our own module
            [*command, "--limit-s", str(limit_s), *batch],
            check=False, timeout=limit_s * len(batch) + 60,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
    for name in batch:
        if not _place(work, name).exists():
            _write(work, name, {"type": name, "error": "the process ended or hung"})
    sys.stdout.write(f"{', '.join(batch)}\n")
    sys.stdout.flush()


def _work(types: Sequence[str], work: Path, limit_s: int) -> None:
    import torch  # noqa: PLC0415
    from transformers.utils import logging  # noqa: PLC0415

    from adaptrix.loader.catalogue.describing import describe  # noqa: PLC0415

    warnings.simplefilter("ignore")
    logging.set_verbosity_error()
    torch.set_num_threads(1)
    signal.signal(signal.SIGALRM, _too_long)
    for name in types:
        started = time.monotonic()
        document: dict[str, Any] = {"type": name}
        signal.alarm(limit_s)
        try:
            found = describe(name)
            document |= {
                "family": as_json(found), "fixed": found.fixed,
                "unsolved": found.unsolved, "total": found.total,
            }  # fmt: skip
        except (Exception, _TooLong) as error:  # noqa: BLE001 - reported, type by type
            document["error"] = f"{type(error).__name__}: {error}".split("\n")[0][:160]
        finally:
            signal.alarm(0)
        document["seconds"] = round(time.monotonic() - started, 1)
        _write(work, name, document)


class _TooLong(BaseException):
    """The time limit of one type; no class's own handler catches it."""


def _too_long(_signal: int, _frame: object) -> None:
    raise _TooLong("took too long")


def _write(work: Path, model_type: str, document: dict[str, Any]) -> None:
    _place(work, model_type).write_text(json.dumps(document))


if __name__ == "__main__":
    main()
