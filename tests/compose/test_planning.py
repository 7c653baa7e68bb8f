"""A plan's figures against dense float64."""

from __future__ import annotations

import itertools
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from adaptrix.compose.inputs import Input
from adaptrix.compose.planning import plan
from adaptrix.compose.tensors import to_torch

conftest = sys.modules.get("tests.conftest") or sys.modules["conftest"]
make = conftest.load_helper("compose_makers", Path(__file__).parent / "makers.py")
ONE, TWO, THREE = (make.adapter(seed, ranks=(3, 2)) for seed in (1, 2, 3))


def test_cosine_norms_and_loss():
    found = plan(make.inputs((ONE, 0.5), (TWO, 1.0)), rank=2)
    a, b = make.deltas(ONE), make.deltas(TWO)
    inner = sum((0.5 * a[p] * b[p]).sum() for p in a)
    norms = [sum((x**2).sum() for x in table.values()) ** 0.5 for table in (a, b)]
    row = next(row for row in found.pairs if row.where == "all")
    assert row.cosine == pytest.approx(inner / (0.5 * norms[0] * norms[1]), abs=1e-6)
    low, high = sorted((0.5 * norms[0], norms[1]))
    assert row.norm_ratio == pytest.approx(high / low, rel=1e-5)
    tails = [np.linalg.svd(0.5 * a[p] + b[p], compute_uv=False) ** 2 for p in a]
    wanted = sum(s[2:].sum() for s in tails) / sum(s.sum() for s in tails)
    assert found.loss == pytest.approx(wanted, rel=1e-5)


def test_overlap_is_that_of_the_spans():
    found = plan(make.inputs((ONE, 1.0), (TWO, 1.0)))
    shares = []
    for m, n in zip(ONE.modules, TWO.modules, strict=True):
        both = []
        for pick in (lambda x: to_torch(x.b), lambda x: to_torch(x.a).T):
            qs = [np.linalg.qr(pick(x).double().numpy())[0] for x in (m, n)]
            both.append((np.linalg.norm(qs[0].T @ qs[1]) ** 2) / min(m.rank, n.rank))
        shares.append(np.mean(both))
    row = next(row for row in found.pairs if row.where == "all")
    assert row.overlap == pytest.approx(np.mean(shares), rel=1e-4)


def test_refactoring_changes_nothing():
    one = plan(make.inputs((ONE, 1.0), (TWO, 1.0)))
    other = plan(make.inputs((make.refactored(ONE, 5), 1.0), (TWO, 1.0)))
    for row, again in zip(one.pairs, other.pairs, strict=True):
        assert again.cosine == pytest.approx(row.cosine, abs=1e-4)
        assert again.overlap == pytest.approx(row.overlap, abs=1e-4)
        assert again.sign_conflict == pytest.approx(row.sign_conflict, abs=1e-3)


def scaled(one, factor):
    return replace(
        one,
        modules=tuple(
            replace(m, b=make.tensor(factor * to_torch(m.b)), scale=m.scale) for m in one.modules
        ),
    )


def test_recommendations():
    loud = scaled(ONE, -9.0)
    assert plan(make.inputs((ONE, 1.0), (loud, 1.0))).method == "nuslerp"
    assert plan(make.inputs((ONE, 1.0), (loud, 1.0), (THREE, 1.0))).method == "karcher"
    assert plan(make.inputs((ONE, 1.0), (scaled(ONE, 1.1), 1.0))).method == "model_stock"
    against = plan(make.inputs((ONE, 1.0), (scaled(ONE, -0.9), 1.0)))
    assert against.method == "ties"
    assert set(against.at_risk) == {0, 1}
    only = make.adapter(4, paths=("model.layers.0.q",))
    apart = make.adapter(5, paths=("model.layers.0.v",))
    assert plan(make.inputs((only, 1.0), (apart, 1.0))).method == "linear"
    assert plan([Input(adapter=ONE)]).pairs == ()


def test_every_pair_is_there_for_every_class():
    found = plan(make.inputs((ONE, 1.0), (TWO, 1.0), (THREE, 1.0)))
    kinds = {"all", "q", "v", "fc", "embed"}
    wanted = set(itertools.product(((0, 1), (0, 2), (1, 2)), kinds))
    assert {((row.one, row.other), row.where) for row in found.pairs} == wanted
    assert torch.get_num_threads() >= 1
