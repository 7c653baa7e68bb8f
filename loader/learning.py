"""Weights by layer, learned from a few examples with the base and all factors frozen.

CAT of LoRA Soups (Prabhakar et al. 2024, arXiv 2410.13025, equation 5):
``ΔW^l = Σ αₜ^l ΔW_t^l``, one number per adapter and layer, by gradient on the answers'
tokens. What comes out are the weights of an exact sum: a recipe, not a new kind of adapter.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from adaptrix.compose.tensors import to_torch
from adaptrix.loader.base import BaseModel
from adaptrix.loader.examples import Batch, Example, tokens_of
from adaptrix.loader.plan import LoadPlan, ModulePlan, WeightedAdapter, plan
from adaptrix.schema.adapter import ModuleKind
from adaptrix.schema.errors import IncompatibleAdapter, UsageError
from adaptrix.schema.recipe import layer_of

BATCH = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnedWeights:
    """What was learned.

    Attributes:
        weights: By adapter and layer; None stands for modules outside the layers.
        loss_before: Mean loss per answer token over all examples, at the start.
        loss_after: The same at the end.
        steps: Optimiser steps.
    """

    weights: Mapping[str, Mapping[int | None, float]]
    loss_before: float
    loss_after: float
    steps: int


def learn_weights(
    base: BaseModel,
    adapters: Sequence[WeightedAdapter],
    examples: Sequence[Example],
    *,
    steps: int = 100,
    rate: float = 0.02,
    seed: int = 0,
) -> LearnedWeights:
    """Learn one weight per adapter and layer, from the given ones on.

    Args:
        base: The frozen base.
        adapters: Adapters with the weights to start from.
        examples: Prompts with answers.
        steps: Steps of Adam, on batches of 16.
        rate: Their size.
        seed: Of the order of the examples.

    Raises:
        IncompatibleAdapter: an adapter does not fit the base, or cannot be weighted.
        UsageError: nothing to learn from.
    """
    planned = plan(base.structure, adapters, mode="attached")
    _check(planned, examples)
    keys = sorted({_key(module) for module in planned.modules})
    index = {key: number for number, key in enumerate(keys)}
    owners = {entry.name: number for number, entry in enumerate(adapters)}
    start = torch.tensor([[entry.weight] * len(keys) for entry in adapters], device=base.device)
    alphas = nn.Parameter(start.float())
    handles = []
    try:
        for module in planned.modules:
            hook = _weighing(module, alphas, index[_key(module)], owners, base.device)
            handles.append(base.model.get_submodule(module.path).register_forward_hook(hook))
        before = _mean_loss(base, examples)
        _descend(base, alphas, examples, steps=steps, rate=rate, seed=seed)
        after = _mean_loss(base, examples)
    finally:
        for handle in handles:
            handle.remove()
    learned = alphas.detach()
    return LearnedWeights(
        weights={
            entry.name: {
                None if key < 0 else key: round(float(learned[owners[entry.name], index[key]]), 6)
                for key in keys
                if any(_key(m) == key and _has(m, entry.name) for m in planned.modules)
            }
            for entry in adapters
        },
        loss_before=before,
        loss_after=after,
        steps=steps,
    )


def _check(planned: LoadPlan, examples: Sequence[Example]) -> None:
    if not examples or not all(example.answer for example in examples):
        raise UsageError("weights are learned from prompts with answers", where="examples")
    if planned.replacements:
        raise IncompatibleAdapter(
            "an absolute tensor cannot be weighted", where=planned.replacements[0][1].parameter
        )
    for module in planned.modules:
        if any(share.module.magnitude is not None for share in module.shares):
            raise IncompatibleAdapter("a DoRA update is not linear", where=module.path)


def _key(module: ModulePlan) -> int:
    layer = layer_of(module.path)
    return -1 if layer is None else layer


def _has(module: ModulePlan, owner: str) -> bool:
    return any(share.owner == owner for share in module.shares)


def _weighing(
    plan_: ModulePlan, alphas: nn.Parameter, layer: int, owners: Mapping[str, int],
    device: torch.device,
) -> Callable[..., Any]:  # fmt: skip
    """A hook that adds ``Σ αₜ·s·Bₜ(Aₜx)``."""
    parts = []
    for share in plan_.shares:
        scale = share.module.scale.value
        bias = share.module.bias_delta
        parts.append((
            owners[share.owner],
            to_torch(share.module.a).float().to(device),
            (to_torch(share.module.b).double() * scale).float().to(device),
            None if bias is None else (to_torch(bias).double() * scale).float().to(device),
        ))  # fmt: skip
    embedding = plan_.shares[0].module.kind is ModuleKind.EMBEDDING

    def hook(_module: object, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        total = output.float()
        for owner, a, b, bias in parts:
            low = nn.functional.embedding(args[0], a.T) if embedding else args[0].float() @ a.T
            update = low @ b.T
            total = total + alphas[owner, layer] * (update if bias is None else update + bias)
        return total.to(output.dtype)

    return hook


def _loss(base: BaseModel, batch: Batch) -> torch.Tensor:
    """Summed loss over the answers' tokens."""
    logits = base.model(input_ids=batch.ids, attention_mask=batch.mask, use_cache=False).logits
    return nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1).float(),
        batch.labels[:, 1:].flatten(),
        ignore_index=-100,
        reduction="sum",
    )


def _mean_loss(base: BaseModel, examples: Sequence[Example]) -> float:
    total, count = 0.0, 0
    with torch.no_grad():
        for start in range(0, len(examples), BATCH):
            batch = tokens_of(base.tokenizer, examples[start : start + BATCH], base.device)
            total += float(_loss(base, batch))
            count += int((batch.labels[:, 1:] != -100).sum())
    return total / max(1, count)


def _descend(
    base: BaseModel, alphas: nn.Parameter, examples: Sequence[Example], *, steps: int,
    rate: float, seed: int,
) -> None:  # fmt: skip
    optimiser = torch.optim.Adam([alphas], lr=rate)
    draw = torch.Generator().manual_seed(seed)
    order: list[int] = []
    for step in range(steps):
        if len(order) < BATCH:
            order += torch.randperm(len(examples), generator=draw).tolist()
        chosen, order = order[:BATCH], order[BATCH:]
        batch = tokens_of(base.tokenizer, [examples[n] for n in chosen], base.device)
        # The last steps are small ones, so that the end does not hang on the last batch.
        for group in optimiser.param_groups:
            group["lr"] = rate * 0.5 * (1 + math.cos(math.pi * step / steps))
        optimiser.zero_grad()
        loss = _loss(base, batch) / (batch.labels[:, 1:] != -100).sum().clamp(min=1)
        loss.backward()
        optimiser.step()
