"""Every merge method, once: name, function, source, and the laws it must keep."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from adaptrix.compose.linear import Composition, linear
from adaptrix.schema.adapter import Adapter
from adaptrix.schema.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """One merge method.

    Attributes:
        name: Its name on the command line.
        combine: The function.
        summary: One line.
        reference: Where it is defined.
        laws: Laws that the contract test checks (``identity``, ``order``, ``linearity`` …).
    """

    name: str
    combine: Callable[[Sequence[tuple[Adapter, float]]], Composition]
    summary: str
    reference: str
    laws: tuple[str, ...]


METHODS: Mapping[str, Method] = {
    "linear": Method(
        name="linear",
        combine=linear,
        summary="exact weighted sum, by stacking factors; rank is the sum of the ranks",
        reference="https://arxiv.org/abs/2106.09685",
        laws=("identity", "absence", "order", "refactoring", "linearity"),
    ),
}


def method(name: str) -> Method:
    """The method called ``name``.

    Raises:
        UsageError: there is none; the message lists those there are.
    """
    if name not in METHODS:
        raise UsageError(
            f"no method {name!r}", where="--method", hint=f"Methods: {', '.join(METHODS)}."
        )
    return METHODS[name]
