"""Choosing the next token of each row, from that row's own seed and settings.

The choice is by inverse CDF in the vocabulary's order: a number drawn from the row's seed
falls into one token's share. Other rows of the batch change the shares by rounding only,
so a row gives the same text in any batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import LogitsProcessor

from adaptrix.schema.errors import FormatError


class Chooser(LogitsProcessor):
    """Leaves one token per row possible, so that a greedy search takes it.

    transformers then handles caches, positions and masks of every architecture, and all
    randomness is ours.
    """

    def __init__(self, options: Sequence[Any]) -> None:
        """One ``GenerateOptions`` per row."""
        self.options = options
        self.generators = [torch.Generator().manual_seed(row.seed) for row in options]
        self.greedy = all(row.temperature == 0 for row in options)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Scores ``(rows, vocabulary)`` with all but the chosen token at minus infinity."""
        if bool(torch.isnan(scores).any()):
            raise FormatError(
                "the model's scores are not numbers: it overflows in this dtype",
                where="generate",
                hint="Run with --dtype float32 or bfloat16.",
                code="not_a_number",
            )
        if self.greedy:
            return scores
        chosen = [
            draw(row, options.temperature, options.top_k, options.top_p, generator)
            for row, options, generator in zip(scores, self.options, self.generators, strict=True)
        ]
        picked = torch.full_like(scores, -torch.inf)
        picked[torch.arange(len(chosen)), torch.tensor(chosen)] = 0.0
        return picked


def draw(
    scores: torch.Tensor, temperature: float, top_k: int, top_p: float, generator: torch.Generator
) -> int:
    """A token drawn from ``scores (vocabulary,)``; temperature 0 takes the greatest.

    Args:
        scores: Logits.
        temperature: They are divided by it.
        top_k: Only so many of the likeliest; 0 for all.
        top_p: Only the likeliest that together reach this mass (Holtzman et al. 2020).
        generator: Where the random number comes from.
    """
    if temperature == 0:
        return int(scores.argmax())
    shares = torch.softmax(scores.double().cpu() / temperature, dim=0)
    if top_k and top_k < len(shares):
        floor = shares.topk(top_k).values[-1]
        shares = torch.where(shares < floor, 0.0, shares)
    if top_p < 1:
        ordered, order = shares.sort(descending=True, stable=True)
        mass = ordered.cumsum(0) / ordered.sum()
        # A token stays if those before it have not reached the mass yet.
        dropped = order[mass - ordered / ordered.sum() >= top_p]
        shares[dropped] = 0.0
    edges = shares.cumsum(0)
    at = torch.rand((), generator=generator, dtype=torch.float64) * edges[-1]
    found = torch.searchsorted(edges, at, right=True)
    return min(int(found), int(shares.nonzero()[-1]))
