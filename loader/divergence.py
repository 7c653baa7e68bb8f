"""How far adapters move the next token's distribution, along one and the same text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from adaptrix.loader.base import BaseModel

POSITIONS = 8


@torch.inference_mode()
def log_shares(base: BaseModel, prompt: Sequence[int], following: Sequence[int]) -> torch.Tensor:
    """Log-probabilities ``(positions, vocabulary)`` of the first tokens after ``prompt``.

    Args:
        base: The model as it is now.
        prompt: Token ids.
        following: The text along which the later positions are taken.
    """
    led = list(following[: POSITIONS - 1])
    model: Any = base.model
    ids = torch.tensor([[*prompt, *led]], device=base.device)
    logits = model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 :]
    shares: torch.Tensor = logits.double().log_softmax(-1).cpu()
    return shares


def divergence(changed: torch.Tensor, base: torch.Tensor) -> list[float]:
    """``KL(changed ‖ base)`` in nats at each position (Kullback and Leibler 1951)."""
    terms = changed.exp() * (changed - base)
    # A share of 0 contributes nothing, whatever the other one is.
    terms = torch.where(changed.exp() == 0, 0.0, terms)
    found: list[float] = terms.sum(-1).clamp_min(0.0).tolist()
    return found
