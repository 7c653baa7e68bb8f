"""Every merge method keeps the laws that its row in the table claims, on every variant."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adaptrix.compose.combine import combine
from adaptrix.compose.inputs import Input
from adaptrix.compose.method import Coefficients
from adaptrix.compose.methods import METHODS, find
from adaptrix.schema.recipe import WeightRule
from adaptrix.schema.report import Fidelity

conftest = sys.modules.get("tests.conftest") or sys.modules["conftest"]
make = conftest.load_helper("compose_makers", Path(__file__).parents[1] / "compose" / "makers.py")
EVERY = sorted(METHODS)
LAWS = {"identity", "absence", "order", "refactoring", "linearity"}
adapters = st.builds(
    make.adapter,
    st.integers(0, 10**6),
    ranks=st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple),
    alpha=st.floats(0.5, 20),
    paths=st.sets(st.sampled_from(sorted(make.SHAPES)), min_size=2).map(tuple),
    rslora=st.booleans(),
    bias=st.booleans(),
)
weights = st.floats(0.2, 2.0)
few = settings(max_examples=12, deadline=None)


def neutral(name):
    return {p.name: p.neutral for p in METHODS[name].parameters if p.neutral is not None}


def pair_only(name):
    how = METHODS[name].how
    return isinstance(how, Coefficients) and how.pairs_only


def merged(name, pairs, **more):
    return make.deltas(combine(make.inputs(*pairs), name, **more).adapter)


def test_the_table_is_complete_and_its_laws_are_known():
    for name, method in METHODS.items():
        assert method.name == name
        assert set(method.laws) <= LAWS
        assert {"identity", "absence", "order"} <= set(method.laws)
        assert "refactoring" in method.laws or method.draws
        assert find(name)[0] is method


@pytest.mark.parametrize("name", EVERY)
@few
@given(one=adapters)
def test_one_adapter_comes_back(name, one):
    result = combine(make.inputs((one, 1.0)), name, neutral(name))
    assert result.relative_error <= 1e-6
    assert make.distance(make.deltas(result.adapter), make.deltas(one)) <= 1e-6


@pytest.mark.parametrize("name", EVERY)
@few
@given(one=adapters, two=adapters, other=adapters, weight=weights)
def test_weight_0_is_absence(name, one, two, other, weight):
    pairs = [(one, weight), (two, 1.0)]
    assert make.distance(merged(name, [*pairs, (other, 0.0)]), merged(name, pairs)) == 0


@pytest.mark.parametrize("name", EVERY)
@few
@given(
    chosen=st.lists(st.tuples(adapters, weights), min_size=2, max_size=3), turn=st.integers(1, 2)
)
def test_order_does_not_matter(name, chosen, turn):
    pairs = [(make.as_float64(one), w) for one, w in chosen][: 2 if pair_only(name) else 3]
    turned = [*pairs[turn % len(pairs) :], *pairs[: turn % len(pairs)]]
    assert make.distance(merged(name, turned), merged(name, pairs)) <= 1e-8


@pytest.mark.parametrize("name", [n for n in EVERY if "refactoring" in METHODS[n].laws])
@few
@given(
    chosen=st.lists(st.tuples(adapters, weights), min_size=2, max_size=3), seed=st.integers(0, 99)
)
def test_how_an_adapter_is_factored_does_not_matter(name, chosen, seed):
    pairs = [(make.as_float64(one), w) for one, w in chosen][: 2 if pair_only(name) else 3]
    again = [(make.refactored(one, seed + n), w) for n, (one, w) in enumerate(pairs)]
    assert make.distance(merged(name, again), merged(name, pairs)) <= 1e-7


@pytest.mark.parametrize("name", [n for n in EVERY if "linearity" in METHODS[n].laws])
@few
@given(chosen=st.lists(st.tuples(adapters, weights), min_size=2, max_size=4))
def test_linear_methods_are_linear(name, chosen):
    dense = {}
    for one, weight in chosen:
        for path, delta in make.deltas(one).items():
            dense[path] = dense.get(path, 0) + weight * delta
    assert make.distance(merged(name, chosen), dense) <= 1e-6


@pytest.mark.parametrize("name", EVERY)
def test_rerunning_gives_the_same_bytes_and_seeds_matter_only_to_draws(name):
    pairs = [(make.adapter(1, ranks=(3, 2)), 0.6), (make.adapter(2, ranks=(4,)), 0.4)]

    def run(seed):
        made = combine(make.inputs(*pairs), name, seed=seed).adapter
        return [bytes(t.load()) for t in made.tensors().values()]

    assert run(1) == run(1)
    assert (run(1) != run(2)) == METHODS[name].draws


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_error_that_is_reported_is_the_error(name, dtype):
    pairs = [
        (make.adapter(1, ranks=(3, 2), dtype=dtype), 0.6),
        (make.adapter(2, ranks=(4,), dtype=dtype), 0.5),
    ]
    result = combine(make.inputs(*pairs), name)
    exact = {}
    for one, weight in pairs:
        for path, delta in make.deltas(one).items():
            exact[path] = exact.get(path, 0) + weight * delta
    got = make.deltas(result.adapter)
    wrong = sum(((got[path] - exact[path]) ** 2).sum() for path in exact) ** 0.5
    error = wrong / sum((exact[path] ** 2).sum() for path in exact) ** 0.5
    assert result.relative_error == pytest.approx(error, rel=0.05, abs=1e-7)
    assert (result.fidelity is Fidelity.APPROXIMATE) == (name not in {"linear", "svd"})
    widest = {m.a.dtype for m in result.adapter.modules}
    assert len(widest) == 1


@pytest.mark.parametrize("name", EVERY)
def test_weights_by_module_and_layer(name):
    one, two = make.as_float64(make.adapter(1)), make.as_float64(make.adapter(2))
    rules = (WeightRule(weight=0.0, layers=(1, 1)), WeightRule(weight=0.7, pattern="*.fc"))
    mixed = combine([Input(adapter=one, weight=0.5), Input(adapter=two, weight=0.5, rules=rules)],
                    name).adapter  # fmt: skip
    plain = merged(name, [(one, 0.5), (two, 0.5)])
    got = make.deltas(mixed)
    for path in ("model.layers.0.q", "model.layers.0.v", "model.embed"):
        assert make.distance({path: got[path]}, {path: plain[path]}) <= 1e-9
    assert make.distance({"x": got["model.layers.1.q"]}, {"x": plain["model.layers.1.q"]}) > 1e-3
    other = merged(name, [(one, 0.5), (two, 0.7)])
    if name not in {"slerp", "nuslerp", "multislerp", "karcher", "model_stock"}:
        path = "model.layers.1.fc"
        assert make.distance({path: got[path]}, {path: other[path]}) <= 1e-9
