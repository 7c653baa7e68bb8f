"""Every merge method keeps the laws that its row in the table claims, on every variant.

Variants: LoRA and rsLoRA, rank and alpha patterns, different ranks, different sets of
modules, biases, transposed weights (Conv1D), embeddings. Every method is tried in each of
its spaces, and after Pico.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from adaptrix.compose.combine import accepted, combine
from adaptrix.compose.inputs import Input
from adaptrix.compose.method import Coefficients
from adaptrix.compose.methods import METHODS, find, spaces
from adaptrix.schema.adapter import Scale
from adaptrix.schema.recipe import WeightRule
from adaptrix.schema.report import Fidelity

conftest = sys.modules.get("tests.conftest") or sys.modules["conftest"]
make = conftest.load_helper("compose_makers", Path(__file__).parents[1] / "compose" / "makers.py")
EVERY = (
    *METHODS,
    *(f"{name}@{space}" for name, method in METHODS.items() for space in spaces(method)[1:]),
    *("pico+linear", "pico+svd", "pico+karcher", "pico+ties", "pico+dare_ties", "pico+tsv_m"),
)
LAWS = {"identity", "absence", "order", "refactoring", "linearity"}
ONE_RANK = {f"compat:peft-{n}" for n in
            ("linear", "ties", "magnitude_prune", "dare_linear", "dare_ties")}  # fmt: skip
MEANS = {"slerp", "nuslerp", "multislerp", "karcher", "model_stock", "regmean"}


def adapters(name=""):
    ranks = st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple)
    return st.builds(
        make.adapter,
        st.integers(0, 10**6),
        ranks=st.just((3,)) if name in ONE_RANK else ranks,
        alphas=st.lists(st.floats(0.5, 20), min_size=1, max_size=3).map(tuple),
        paths=st.sets(st.sampled_from(sorted(make.SHAPES)), min_size=2).map(tuple),
        rslora=st.booleans(),
        bias=st.booleans(),
    )


def several(name):
    most = 2 if pair_only(name) else 3
    return st.lists(st.tuples(adapters(name), st.floats(0.2, 2.0)), min_size=2, max_size=most)


few = settings(max_examples=5, deadline=None)


def laws(name):
    method, space = find(name)
    # The bases of Core Space are those of the factors as they were written; Pico gives the
    # result the mean size of the updates.
    lost = {"refactoring"} if space == "core" else {"linearity"} if method.before else set()
    return set(method.laws) - lost


def pair_only(name):
    how = find(name)[0].how
    return isinstance(how, Coefficients) and how.pairs_only


def full(name):
    """Dense results need a rank; this one cuts nothing."""
    return {"rank": 64} if name.endswith("@dense") else {}


def neutral(name):
    known = accepted(*find(name))
    return full(name) | {p.name: p.neutral for p in known if p.neutral is not None}


def precision(name):
    # Dense entries are single precision, and so are PEFT's.
    return 2e-4 if name.endswith("@dense") or name in ONE_RANK else 1e-7


def merged(name, pairs, parameters=None, **more):
    parameters = full(name) if parameters is None else parameters
    return make.deltas(combine(make.inputs(*pairs), name, parameters, **more).adapter)


def wide(chosen):
    return [(make.as_float64(one), weight) for one, weight in chosen]


def dense_sum(chosen):
    dense = {}
    for one, weight in chosen:
        for path, delta in make.deltas(one).items():
            dense[path] = dense.get(path, 0) + weight * delta
    return dense


def test_the_table_is_complete_and_its_laws_are_known():
    for name, method in METHODS.items():
        assert method.name == name
        assert set(method.laws) <= LAWS
        assert {"identity", "absence"} <= set(method.laws)
        assert "order" in method.laws or name.startswith("compat:peft-dare")
        free = method.draws or name in ONE_RANK or name == "core_space"
        assert ("refactoring" in method.laws) != free
        assert find(name)[0] is method


@pytest.mark.parametrize("name", EVERY)
@few
@given(data=st.data())
def test_one_adapter_comes_back(name, data):
    one = make.as_float64(data.draw(adapters(name)))
    result = combine(make.inputs((one, 1.0)), name, neutral(name))
    assert make.distance(make.deltas(result.adapter), make.deltas(one)) <= precision(name)
    # A rule keeps the shortcut for a single adapter from being taken.
    whole = Input(adapter=one, weight=9.0, rules=(WeightRule(weight=1.0),),
                  grams=make.grams_of(one))  # fmt: skip
    result = combine([whole], name, neutral(name))
    assert make.distance(make.deltas(result.adapter), make.deltas(one)) <= precision(name)
    assert result.relative_error <= precision(name)


@pytest.mark.parametrize("name", EVERY)
@few
@given(data=st.data())
def test_weight_0_is_absence(name, data):
    pairs = data.draw(several(name))
    other = data.draw(adapters(name))
    assert make.distance(merged(name, [*pairs, (other, 0.0)]), merged(name, pairs)) == 0


@pytest.mark.parametrize("name", [n for n in EVERY if "order" in laws(n)])
@few
@given(data=st.data(), turn=st.integers(1, 2))
def test_order_does_not_matter(name, data, turn):
    pairs = wide(data.draw(several(name)))
    turned = [*pairs[turn % len(pairs) :], *pairs[: turn % len(pairs)]]
    assert make.distance(merged(name, turned), merged(name, pairs)) <= precision(name)


@pytest.mark.parametrize("name", [n for n in EVERY if "refactoring" in laws(n)])
@few
@given(data=st.data(), seed=st.integers(0, 99))
def test_how_an_adapter_is_factored_does_not_matter(name, data, seed):
    pairs = wide(data.draw(several(name)))
    again = [(make.refactored(one, seed + n), w) for n, (one, w) in enumerate(pairs)]
    assert make.distance(merged(name, again), merged(name, pairs)) <= precision(name)


@pytest.mark.parametrize("name", [n for n in EVERY if n not in ONE_RANK])
@few
@given(data=st.data())
def test_scale_is_applied_once(name, data):
    """However much of the update stands in the scale and how much in ``B``."""
    pairs = wide(data.draw(several(name)))
    parameters = neutral(name) if find(name)[0].draws else full(name)
    folded = [(make.in_scale(one), weight) for one, weight in pairs]
    got, wanted = merged(name, folded, parameters), merged(name, pairs, parameters)
    assert make.distance(got, wanted) <= precision(name)


@pytest.mark.parametrize("name", [n for n in EVERY if "linearity" in laws(n)])
@few
@given(data=st.data())
def test_linear_methods_are_linear(name, data):
    chosen = [(one, (-1) ** n * w) for n, (one, w) in enumerate(data.draw(several(name)))]
    assert make.distance(merged(name, chosen), dense_sum(chosen)) <= 1e-6


@pytest.mark.parametrize("name", ["svd", "compat:peft-svd"])
@few
@given(data=st.data(), rank=st.integers(1, 6))
def test_svd_loses_the_tail_and_nothing_at_full_rank(name, data, rank):
    chosen = [(one, (-1) ** n * w) for n, (one, w) in enumerate(wide(data.draw(several(name))))]
    exact = dense_sum(chosen)
    parts = sum(np.linalg.norm(d) for one, w in chosen for d in make.deltas(one).values())
    assume(sum(np.linalg.norm(delta) for delta in exact.values()) > 1e-3 * parts)
    whole = combine(make.inputs(*chosen), name, {"rank": 64})
    assert whole.relative_error <= 1e-7
    assert make.distance(make.deltas(whole.adapter), exact) <= 1e-7
    cut = combine(make.inputs(*chosen), name, {"rank": rank})
    lost = total = 0.0
    for path, delta in exact.items():
        if not path.endswith(".bias"):
            energies = np.linalg.svd(delta, compute_uv=False) ** 2
            lost, total = lost + energies[rank:].sum(), total + energies.sum()
    assert cut.relative_error == pytest.approx((lost / total) ** 0.5, rel=1e-6, abs=1e-7)
    assert max(cut.adapter.ranks) <= rank


@pytest.mark.parametrize("name", EVERY)
def test_rerunning_gives_the_same_bytes_and_seeds_matter_only_to_draws(name):
    ranks = ((3,), (3,)) if name in ONE_RANK else ((3, 2), (4,))
    pairs = [(make.adapter(n, ranks=r), 0.5) for n, r in enumerate(ranks)]

    def run(seed, *, noise=0, chosen=pairs):
        torch.manual_seed(noise)
        torch.rand(noise)
        made = combine(make.inputs(*chosen), name, full(name), seed=seed).adapter
        return [bytes(t.load()) for t in made.tensors().values()]

    assert run(1) == run(1, noise=7)
    assert (run(1) != run(2)) == find(name)[0].draws
    # Names and history are no part of what is drawn.
    renamed = [(replace(one, base_revision="x", format="y", layout="z"), w) for one, w in pairs]
    assert run(1, chosen=renamed) == run(1)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_error_that_is_reported_is_the_error(name, dtype):
    ranks = ((3,), (3,)) if name in ONE_RANK else ((3, 2), (4,))
    pairs = [(make.adapter(n, ranks=r, dtype=dtype), 0.6 - 0.1 * n) for n, r in enumerate(ranks)]
    result = combine(make.inputs(*pairs), name, full(name))
    exact, got = dense_sum(pairs), make.deltas(result.adapter)
    wrong = sum(((got[path] - exact[path]) ** 2).sum() for path in exact) ** 0.5
    error = wrong / sum((exact[path] ** 2).sum() for path in exact) ** 0.5
    assert result.relative_error == pytest.approx(error, rel=0.05, abs=1e-7)
    precise = {"linear", "svd", "compat:peft-cat"}
    assert (result.fidelity is Fidelity.APPROXIMATE) == (name not in precise)
    assert {m.a.dtype for m in result.adapter.modules} == {m.b.dtype for m in
                                                           result.adapter.modules}  # fmt: skip


@pytest.mark.parametrize("name", EVERY)
def test_weights_by_module_and_layer(name):
    one, two = make.as_float64(make.adapter(1)), make.as_float64(make.adapter(2))
    rules = (WeightRule(weight=0.0, layers=(1, 1)), WeightRule(weight=0.7, pattern="*.fc"))
    mixed = combine(
        [Input(adapter=one, weight=0.5, grams=make.grams_of(one)),
         Input(adapter=two, weight=0.5, rules=rules, grams=make.grams_of(two))],
        name, full(name),
    ).adapter  # fmt: skip
    plain = merged(name, [(one, 0.5), (two, 0.5)])
    got = make.deltas(mixed)
    for path in ("model.layers.0.q", "model.layers.0.v", "model.embed"):
        assert make.distance({path: got[path]}, {path: plain[path]}) <= precision(name)
    assert make.distance({"x": got["model.layers.1.q"]}, {"x": plain["model.layers.1.q"]}) > 1e-3
    other = merged(name, [(one, 0.5), (two, 0.7)])
    if name not in MEANS:
        path = "model.layers.1.fc"
        assert make.distance({path: got[path]}, {path: other[path]}) <= precision(name)


def test_scales_are_read_by_their_rule():
    """rsLoRA's √r and LoRA's r, in one sum."""
    one, two = make.adapter(1, ranks=(4,), rslora=True), make.adapter(1, ranks=(4,))
    assert one.modules[0].scale == Scale.from_alpha(3.0, 4, rslora=True)
    got = merged("linear", [(one, 1.0), (two, -2.0)])
    for path, delta in got.items():
        assert np.abs(delta).max() <= 1e-6, path
