"""``compat:peft-…`` against PEFT's own ``add_weighted_adapter``, update by update."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from adaptrix.compose.combine import combine
from adaptrix.compose.inputs import Input
from adaptrix.compose.methods.peft_formulas import generator
from adaptrix.compose.tensors import held, to_torch
from adaptrix.schema.adapter import AdaptedModule, Adapter, ModuleKind, ModulePath, Scale

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
WEIGHTS = (0.7, -0.4, 1.3)
ELEMENTWISE = ("linear", "ties", "magnitude_prune", "dare_linear", "dare_ties")
DRAWN = ("dare_linear", "dare_ties")


class Base(nn.Module):
    """Linear layers of different shapes, and an embedding."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(11, 12)
        self.q = nn.Linear(12, 14)
        self.v = nn.Linear(14, 9)

    def forward(self, x):
        return self.v(self.q(self.embed(x)))


def peft_model(targets, ranks, alphas):
    torch.manual_seed(5)
    configs = [
        LoraConfig(target_modules=targets, r=rank, lora_alpha=alpha,
                   alpha_pattern={"q": 3 * alpha} if "q" in targets else {})
        for rank, alpha in zip(ranks, alphas, strict=True)
    ]  # fmt: skip
    model = get_peft_model(Base(), configs[0], adapter_name="a0")
    for index, config in enumerate(configs[1:], 1):
        model.add_adapter(f"a{index}", config)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            nn.init.normal_(parameter)
    return model


def ours(model, name):
    """The same adapter in canonical form, taken from PEFT's own tensors."""
    modules = []
    for path, layer in model.base_model.model.named_modules():
        if not hasattr(layer, "lora_A") or not hasattr(layer, "scaling"):
            continue
        embedding = name in layer.lora_embedding_A
        a = layer.lora_embedding_A[name] if embedding else layer.lora_A[name].weight
        b = layer.lora_embedding_B[name] if embedding else layer.lora_B[name].weight
        modules.append(
            AdaptedModule(
                path=ModulePath(path),
                kind=ModuleKind.EMBEDDING if embedding else ModuleKind.LINEAR,
                source=path,
                a=held(a.detach().clone(), path),
                b=held(b.detach().clone(), path),
                scale=Scale.absolute(layer.scaling[name], a.shape[0]),
            )
        )
    modules.sort(key=lambda module: module.path)
    return Adapter(modules=tuple(modules), format="peft", layout="t")


def theirs(model, combination, **more):
    names = [f"a{index}" for index in range(len(WEIGHTS))]
    model.add_weighted_adapter(names, list(WEIGHTS), "mix", combination_type=combination, **more)
    return {
        path: layer.get_delta_weight("mix").detach().double().numpy()
        for path, layer in model.base_model.model.named_modules()
        if hasattr(layer, "get_delta_weight")
    }


def merged(model, combination, parameters, seed=0):
    inputs = [
        Input(adapter=ours(model, f"a{index}"), weight=weight)
        for index, weight in enumerate(WEIGHTS)
    ]
    made = combine(inputs, f"compat:peft-{combination}", parameters, seed=seed).adapter
    found = {}
    for module in made.modules:
        delta = module.scale.value * (to_torch(module.b).double() @ to_torch(module.a).double())
        found[module.path] = (delta.T if module.kind is ModuleKind.EMBEDDING else delta).numpy()
    return found


def agree(got, wanted):
    assert got.keys() == wanted.keys()
    for path, delta in wanted.items():
        assert np.abs(delta).max() > 0.1
        assert np.abs(got[path] - delta).max() <= 1e-5 * np.abs(delta).max(), path


@pytest.mark.parametrize("combination", [c for c in ELEMENTWISE if c not in DRAWN])
@pytest.mark.parametrize("density", [0.3, 0.8, 1.0])
def test_equal_ranks(combination, density):
    model = peft_model(["q", "v", "embed"], (4, 4, 4), (8, 3, 5))
    parameters = {} if combination == "linear" else {"density": density}
    agree(merged(model, combination, parameters), theirs(model, combination, **parameters))


def test_signs_by_count():
    model = peft_model(["q", "v"], (4, 4, 4), (8, 3, 5))
    got = merged(model, "ties", {"density": 0.6, "frequency": 1})
    agree(got, theirs(model, "ties", density=0.6, majority_sign_method="frequency"))


@pytest.mark.parametrize("combination", DRAWN)
@pytest.mark.parametrize("module", ["q", "v", "embed"])
def test_masks_are_drawn_in_the_same_order(combination, module):
    model = peft_model([module], (4, 4, 4), (8, 3, 5))
    got = merged(model, combination, {"density": 0.6}, seed=3)
    # PEFT draws from torch's global state: one module, begun at our generator's seed.
    original = model.base_model.inject_adapter

    def inject(*args, **kwargs):
        original(*args, **kwargs)
        torch.manual_seed(generator(module, 3).initial_seed())

    model.base_model.inject_adapter = inject
    agree(got, theirs(model, combination, density=0.6))


@pytest.mark.parametrize(("combination", "more"), [("cat", {}), ("svd", {}), ("svd", {"rank": 2})])
def test_any_ranks(combination, more):
    model = peft_model(["q", "v", "embed"], (2, 4, 3), (8, 3, 5))
    peft_more = {"svd_rank": more["rank"]} if more else {}
    agree(merged(model, combination, more), theirs(model, combination, **peft_more))


def test_our_own_methods_are_not_pefts_where_peft_is_wrong():
    model = peft_model(["q", "v"], (4, 4, 4), (8, 3, 5))
    exact = {}
    for index, weight in enumerate(WEIGHTS):
        for module in ours(model, f"a{index}").modules:
            delta = weight * module.scale.value * (to_torch(module.b) @ to_torch(module.a))
            exact[module.path] = exact.get(module.path, 0) + delta.double().numpy()
    wrong = theirs(model, "linear")
    for path, delta in exact.items():
        assert np.linalg.norm(wrong[path] - delta) > 0.5 * np.linalg.norm(delta)
