"""The fused update against dense float64: many tiles, every orientation, and in halves."""

from __future__ import annotations

import math
import threading
from dataclasses import replace

import pytest
import torch

from adaptrix.loader.device import merge_on_device, split, split_pair
from adaptrix.loader.factors import FusedFactors
from adaptrix.loader.held import widened_product
from adaptrix.loader.tiles import MEASURED_TILES, merge_tiles
from adaptrix.loader.workers import SCRATCH_ELEMENTS, Workers, scratch, workers

# 2600 rows of 1000 are several tiles, the last one shorter.
ROWS, COLUMNS, RANK = 2600, 1000, 12


def case(*, transposed=False, dora=False, scale=1e-2, dtype=torch.float32):
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(ROWS, COLUMNS, generator=generator) * 0.02
    out, into = (COLUMNS, ROWS) if transposed else (ROWS, COLUMNS)
    a = torch.randn(RANK, into, generator=generator) * scale
    b = torch.randn(out, RANK, generator=generator) * scale
    magnitude = torch.rand(out, generator=generator) + 0.5 if dora else None
    factors = FusedFactors(
        a=a.to(dtype), b=b.to(dtype), bias=None, transposed=transposed,
        magnitude=None if magnitude is None else magnitude.to(dtype),
    )  # fmt: skip
    total = weight.half().double() + (
        (b.double() @ a.double()).T if transposed else b.double() @ a.double()
    )
    if magnitude is not None:
        along = 0 if transposed else 1
        total *= (magnitude.double() / total.norm(dim=along)).unsqueeze(along)
    return weight.half(), factors, total


@pytest.mark.parametrize("run", [merge_tiles, merge_on_device])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("dora", [False, True])
def test_update_is_the_dense_sum_rounded_once(run, transposed, dora):
    weight, factors, exact = case(transposed=transposed, dora=dora)
    before = weight.clone()
    into = torch.empty_like(weight)
    arrived = run(weight, into, factors, torch.float16)
    assert torch.equal(weight, before)
    assert (into != exact.half()).float().mean() < 2e-3
    step = torch.finfo(torch.float16).eps * exact.abs() + 2.0**-24
    assert bool(((into.double() - exact).abs() <= 0.501 * step).all())
    wanted, actual = exact - before.double(), into.double() - before.double()
    assert arrived.changed
    assert arrived.expected_norm == pytest.approx(float(wanted.norm()), rel=1e-4)
    assert arrived.error == pytest.approx(float((actual - wanted).norm()), rel=1e-2)
    survival = float((actual * wanted).sum() / wanted.square().sum())
    assert arrived.survival == pytest.approx(survival, abs=1e-4)


def test_float64_is_added_in_float64():
    weight, factors, exact = case(dtype=torch.float64)
    into = torch.empty(ROWS, COLUMNS, dtype=torch.float64)
    merge_tiles(weight, into, factors, torch.float64)
    assert (into - exact).abs().max() <= 1e-17


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("scale", [1e-6, 1e-2, 1e4])
def test_halves_carry_what_float32_holds(dtype, scale):
    _, factors, _ = case(scale=scale)
    left, right = factors.pair()
    one, two, unit = split_pair(left, right, dtype)
    assert one.dtype is two.dtype is dtype
    exact = left.double() @ right.double()
    got = unit * (one.double() @ two.double())
    # 2^-22 of each factor with float16, 2^-16 with bfloat16.
    bound = 2.0 ** (-19 if dtype is torch.float16 else -14)
    assert (got - exact).norm() <= bound * exact.norm()
    high, _, own = split(left, dtype)
    assert (own * high.double() @ right.double() - exact).norm() > bound * exact.norm()


def test_halves_of_nothing():
    high, low, unit = split(torch.zeros(3, 2), torch.float16)
    assert unit == 1
    assert not high.any()
    assert not low.any()


def large(rows=4000, columns=1000, scale=1e-2):
    generator = torch.Generator().manual_seed(5)
    weight = (torch.randn(rows, columns, generator=generator) * 0.02).half()
    a = torch.randn(RANK, columns, generator=generator) * scale
    b = torch.randn(rows, RANK, generator=generator) * scale
    return weight, FusedFactors(a=a, b=b, bias=None, magnitude=None, transposed=False)


