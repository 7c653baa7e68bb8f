"""A plan's figures against dense float64."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from adaptrix.compose import threads
from adaptrix.compose.arrays import float32_of
from adaptrix.compose.inputs import Input
from adaptrix.compose.planning import plan
from adaptrix.compose.tensors import to_torch
from adaptrix.compose.threads import one_blas_thread

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
    assert against.method == "tsv_m"
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


def test_a_plan_needs_no_torch():
    code = "import sys; import adaptrix.registry.planning; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                          env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})  # fmt: skip
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn]
)
def test_values_without_torch_are_those_of_torch(dtype):
    value = torch.linspace(-3, 3, 24).reshape(2, 3, 4).to(dtype)
    got = float32_of(make.tensor(value, dtype))
    assert np.array_equal(got, value.float().flatten(1).numpy())


def test_numpy_multiplies_on_one_thread_within_and_as_before_after():
    switch = threads._switch()
    if switch is None:
        pytest.skip("this numpy has no OpenBLAS of its own")
    before = switch[0]()
    with one_blas_thread():
        assert switch[0]() == 1
    assert switch[0]() == before


def test_shared_factors_leave_the_root_nothing_to_divide_by():
    """The same adapter twice: no Cholesky factor, and still the same figures."""
    zero = scaled(ONE, 0.0)
    found = plan(make.inputs((ONE, 1.0), (zero, 1.0)), rank=3)
    assert found.loss == pytest.approx(0.0, abs=1e-6)
    row = next(row for row in found.pairs if row.where == "all")
    assert (row.cosine, row.sign_conflict, row.overlap) == (0.0, 0.0, pytest.approx(0.5, abs=1e-3))
