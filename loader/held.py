"""Modules that hold narrow weights and compute in a wider type, tile by tile.

A float16 base on a CPU keeps its weights as the file has them and computes in float32:
each tile of rows is widened into a scratch that stays in cache and multiplied there. That
reads half the bytes of float32 weights from memory and takes none of their space, and
activations lose nothing. See docs/decisions/0003-cpu-float16.md for the figures.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

from adaptrix.loader.workers import scratch, workers

SPLIT_ABOVE = 1 << 20
"""Elements above which a weight is worth several threads."""

TILE_ELEMENTS = 1 << 20
"""Elements that are widened at once: one scratch is all that this needs, and fewer, longer
products end sooner than many that fit a nearer cache."""


class HeldLinear(nn.Linear):
    """A linear layer whose weight may be narrower than what it computes in."""

    compute_dtype: torch.dtype

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 (torch's name)
        """``x Wᵀ + b`` in :attr:`compute_dtype`.

        Args:
            input: ``(…, in)``.
        """
        x = input.to(self.compute_dtype)
        bias = None if self.bias is None else self.bias.to(self.compute_dtype)
        if self.weight.dtype == self.compute_dtype:
            return nn.functional.linear(x, self.weight, bias)
        if self.weight.numel() <= SPLIT_ABOVE or self.weight.device.type != "cpu":
            return nn.functional.linear(x, self.weight.to(self.compute_dtype), bias)
        out = widened_product(x.reshape(-1, x.shape[-1]), self.weight)
        if bias is not None:
            out += bias
        return out.reshape(*x.shape[:-1], out.shape[-1])


class HeldEmbedding(nn.Embedding):
    """An embedding whose rows are widened when they are looked up."""

    compute_dtype: torch.dtype

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 (torch's name)
        """Rows of the weight, in :attr:`compute_dtype`."""
        return super().forward(input).to(self.compute_dtype)


def widened_product(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """``x Wᵀ`` with ``W`` widened tile by tile.

    Args:
        x: ``(n, in)``.
        weight: ``(out, in)``, contiguous, of a narrower type.

    Returns:
        ``(n, out)`` in the type of ``x``.
    """
    rows = weight.shape[0]
    out = torch.empty(len(x), rows, dtype=x.dtype)
    pool = workers()
    share = -(-rows // pool.count)
    pool.run(
        [
            partial(_rows, x, weight, out, first, min(first + share, rows))
            for first in range(0, rows, share)
        ]
    )
    return out


def _rows(x: torch.Tensor, weight: torch.Tensor, out: torch.Tensor, first: int, end: int) -> None:
    width = weight.shape[1]
    step = max(1, TILE_ELEMENTS // width)
    room = scratch(0, x.dtype, max(width, TILE_ELEMENTS))
    for begin in range(first, end, step):
        stop = min(begin + step, end)
        tile = room[: (stop - begin) * width].view(stop - begin, width)
        tile.copy_(weight[begin:stop])
        if len(x) == 1:
            torch.mv(tile, x[0], out=out[0, begin:stop])
        else:
            torch.mm(x, tile.T, out=out[:, begin:stop])


def hold(model: nn.Module, compute: torch.dtype) -> None:
    """Make ``model`` compute in ``compute`` while large weights keep their own type.

    Linear layers and embeddings of the plain classes keep theirs; everything else (norms,
    biases, other layers) is small or unknown, and is widened.
    """
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = HeldLinear
        elif type(module) is nn.Embedding:
            module.__class__ = HeldEmbedding
        if isinstance(module, HeldLinear | HeldEmbedding):
            module.compute_dtype = compute
        for name, value in module._parameters.items():
            keeps = name == "weight" and isinstance(module, HeldLinear | HeldEmbedding)
            if value is not None and value.is_floating_point() and not keeps:
                value.data = value.data.to(compute)
        for name, buffer in module._buffers.items():
            if buffer is not None and buffer.is_floating_point():
                module._buffers[name] = buffer.to(compute)
