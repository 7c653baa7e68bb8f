"""DoRA made plain: PEFT's own merged weight is the reference."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from adaptrix.compose.baking import BaseWeights, bake
from adaptrix.compose.combine import combine
from adaptrix.compose.tensors import held, to_torch
from adaptrix.schema.adapter import (
    AdaptedModule,
    Adapter,
    BaseRequirement,
    ModuleKind,
    ModulePath,
    Scale,
)
from adaptrix.schema.digest import Digest
from adaptrix.schema.errors import IncompatibleAdapter

conftest = sys.modules.get("tests.conftest") or sys.modules["conftest"]
make = conftest.load_helper("compose_makers", Path(__file__).parent / "makers.py")


def base_of(model):
    return BaseWeights(
        name="b", config_digest=Digest.of(b"config"),
        weight=lambda path: model[int(path)].weight.detach(),
    )  # fmt: skip


@pytest.fixture(scope="module")
def dora():
    """A trained DoRA by PEFT, in canonical form; its plain base; PEFT's change of the weight."""
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(12, 14), nn.Linear(14, 9))
    before = [layer.weight.detach().clone() for layer in plain]
    base = nn.Sequential(nn.Linear(12, 14), nn.Linear(14, 9))
    base.load_state_dict(plain.state_dict())
    model = get_peft_model(
        base, LoraConfig(target_modules=["0", "1"], r=3, lora_alpha=5, use_dora=True)
    )
    modules = []
    for name, layer in model.base_model.model.named_children():
        nn.init.normal_(layer.lora_A["default"].weight)
        nn.init.normal_(layer.lora_B["default"].weight)
        magnitude = layer.lora_magnitude_vector["default"].weight
        magnitude.data.mul_(1 + 0.2 * torch.rand_like(magnitude))
        modules.append(
            AdaptedModule(
                path=ModulePath(name), kind=ModuleKind.LINEAR, source=name,
                a=held(layer.lora_A["default"].weight.detach().clone(), name),
                b=held(layer.lora_B["default"].weight.detach().clone(), name),
                scale=Scale.from_alpha(5, 3), magnitude=held(magnitude.detach().clone(), name),
            )
        )  # fmt: skip
    model.merge_adapter()
    merged = [layer.base_layer.weight.detach() for layer in model.base_model.model]
    deltas = {
        str(n): (after - old).double().numpy()
        for n, (after, old) in enumerate(zip(merged, before, strict=True))
    }
    adapter = Adapter(modules=tuple(modules), format="peft", layout="t", method="dora",
                      needs_base=BaseRequirement.MERGE)  # fmt: skip
    return adapter, plain, deltas


def test_at_full_rank_it_is_pefts_merged_weight(dora):
    adapter, plain, wanted = dora
    baked = bake(adapter, base_of(plain), 64)
    assert baked.modules == 2
    assert baked.error <= 1e-6
    assert make.distance(make.deltas(baked.adapter), wanted) <= 1e-5
    assert baked.adapter.needs_base is BaseRequirement.NONE
    assert baked.adapter.method == "lora"


def test_below_it_the_error_is_the_tail(dora):
    adapter, plain, wanted = dora
    baked = bake(adapter, base_of(plain), 4)
    tails = [np.linalg.svd(delta, compute_uv=False) ** 2 for delta in wanted.values()]
    share = sum(tail[4:].sum() for tail in tails) / sum(tail.sum() for tail in tails)
    assert baked.error == pytest.approx(share**0.5, rel=1e-3)
    assert baked.adapter.ranks == (4,)


def test_rows_that_do_not_move_cost_nothing(dora):
    """Magnitudes that are the rows' own norms: the update is the plain one, exactly."""
    adapter, plain, _ = dora
    modules, wanted = [], {}
    for module in adapter.modules:
        weight = plain[int(module.path)].weight.detach().double()
        delta = module.scale.value * to_torch(module.b).double() @ to_torch(module.a).double()
        magnitude = (weight + delta).norm(dim=1)
        magnitude[2] *= 1.5
        wanted[module.path] = delta.numpy().copy()
        wanted[module.path][2] = (1.5 * (weight + delta) - weight)[2].numpy()
        modules.append(replace(module, magnitude=held(magnitude, module.path)))
    still = replace(adapter, modules=tuple(modules))
    baked = bake(still, base_of(plain), 4)
    assert baked.error == 0.0
    assert baked.adapter.ranks == (4,)
    assert make.distance(make.deltas(baked.adapter), wanted) <= 1e-6


def test_a_baked_adapter_composes(dora):
    adapter, plain, wanted = dora
    with pytest.raises(IncompatibleAdapter, match="0: a DoRA update is not linear"):
        combine(make.inputs((adapter, 0.5)), "linear")
    baked = bake(adapter, base_of(plain), 64).adapter
    got = make.deltas(combine(make.inputs((baked, 0.5)), "linear").adapter)
    assert make.distance(got, {path: 0.5 * delta for path, delta in wanted.items()}) <= 1e-5


def test_another_base_is_refused(dora):
    adapter, _, _ = dora
    other = nn.Sequential(nn.Linear(12, 13), nn.Linear(13, 9))
    with pytest.raises(IncompatibleAdapter, match=r"0: the base's weight is \(13, 12\)"):
        bake(adapter, base_of(other), 4)
