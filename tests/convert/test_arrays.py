"""Views of lazy tensors against numpy and torch."""

import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adaptrix.convert import arrays
from adaptrix.schema.errors import FormatError
from adaptrix.schema.tensor import DType, LazyTensor

WIDTHS = {DType.F64: "<u8", DType.F32: "<u4", DType.BF16: "<u2", DType.F8_E4M3: "<u1"}
FLOATS = [d for d in DType if d.is_floating]


def noise(shape, dtype=DType.BF16):
    """Random bits: NaN payloads, infinities and subnormals included."""
    size = int(np.prod(shape)) * dtype.itemsize
    raw = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)
    return arrays.from_array(raw.view(f"<u{dtype.itemsize}").reshape(shape), dtype, "noise")


def of(torch_tensor, dtype):
    raw = torch_tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return LazyTensor(dtype=dtype, shape=tuple(torch_tensor.shape), source="t", load=lambda: raw)


@pytest.mark.parametrize("dtype", list(WIDTHS))
def test_views_move_bits_unchanged(dtype):
    tensor = noise((6, 4), dtype)
    bits = arrays.bits(tensor)
    rows = np.array([5, 0, 0, 3])
    cases = {
        "transpose": (arrays.transpose(tensor), bits.T),
        "rows": (arrays.take_rows(tensor, rows), bits[rows]),
        "slice": (arrays.take_rows(tensor, slice(1, 4)), bits[1:4]),
        "open slice": (arrays.take_rows(tensor, slice(4, None)), bits[4:]),
        "empty slice": (arrays.take_rows(tensor, slice(4, 2)), bits[4:2]),
        "step": (arrays.take_rows(tensor, slice(0, None, 2)), bits[::2]),
        "backwards": (arrays.take_rows(tensor, slice(None, None, -1)), bits[::-1]),
        "columns": (arrays.take_columns(tensor, [3, 1]), bits[:, [3, 1]]),
        "column slice": (arrays.take_columns(tensor, slice(1, 3)), bits[:, 1:3]),
        "reshape": (arrays.reshape(tensor, (2, 3, 4)), bits.reshape(2, 3, 4)),
        "block": (arrays.row_blocks(tensor, 3)[1], bits[2:4]),
        "concat": (arrays.concat_rows(arrays.row_blocks(tensor, 3)), bits),
    }
    for name, (lazy, expected) in cases.items():
        assert lazy.shape == expected.shape, name
        assert lazy.dtype is dtype
        assert bytes(lazy.load()) == expected.tobytes(), name


def test_nothing_is_read_before_it_is_wanted():
    def load():
        raise AssertionError("read too early")

    tensor = LazyTensor(dtype=DType.F32, shape=(6, 4), source="t", load=load)
    arrays.transpose(arrays.concat_rows(arrays.row_blocks(tensor, 2)))
    arrays.take_columns(arrays.take_rows(tensor, [1, 2]), [0])


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 5), st.integers(0, 5), st.integers(1, 4))
def test_cutting_and_joining_gives_the_whole(rows, columns, blocks):
    tensor = noise((rows * blocks, columns))
    parts = arrays.row_blocks(tensor, blocks)
    assert bytes(arrays.concat_rows(parts).load()) == bytes(tensor.load())
    twice = arrays.transpose(arrays.transpose(tensor))
    assert bytes(twice.load()) == bytes(tensor.load())


@pytest.mark.parametrize(
    "call",
    [
        lambda t: arrays.transpose(arrays.reshape(t, (24,))),
        lambda t: arrays.take_rows(t, [6]),
        lambda t: arrays.take_rows(t, [-1]),
        lambda t: arrays.take_rows(t, np.zeros((2, 2), int)),
        lambda t: arrays.take_columns(t, [4]),
        lambda t: arrays.take_columns(arrays.reshape(t, (2, 3, 4)), [0]),
        lambda t: arrays.row_blocks(t, 5),
        lambda t: arrays.row_blocks(t, 0),
        lambda t: arrays.reshape(t, (5, 5)),
        lambda t: arrays.reshape(t, (-6, -4)),
        lambda t: arrays.concat_rows([]),
        lambda t: arrays.concat_rows([t, arrays.transpose(t)]),
        lambda t: arrays.concat_rows([t, noise((6, 4), DType.F16)]),
        lambda t: arrays.from_array(np.zeros(3, np.float32), DType.BF16, "t"),
        lambda t: arrays.bits(arrays.replace(t, shape=(7, 4))),
    ],
)
def test_shapes_that_do_not_fit_are_refused(call):
    with pytest.raises(FormatError):
        call(noise((6, 4)))


