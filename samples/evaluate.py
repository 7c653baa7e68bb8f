"""Exact match of the samples, without any of our own code for formats or merging.

``python -m adaptrix.samples.evaluate`` adds the dense float64 updates to the base and
generates. What the rest of the project computes can be compared with this.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch

from adaptrix.samples.adapter_training import load_base
from adaptrix.samples.composition import COMPOSED, WEIGHTS
from adaptrix.samples.deltas import Deltas, sample_deltas
from adaptrix.samples.metrics import score
from adaptrix.samples.tasks import TASKS, Item, items, read_heldout


@torch.inference_mode()
def completions(prompts: Sequence[str], parts: Iterable[tuple[Deltas, float]] = ()) -> list[str]:
    """Greedy completions of the base with weighted deltas added densely."""
    base, tokenizer = load_base()
    model: Any = base
    for deltas, weight in parts:
        for path, delta in deltas.items():
            parameter = model.get_parameter(f"{path}.weight")
            parameter.copy_((parameter.double() + weight * delta).float())
    batch = tokenizer(list(prompts), return_tensors="pt", padding=True)
    out = model.generate(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        max_new_tokens=24,
        do_sample=False,
        pad_token_id=1,
        eos_token_id=0,
    )
    new = out[:, batch.input_ids.shape[1] :]
    return list(tokenizer.batch_decode(new, skip_special_tokens=True))


def _score(exercises: Sequence[Item], parts: Iterable[tuple[Deltas, float]] = ()) -> float:
    return score(completions([item.prompt for item in exercises], parts), exercises)


def validation_grid(weights: Sequence[float]) -> dict[tuple[float, float], tuple[float, float]]:
    """Exact match of math and code on validation items, by composition weights."""
    math_deltas, code_deltas = sample_deltas("math"), sample_deltas("code")
    exercises = {task: items(task, "validation", 100) for task in ("math", "code")}
    return {
        (one, other): (
            _score(exercises["math"], [(math_deltas, one), (code_deltas, other)]),
            _score(exercises["code"], [(math_deltas, one), (code_deltas, other)]),
        )
        for one in weights
        for other in weights
    }


def main() -> None:
    """Print the table."""
    print(f"{'task':10} {'base':>7} {'adapter':>8} {COMPOSED:>10}")
    both = [(sample_deltas(name), weight) for name, weight in WEIGHTS.items()]
    for task in TASKS:
        exercises = read_heldout(task)
        base = _score(exercises)
        alone = _score(exercises, [(sample_deltas(task), 1.0)])
        together = f"{_score(exercises, both):10.1%}" if task in WEIGHTS else " " * 10
        print(f"{task:10} {base:7.1%} {alone:8.1%} {together}", flush=True)


if __name__ == "__main__":
    main()
