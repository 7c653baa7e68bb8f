"""Random adapters in every variant, and what they are densely."""

from __future__ import annotations

import numpy as np
import torch

from adaptrix.compose.inputs import Input
from adaptrix.compose.tensors import lazy, to_torch
from adaptrix.schema.adapter import AdaptedModule, Adapter, ModuleKind, ModulePath, Scale

SHAPES = {
    "model.layers.0.q": (14, 12), "model.layers.0.v": (9, 12), "model.layers.1.q": (14, 12),
    "model.layers.1.fc": (17, 14), "model.embed": (11, 20),
}  # fmt: skip
KINDS = {"model.layers.1.fc": ModuleKind.CONV1D, "model.embed": ModuleKind.EMBEDDING}


def tensor(value, dtype=torch.float32):
    kept = value.to(dtype)
    return lazy(lambda: kept, dtype=dtype, shape=tuple(value.shape), source="test")


def adapter(
    seed, *, ranks=(2,), alpha=3.0, paths=tuple(SHAPES), rslora=False, bias=False,
    dtype=torch.float32, alphas=(),
):  # fmt: skip
    alphas = alphas or (alpha,)
    generator = torch.Generator().manual_seed(seed)
    modules = []
    for index, path in enumerate(sorted(paths)):
        out, into = SHAPES[path]
        rank = ranks[index % len(ranks)]
        modules.append(
            AdaptedModule(
                path=ModulePath(path),
                kind=KINDS.get(path, ModuleKind.LINEAR),
                source=path,
                a=tensor(torch.randn(rank, into, generator=generator), dtype),
                b=tensor(torch.randn(out, rank, generator=generator), dtype),
                scale=Scale.from_alpha(alphas[index % len(alphas)], rank, rslora=rslora),
                bias_delta=tensor(torch.randn(out, generator=generator)) if bias else None,
            )
        )
    return Adapter(
        modules=tuple(modules), family="phi", base_name="b", format="t", layout="t",
        extra={"seed": seed},
    )  # fmt: skip


def refactored(one, seed):
    """The same adapter with ``(B G)(G⁻¹ A)``, in float64, so that nothing else changes."""
    generator = torch.Generator().manual_seed(seed)
    from dataclasses import replace

    modules = []
    for m in one.modules:
        mix = torch.randn(m.rank, m.rank, generator=generator).double()
        mix = mix + 3 * torch.eye(m.rank, dtype=torch.float64)
        b, a = to_torch(m.b).double() @ mix, torch.linalg.solve(mix, to_torch(m.a).double())
        modules.append(replace(m, a=tensor(a, torch.float64), b=tensor(b, torch.float64)))
    return replace(one, modules=tuple(modules))


def as_float64(one):
    """The same adapter in float64."""
    from dataclasses import replace

    return replace(
        one,
        modules=tuple(
            replace(
                m, a=tensor(to_torch(m.a), torch.float64), b=tensor(to_torch(m.b), torch.float64)
            )
            for m in one.modules
        ),
    )


def deltas(one):
    """Dense float64 updates by path, biases under ``path.bias``."""
    found = {}
    for m in one.modules:
        found[m.path] = m.scale.value * (to_torch(m.b).double() @ to_torch(m.a).double()).numpy()
        if m.bias_delta is not None:
            found[f"{m.path}.bias"] = m.scale.value * to_torch(m.bias_delta).double().numpy()
    return found


def distance(one, other):
    """Greatest difference over the greatest entry."""
    assert one.keys() == other.keys()
    size = max((np.abs(v).max() for v in other.values()), default=0.0) or 1.0
    return max(np.abs(one[path] - other[path]).max() for path in other) / size


def grams_of(one):
    """Gram matrices of random inputs of every module, the same for the same adapter."""
    generator = torch.Generator().manual_seed(int(one.extra.get("seed", 0)))
    found = {}
    for path, (_, into) in SHAPES.items():
        if KINDS.get(path) is ModuleKind.EMBEDDING:
            counts = torch.randint(0, 5, (into,), generator=generator).double()
            found[path] = tensor(counts, torch.float64)
        else:
            seen = torch.randn(3 * into, into, generator=generator).double()
            found[path] = tensor(seen.T @ seen, torch.float64)
    return found


def inputs(*pairs):
    return [Input(adapter=one, weight=weight, grams=grams_of(one)) for one, weight in pairs]


def in_scale(one):
    """The same adapter with every scale folded into ``B``, and written as 1."""
    from dataclasses import replace

    return replace(
        one,
        modules=tuple(
            replace(
                m,
                b=tensor(to_torch(m.b).double() * m.scale.value, torch.float64),
                scale=Scale.absolute(1.0, m.rank),
                bias_delta=m.bias_delta
                and tensor(to_torch(m.bias_delta).double() * m.scale.value, torch.float64),
            )
            for m in one.modules
        ),
    )
