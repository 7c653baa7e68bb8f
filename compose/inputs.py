"""What goes into a merge: adapters with weights, and their shares module by module."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from adaptrix.schema.adapter import AdaptedModule, Adapter, ModulePath
from adaptrix.schema.errors import UsageError
from adaptrix.schema.recipe import WeightRule
from adaptrix.schema.tensor import LazyTensor

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """One adapter with its weight; the last rule that fits a module wins there.

    Attributes:
        adapter: The adapter.
        weight: Its weight.
        rules: Other weights for some modules.
        grams: By module path, the Gram matrix ``XᵀX (in, in)`` of the module's inputs on the
            adapter's own task, or its diagonal ``(in,)``; for methods that ask for it.
    """

    adapter: Adapter
    weight: float = 1.0
    rules: tuple[WeightRule, ...] = ()
    grams: Mapping[str, LazyTensor] = field(default_factory=dict)

    def at(self, path: str) -> float:
        """The weight on the module at ``path``."""
        for rule in reversed(self.rules):
            if rule.fits(path):
                return rule.weight
        return self.weight

    @property
    def absent(self) -> bool:
        """Whether it takes no part anywhere."""
        return self.weight == 0 and all(rule.weight == 0 for rule in self.rules)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Share:
    """One adapter's update of one module, its weight there, and the input's index.

    Attributes:
        module: The update.
        weight: Its weight.
        owner: Index of the input.
        gram: Gram matrix of the module's inputs, or None.
    """

    module: AdaptedModule
    weight: float
    owner: int = 0
    gram: LazyTensor | None = None

    @property
    def factor(self) -> float:
        """Weight times scale: what ``B·A`` is multiplied by in the exact sum."""
        return self.weight * self.module.scale.value

    def down(self) -> torch.Tensor:
        """``A (r, in)``, float64; kernels of convolutions flattened."""
        from adaptrix.compose.tensors import to_torch  # noqa: PLC0415 - a plan needs no torch

        return to_torch(self.module.a).double().flatten(1)

    def up(self) -> torch.Tensor:
        """``s·B (out, r)``, float64, without the weight."""
        from adaptrix.compose.tensors import to_torch  # noqa: PLC0415 - a plan needs no torch

        return to_torch(self.module.b).double().flatten(1) * self.module.scale.value

    def generator(self, seed: int) -> torch.Generator:
        """Random numbers that depend on the seed, the module and the factors' bytes only."""
        import torch  # noqa: PLC0415 - a plan needs none

        digest = hashlib.sha256(f"{seed}/{self.module.path}/{self.module.scale.value!r}".encode())
        digest.update(self.module.a.load())
        digest.update(self.module.b.load())
        return torch.Generator().manual_seed(int.from_bytes(digest.digest()[:8], "big") >> 1)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Group:
    """One module of every adapter that has it with a weight other than 0.

    Attributes:
        path: The module.
        shares: In the order of the inputs.
        total: Sum of the weights of all inputs there, of those without the module too: to
            a mean, they contribute an update of zero.
        count: Number of inputs that take part anywhere.
        others: Gram matrices of the module's inputs for adapters that do not have it.
    """

    path: ModulePath
    shares: tuple[Share, ...]
    total: float
    count: int
    others: tuple[LazyTensor | None, ...] = ()

    @property
    def weights(self) -> tuple[float, ...]:
        """Weights of the shares."""
        return tuple(share.weight for share in self.shares)


def present(inputs: Sequence[Input]) -> tuple[Input, ...]:
    """The inputs that take part.

    Raises:
        UsageError: a weight is not finite, or nothing is left.
    """
    weights = [w for i in inputs for w in (i.weight, *(rule.weight for rule in i.rules))]
    if not all(math.isfinite(weight) for weight in weights):
        raise UsageError("weights must be finite numbers", where="compose")
    found = tuple(entry for entry in inputs if not entry.absent)
    if not found:
        raise UsageError("every weight is 0: nothing to combine", where="compose")
    return found


def groups(inputs: Sequence[Input]) -> tuple[Group, ...]:
    """The modules to merge, sorted by path; a module whose weights are all 0 is left out."""
    found: dict[ModulePath, list[Share]] = {}
    for index, entry in enumerate(inputs):
        for module in entry.adapter.modules:
            weight = entry.at(module.path)
            if weight != 0:
                gram = entry.grams.get(module.path)
                share = Share(module=module, weight=weight, owner=index, gram=gram)
                found.setdefault(module.path, []).append(share)
    return tuple(
        Group(
            path=path,
            shares=tuple(found[path]),
            total=sum(entry.at(path) for entry in inputs),
            count=len(inputs),
            others=_others(inputs, path, found[path]),
        )
        for path in sorted(found)
    )


def _others(
    inputs: Sequence[Input], path: str, shares: Sequence[Share]
) -> tuple[LazyTensor | None, ...]:
    here = {share.owner for share in shares}
    return tuple(
        entry.grams.get(path)
        for index, entry in enumerate(inputs)
        if index not in here and entry.at(path) != 0
    )
