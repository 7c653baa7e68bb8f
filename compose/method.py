"""What a merge method is. Each lives in a file of its own under ``compose/methods``.

A method sees one module at a time: the updates ``ΔW_t`` of the adapters that have it, with
scales folded in, and their weights. Five kinds differ in what they need to see of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from adaptrix.compose.core import Core
from adaptrix.compose.elements import Elements
from adaptrix.compose.inputs import Group
from adaptrix.compose.settings import Parameter, Settings

SPACES = ("canonical", "core", "dense")
"""Where entries are looked at; the first is the default."""
Apply = Callable[[list[torch.Tensor]], torch.Tensor]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Product:
    """An update as ``left · middle · rightᵀ``, with orthonormal ``left`` and ``right``.

    Attributes:
        left: ``(out, p)``.
        middle: ``(p, q)``.
        right: ``(in, q)``; None stands for the identity.
        total: The exact weighted sum ``(p, q)`` in the same bases; None where these do not
            hold it.
    """

    left: torch.Tensor
    middle: torch.Tensor
    right: torch.Tensor | None
    total: torch.Tensor | None = None


def product(core: Core, middle: torch.Tensor, weights: tuple[float, ...]) -> Product:
    """A merged core in the bases of ``core``."""
    return Product(left=core.left, middle=middle, right=core.right, total=core.sum(weights))


@dataclass(frozen=True, slots=True, kw_only=True)
class Exact:
    """The weighted sum itself; nothing is computed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Coefficients:
    """The result is ``Σ cₜ ΔW_t``: exact by stacking factors.

    Attributes:
        find: From the inner products ``(T, T)`` of the updates to ``c``.
        pairs_only: Whether it is defined for two adapters only.
    """

    find: Callable[[torch.Tensor, Group, Settings], Sequence[float]]
    pairs_only: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Cores:
    """Done on the small cores.

    Attributes:
        merge: From the core and the weights to the merged update.
        of_one: Whether it changes a module that a single adapter has; otherwise that one is
            weighted as it stands.
    """

    merge: Callable[[Core, tuple[float, ...], Settings], Product]
    of_one: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Entries:
    """Done entry by entry, in a basis or densely.

    Attributes:
        spaces: Where entries may be looked at; the first is the default.
        begin: Looks at the entries as often as it needs and returns a function that starts a
            pass; a pass maps each block of T updates to the merged block.
    """

    begin: Callable[[Elements, tuple[float, ...], Settings], Callable[[], Apply]]
    spaces: tuple[str, ...] = SPACES


@dataclass(frozen=True, slots=True, kw_only=True)
class Factors:
    """Done on the factors as they stand.

    Attributes:
        merge: From the module's shares to ``B (out, k)`` and ``A (k, in)``.
        mean: Whether the result is a mean of the updates rather than a sum; biases follow.
        needs_grams: Whether it needs the Gram matrices of the module's inputs.
    """

    merge: Callable[[Group, Settings], tuple[torch.Tensor, torch.Tensor]]
    mean: bool = False
    needs_grams: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """One merge method.

    Attributes:
        name: Its name on the command line.
        how: What it does.
        summary: One line.
        reference: Where it is defined.
        laws: Laws that the contract test checks: ``identity`` (one adapter with weight 1
            comes back, at neutral parameters), ``absence`` (weight 0 is as if it were not
            there), ``order``, ``refactoring`` (``(BG)(G⁻¹A)`` is the same adapter),
            ``linearity``.
        parameters: What can be set.
        draws: Whether it draws random numbers.
        before: What is done to the canonical core first; the result then has the mean size
            of the updates.
    """

    name: str
    how: Exact | Coefficients | Cores | Entries | Factors
    summary: str
    reference: str
    laws: tuple[str, ...]
    parameters: tuple[Parameter, ...] = ()
    draws: bool = False
    before: Callable[[Core], Core] | None = None