@pytest.mark.parametrize("dtype", FLOATS)
def test_values_are_those_of_torch_for_every_code(dtype):
    bits = min(dtype.itemsize, 2) * 8
    codes = np.arange(1 << bits, dtype=np.uint64) << np.uint64(8 * dtype.itemsize - bits)
    raw = codes.astype(f"<u{dtype.itemsize}")
    expected = torch.from_numpy(raw.view(np.uint8).copy()).view(getattr(torch, dtype.long_name))
    ours = arrays.to_numpy_f64(arrays.from_array(raw, dtype, "t"))
    np.testing.assert_array_equal(ours, expected.double().numpy())
    if dtype is not DType.F64:
        single = arrays.to_numpy_f32(arrays.from_array(raw, dtype, "t"))
        np.testing.assert_array_equal(single, expected.float().numpy())


def test_integers_are_exact_or_refused():
    assert arrays.to_numpy_f64(of(torch.tensor([3, -(2**53)]), DType.I64)).tolist() == [3, -(2**53)]
    with pytest.raises(FormatError):
        arrays.to_numpy_f64(of(torch.tensor([2**53 + 1]), DType.I64))
    with pytest.raises(FormatError):
        arrays.to_numpy_f32(of(torch.tensor([-(2**24) - 1], dtype=torch.int32), DType.I32))
    assert arrays.to_numpy_f32(of(torch.tensor([True, False]), DType.BOOL)).tolist() == [1, 0]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("position", [0, 70_000, 131_071])
def test_one_bad_value_is_found_wherever_it_stands(dtype, position):
    kind = getattr(torch, dtype.long_name)
    values = torch.zeros(2, 65_536, dtype=kind)
    values.view(-1).view(torch.uint8)[7 * dtype.itemsize + dtype.itemsize - 1] = 0x80  # -0
    assert arrays.is_zero(of(values, dtype))
    assert arrays.is_finite(of(values, dtype))
    bad = [float("nan")] if dtype is DType.F8_E4M3 else [float("nan"), float("inf"), -float("inf")]
    for value in bad:
        spoiled = values.float().view(-1)
        spoiled[position] = value
        spoiled = spoiled.to(kind).view(2, -1)
        assert not arrays.is_finite(of(spoiled, dtype))
        assert not arrays.is_zero(of(spoiled, dtype))
    small = values.clone().view(-1)
    small.view(torch.uint8)[position * dtype.itemsize] = 1
    assert not arrays.is_zero(of(small, dtype))
    assert arrays.is_finite(of(torch.full((3,), torch.finfo(kind).max, dtype=kind), dtype))


def test_integers_and_empty_tensors():
    negative = of(torch.tensor([0, -(2**63)]), DType.I64)
    assert arrays.is_finite(negative)
    assert not arrays.is_zero(negative)
    empty = of(torch.zeros(0, 4), DType.F32)
    assert arrays.is_finite(empty)
    assert arrays.is_zero(empty)
    assert arrays.to_numpy_f32(empty).shape == (0, 4)
    assert arrays.transpose(empty).shape == (4, 0)
    assert bytes(arrays.transpose(empty).load()) == b""


def test_42_megabytes_are_checked_well_under_100_ms():
    tensor = arrays.from_array(np.ones((2560, 4096), np.float32), DType.F32, "big")
    zeros = arrays.from_array(np.zeros((2560, 4096), np.float32), DType.F32, "big")
    times = []
    for _ in range(5):
        start = time.perf_counter()
        assert arrays.is_finite(tensor)
        assert arrays.is_zero(zeros)
        times.append(time.perf_counter() - start)
    assert min(times) < 0.1
