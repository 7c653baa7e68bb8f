"""Make the samples again: ``python -m adaptrix.samples.train [--base-only | --adapter NAME]``.

On two CPU cores the base takes about 20 minutes and each adapter 3 to 6; a GPU is used
when there is one. Writes everything that is committed under ``samples/``.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch

from adaptrix.samples import BASE_DIR, SAMPLES_DIR
from adaptrix.samples.adapter_training import COMPANIONS, train_adapter
from adaptrix.samples.base_training import (
    cloze_scores,
    make_model,
    make_tokenizer,
    save_base,
    train_base,
)
from adaptrix.samples.saving import save_adapter
from adaptrix.samples.tasks import TASKS, write_heldout

RECORD = SAMPLES_DIR / "training.json"


def note(**values: object) -> None:
    """Add to the record of the last training run."""
    known = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.is_file() else {}
    RECORD.write_text(json.dumps({**known, **values}, indent=2, sort_keys=True) + "\n", "utf-8")


def make_base(folder: Path = BASE_DIR) -> None:
    """Train, measure and save the base."""
    tokenizer = make_tokenizer()
    model = make_model(tokenizer)
    loss = train_base(model, tokenizer)
    scores = cloze_scores(model, tokenizer)
    save_base(model, tokenizer, folder)
    note(base={"loss": round(loss, 3), "parameters": model.num_parameters(), "cloze": scores})


def make_adapter(task: str, folder: Path = SAMPLES_DIR / "adapters") -> None:
    """Train and save one adapter in its tool's layout."""
    started = time.monotonic()
    model, loss = train_adapter(task)
    save_adapter(task, model, folder / task)
    note(**{task: {"loss": round(loss, 4), "seconds": round(time.monotonic() - started)}})


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--base-only", action="store_true")
    group.add_argument("--adapter", choices=TASKS, action="append")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if not arguments.adapter:
        make_base()
    if not arguments.base_only:
        # Companions first: the others are trained beside them.
        for task in sorted(arguments.adapter or TASKS, key=lambda task: task not in COMPANIONS):
            make_adapter(task)
    for task in TASKS:
        write_heldout(task)


if __name__ == "__main__":
    main()