def test_a_large_weight_is_measured_in_part_and_merged_in_whole():
    weight, factors = large(scale=3e-3)
    assert weight.numel() // SCRATCH_ELEMENTS > 2 * MEASURED_TILES
    into = torch.empty_like(weight)
    arrived = merge_tiles(weight, into, factors, torch.float16)
    wanted = factors.b.double() @ factors.a.double()
    exact = weight.double() + wanted
    step = torch.exp2(exact.abs().clamp_min(2.0**-14).log2().floor()) * 2.0**-10
    assert ((into.double() - exact).abs() <= 0.51 * step).all()
    error = (into.double() - weight.double()) - wanted
    survival = 1 + float((error * wanted).sum() / wanted.square().sum())
    assert arrived.expected_norm == pytest.approx(float(wanted.norm()), rel=1e-5)
    assert arrived.error == pytest.approx(float(error.norm()), rel=5e-3)
    assert arrived.survival == pytest.approx(survival, abs=2e-3)
    assert arrived.changed


def test_one_weight_that_overflows_is_seen_wherever_it_is():
    weight, factors = large()
    for row in (0, 270, 1900, 3999):
        b = factors.b.clone()
        b[row] = 1e9
        into = torch.empty_like(weight)
        arrived = merge_tiles(weight, into, replace(factors, b=b), torch.float16)
        assert not into[row].isfinite().all()
        assert not math.isfinite(arrived.error), row


def test_finite_weights_whose_sum_overflows_are_finite():
    weight, factors = large()
    weight = weight.abs() + 50
    arrived = merge_tiles(weight, torch.empty_like(weight), factors, torch.float16)
    assert not weight[:200].sum().isfinite()
    assert math.isfinite(arrived.error)


def test_adapters_that_cancel_each_other_plan_nothing():
    for seed in range(8):
        generator = torch.Generator().manual_seed(seed)
        a = torch.randn(5, 300, generator=generator)
        b = torch.randn(200, 5, generator=generator)
        factors = FusedFactors(
            a=torch.cat((a, a)), b=torch.cat((b, -b), 1),
            bias=None, magnitude=None, transposed=False,
        )  # fmt: skip
        weight = torch.randn(200, 300, generator=generator).half()
        into = torch.empty_like(weight)
        arrived = merge_tiles(weight, into, factors, torch.float16)
        assert arrived.expected_norm == 0
        assert (into - weight).abs().max() <= 2e-3


def test_an_update_of_a_few_rows_is_measured_where_it_is():
    weight, factors = large()
    b = torch.zeros_like(factors.b)
    b[300:310] = factors.b[300:310]
    # So little elsewhere that rounding loses it.
    b[310:] = factors.b[310:] * 1e-7
    into = torch.empty_like(weight)
    arrived = merge_tiles(weight, into, replace(factors, b=b), torch.float16)
    assert arrived.changed
    assert arrived.survival == pytest.approx(1, abs=0.05)
    assert torch.equal(into[:300], weight[:300])
    assert not torch.equal(into[300:310], weight[300:310])


@pytest.mark.parametrize("rows", [1, 3])
def test_widened_product_is_the_float32_product(rows):
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(3 * SCRATCH_ELEMENTS // 1000, 1000, generator=generator).half()
    x = torch.randn(rows, 1000, generator=generator)
    exact = x.double() @ weight.double().T
    got = widened_product(x, weight)
    assert got.dtype is torch.float32
    assert (got - exact).abs().max() <= 1e-6 * exact.abs().max()


def test_workers_keep_order_and_the_callers_threads():
    before = torch.get_num_threads()
    pool = Workers(3)
    assert pool.run([lambda n=n: n for n in range(20)]) == list(range(20))
    assert set(pool.run([torch.get_num_threads] * 6)) == {1}
    assert torch.get_num_threads() == before
    fresh = []
    thread = threading.Thread(target=lambda: fresh.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert fresh == [before]


def test_a_failing_task_ends_all_before_it_is_told():
    running, ended = [], []

    def slow():
        running.append(1)
        torch.ones(200, 200) @ torch.ones(200, 200)
        ended.append(1)

    def broken():
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        workers().run([broken, *[slow] * 30])
    assert len(running) == len(ended)


def test_scratch_made_in_inference_mode_serves_outside():
    with torch.inference_mode():
        room = scratch(7, torch.float32)
        room.fill_(1)
    scratch(7, torch.float32).fill_(2)
    assert room[0] == 2
