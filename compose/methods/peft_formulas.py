"""PEFT 0.21's ``add_weighted_adapter``, formula by formula, for those who must reproduce it.

All but ``cat`` and ``svd`` work on ``A`` and on ``B`` separately, each scaled by
``√|w·s|``: the product then holds cross terms of different adapters, and the answer changes
when an adapter is written with other factors. Prefer the methods without ``compat:``. What
PEFT draws from torch's global state is drawn here from a generator that depends on the seed
and the module. PEFT scales its result by ``√r`` once more where the first adapter is rsLoRA;
that is not reproduced, and neither does anything here drop a ``lora_B.bias`` as PEFT does.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence

import torch

from adaptrix.compose.core import core_of
from adaptrix.compose.inputs import Group
from adaptrix.compose.method import Factors, Method
from adaptrix.compose.settings import DENSITY, RANK, Parameter, Settings
from adaptrix.schema.errors import IncompatibleAdapter

FREQUENCY = Parameter(
    name="frequency", summary="1: elect signs by count, 0: by sum", default=0, low=0, high=1,
    whole=True,
)  # fmt: skip
Stack = Callable[[torch.Tensor, torch.Tensor, Settings, torch.Generator], torch.Tensor]
"""From updates ``(T, …)``, weights ``(T, 1, 1)``, settings and draws to the merged factor."""


def generator(path: str, seed: int) -> torch.Generator:
    """What a module's masks are drawn from: first those of every ``A``, then of every ``B``."""
    digest = hashlib.sha256(f"peft/{seed}/{path}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def _both(stack: Stack) -> Callable[[Group, Settings], tuple[torch.Tensor, torch.Tensor]]:
    """A formula applied to the ``A`` and to the ``B`` of all adapters."""

    def merge(group: Group, settings: Settings) -> tuple[torch.Tensor, torch.Tensor]:
        ranks = sorted({share.module.rank for share in group.shares})
        if len(ranks) > 1:
            raise IncompatibleAdapter(
                f"PEFT's formula needs equal ranks, got {ranks}",
                where=group.path,
                hint="compat:peft-cat and compat:peft-svd take any; so does linear.",
            )
        # PEFT keeps adapters in float32 and works there.
        downs = torch.stack([share.down().float() for share in group.shares])
        ups = torch.stack(
            [(share.up() / share.module.scale.value).float() for share in group.shares]
        )
        roots = torch.tensor([math.sqrt(abs(share.factor)) for share in group.shares])
        signs = torch.tensor([1.0 if share.factor >= 0 else -1.0 for share in group.shares])
        draw = generator(group.path, settings.seed)
        down = stack(downs, (roots * signs)[:, None, None], settings, draw)
        up = stack(ups, roots[:, None, None], settings, draw)
        return up, down

    return merge


def _sum(
    parts: torch.Tensor, weights: torch.Tensor, _settings: Settings, _draw: torch.Generator
) -> torch.Tensor:
    return (parts * weights).sum(0)


def _greatest(part: torch.Tensor, density: float) -> torch.Tensor:
    """The ``int(density·n)`` greatest entries of a tensor of ``n``."""
    if density >= 1:
        return part
    mask = torch.zeros_like(part).flatten()
    mask[part.abs().flatten().topk(int(density * part.numel())).indices] = 1
    return part * mask.reshape(part.shape)


def _random(part: torch.Tensor, density: float, draw: torch.Generator) -> torch.Tensor:
    if density >= 1:
        return part
    return part * torch.bernoulli(torch.full_like(part, density), generator=draw) / density


def _elected(parts: torch.Tensor, weights: torch.Tensor, settings: Settings) -> torch.Tensor:
    """The sign is elected before the weights, and the mean is not weighted."""
    votes = parts.sign().sum(0) if settings["frequency"] else parts.sum(0)
    agrees = parts.sign() == torch.where(votes >= 0, 1, -1)
    return (parts * weights * agrees).sum(0) / agrees.sum(0).clamp(min=1.0)


def _magnitude(
    parts: torch.Tensor, weights: torch.Tensor, settings: Settings, _draw: torch.Generator
) -> torch.Tensor:
    kept = torch.stack([_greatest(part, settings["density"]) for part in parts])
    return (kept * weights).sum(0)


def _ties(
    parts: torch.Tensor, weights: torch.Tensor, settings: Settings, _draw: torch.Generator
) -> torch.Tensor:
    kept = torch.stack([_greatest(part, settings["density"]) for part in parts])
    return _elected(kept, weights, settings)


def _dare_linear(
    parts: torch.Tensor, weights: torch.Tensor, settings: Settings, draw: torch.Generator
) -> torch.Tensor:
    kept = torch.stack([_random(part, settings["density"], draw) for part in parts])
    return (kept * weights).sum(0)


def _dare_ties(
    parts: torch.Tensor, weights: torch.Tensor, settings: Settings, draw: torch.Generator
) -> torch.Tensor:
    kept = torch.stack([_random(part, settings["density"], draw) for part in parts])
    return _elected(kept, weights, settings)


def _cat(group: Group, _settings: Settings) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight and scale go into ``A``."""
    downs = [share.factor * share.down() for share in group.shares]
    ups = [share.up() / share.module.scale.value for share in group.shares]
    return torch.cat(ups, dim=1), torch.cat(downs)


def _svd(group: Group, settings: Settings) -> tuple[torch.Tensor, torch.Tensor]:
    """``B = U_k Σ_k``, ``A = V_kᵀ`` of the weighted sum; on its core, not densely."""
    core = core_of(group.shares)
    u, sizes, v = torch.linalg.svd(core.sum(group.weights), full_matrices=False)
    rank = int(settings.get("rank") or max(share.module.rank for share in group.shares))
    return core.left @ (u * sizes)[:, :rank], v[:rank] @ core.right.T


def _method(
    name: str,
    merge: Callable[[Group, Settings], tuple[torch.Tensor, torch.Tensor]],
    summary: str,
    laws: Sequence[str],
    parameters: tuple[Parameter, ...] = (),
    *,
    draws: bool = False,
) -> Method:
    return Method(
        name=f"compat:peft-{name}",
        how=Factors(merge=merge),
        summary=summary,
        reference="PEFT 0.21, LoraModel.add_weighted_adapter",
        laws=tuple(laws),
        parameters=parameters,
        draws=draws,
    )


_ELEMENTWISE = ("identity", "absence", "order")
METHODS = (
    _method("linear", _both(_sum), "PEFT's linear: sums A and B, cross terms included",
            _ELEMENTWISE),
    _method("cat", _cat, "PEFT's cat: the exact sum, weights in A",
            (*_ELEMENTWISE, "refactoring", "linearity")),
    _method("svd", _svd, "PEFT's svd: the best form of the greatest rank among the inputs",
            (*_ELEMENTWISE, "refactoring"), (RANK,)),
    _method("ties", _both(_ties), "PEFT's ties: on A and on B", _ELEMENTWISE,
            (DENSITY, FREQUENCY)),
    _method("dare_linear", _both(_dare_linear), "PEFT's dare_linear: on A and on B",
            ("identity", "absence"), (DENSITY,), draws=True),
    _method("dare_ties", _both(_dare_ties), "PEFT's dare_ties: on A and on B",
            ("identity", "absence"), (DENSITY, FREQUENCY), draws=True),
    _method("magnitude_prune", _both(_magnitude), "PEFT's magnitude_prune: on A and on B",
            _ELEMENTWISE, (DENSITY,)),
)  # fmt: skip
