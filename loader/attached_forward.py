"""What an attached module computes: its own forward, and the update beside it.

Each maker returns a function that takes the place of ``module.forward``. A module's own
forward is all that is needed of it, so quantised ones work too. Replacing ``forward`` costs
a token less than a forward hook, which sends every call through the slow path.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from adaptrix.loader.stacked import Stacked
from adaptrix.schema.errors import IncompatibleAdapter

Forward = Callable[..., Any]


def adding(original: Forward, stacked: Stacked, *, rows: int | None, fresh: bool) -> Forward:
    """``y·s + shift + ((x Aᵀ) ∘ w) Bᵀ`` in the factors' dtype, handed out in that of ``y``.

    Args:
        original: What gives ``y``.
        stacked: The update.
        rows: Rows of the batch, when they differ.
        fresh: Whether ``y`` belongs to nobody else and may be changed in place.
    """
    a, b, weights = stacked.a, stacked.b, stacked.weights
    width, dtype = b.shape[1], a.dtype
    outer = _outer(stacked)

    def forward(input: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:  # noqa: A002
        output: torch.Tensor = original(input, *args, **kwargs)
        if rows is not None and (input.dim() < 3 or input.shape[0] != rows):
            raise not_by_row(input, rows)
        low = functional.linear(input if input.dtype is dtype else input.to(dtype), a)
        if weights is not None:
            low = low * weights
        total = output if output.dtype is dtype else output.to(dtype)
        if outer is not None:
            total = outer(total)
        elif total is output and not fresh:
            total = total.clone()
        if not total.is_contiguous():
            total = total.contiguous()
        total.view(-1, width).addmm_(low.view(-1, low.shape[-1]), b)
        return total if total.dtype is output.dtype else total.to(output.dtype)

    return forward


def looking_up(original: Forward, stacked: Stacked, *, rows: int | None, scale: float) -> Forward:
    """The same for an embedding, whose input are token ids ``(rows, tokens)``.

    Args:
        original: What gives ``y``.
        stacked: The update; ``A`` is ``(vocabulary, R)``.
        rows: Rows of the batch, when they differ.
        scale: What the module multiplies the looked-up row by (Gemma: ``√width``).
    """
    a, b, weights = stacked.a, stacked.b, stacked.weights
    outer = _outer(stacked)

    def forward(input: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:  # noqa: A002
        output: torch.Tensor = original(input, *args, **kwargs)
        if rows is not None and (input.dim() != 2 or input.shape[0] != rows):
            raise not_by_row(input, rows)
        low = functional.embedding(input, a)
        if weights is not None:
            low = low * weights
        total = output.to(a.dtype)
        if outer is not None:
            total = outer(total)
        return (total + (low @ b) * scale).to(output.dtype)

    return forward


def _outer(stacked: Stacked) -> Callable[[torch.Tensor], torch.Tensor] | None:
    scale, shift = stacked.row_scale, stacked.shift
    if scale is None:
        return None if shift is None else lambda output: output + shift
    if shift is None:
        return lambda output: output * scale
    return lambda output: torch.addcmul(shift, output, scale)


def overriding(
    module: nn.Module,
    original: Forward,
    sets: Sequence[Mapping[str, nn.Parameter]],
    rows: Sequence[int] | None,
) -> Forward:
    """The module with other parameters: of one set, or by row.

    Args:
        module: Whose parameters they are.
        original: Its forward.
        sets: New parameters by name, for each set; empty where the module stays as it is.
        rows: The set of each row; None when the only set holds for all.
    """
    if rows is None:
        parameters = sets[0]
        return lambda *args, **kwargs: _with(module, original, parameters, args, kwargs)
    of_set = {
        index: torch.tensor([row for row, at in enumerate(rows) if at == index])
        for index, parameters in enumerate(sets)
        if parameters
    }
    alone = len(rows)

    def forward(input: torch.Tensor, *args: Any, **kwargs: Any) -> Any:  # noqa: A002
        if input.shape[0] != alone:
            raise not_by_row(input, alone)
        output = original(input, *args, **kwargs).clone()
        for index, members in of_set.items():
            where = members.to(input.device)
            part = _with(module, original, sets[index], (input[where], *args), kwargs)
            output[where] = part.to(output.dtype)
        return output

    return forward


def _with(
    module: nn.Module,
    original: Forward,
    parameters: Mapping[str, nn.Parameter],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> Any:
    own = module._parameters
    before = {name: own[name] for name in parameters}
    try:
        own.update(parameters)
        return original(*args, **kwargs)
    finally:
        own.update(before)


def not_by_row(given: torch.Tensor, rows: int) -> IncompatibleAdapter:
    """The refusal of a module that does not see the batch's rows one by one."""
    return IncompatibleAdapter(
        f"an adapted module sees {tuple(given.shape)} instead of one entry for each of "
        f"{rows} rows, so rows with different adapters cannot be told apart",
        where="batch",
        hint="Run the rows of each set of adapters on their own.",
        code="not_by_row",
    )
