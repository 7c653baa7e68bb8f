"""Fused and divided projections: every form's rows against the class, in dense float64."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from adaptrix.convert.arrays import from_array, to_numpy_f64
from adaptrix.convert.draft import Factors
from adaptrix.convert.layouts.forms import FORMS, relatives
from adaptrix.convert.layouts.relayout import relayout, source_form
from adaptrix.convert.layouts.row_orders import Heads, part_rows
from adaptrix.convert.reading import read_adapter
from adaptrix.convert.source import open_path
from adaptrix.convert.writing import write_adapter
from adaptrix.schema.adapter import Scale
from adaptrix.schema.errors import Refused, UsageError
from adaptrix.schema.tensor import DType

HIDDEN, HEADS, GROUPS, SIZE, WIDE = 32, 4, 2, 8, 48
_GROUPS_OF = {"gpt_neox": HEADS, "gpt_neox_japanese": HEADS, "bloom": HEADS, "persimmon": HEADS,
              "codegen": HEADS, "gpt2": HEADS, "mpt": HEADS, "modernbert": HEADS, "qwen": HEADS,
              "baichuan": HEADS}  # fmt: skip
FUSED = [
    (name, tail) for name, form in FORMS.items() for tail in form.fused
]  # fmt: skip


def heads(name):
    return Heads(heads=HEADS, groups=_GROUPS_OF.get(name, GROUPS))


def rows_of(name, fused):
    if set(fused.parts) == {"q", "k", "v"}:
        return (HEADS + 2 * heads(name).groups) * SIZE
    return 2 * WIDE


def pair(path, out, into=HIDDEN, rank=3, seed=0, alpha=5.0):
    numbers = np.random.default_rng(seed)

    def tensor(*shape):
        values = numbers.standard_normal(shape).astype("<f4")
        return from_array(values, DType.F32, path)

    return Factors(
        path=path, source=path, a=tensor(rank, into), b=tensor(out, rank),
        scale=Scale.from_alpha(alpha, rank), bias_delta=tensor(out),
    )  # fmt: skip


def delta(one):
    return one.scale.value * to_numpy_f64(one.b) @ to_numpy_f64(one.a)


def same_bytes(one, two):
    return one.path == two.path and all(
        bytes(a.load()) == bytes(b.load())
        for a, b in zip(one.tensors(), two.tensors(), strict=True)
    )


@pytest.mark.parametrize(("name", "tail"), FUSED)
def test_apart_and_back_is_the_same_pair(name, tail):
    form, fused = FORMS[name], FORMS[name].fused[tail]
    whole = pair(form.blocks[0].format(7) + tail, rows_of(name, fused))
    apart = relayout([whole], [], name, name, heads(name), apart=True)
    assert not apart.problems
    assert apart.exact
    assert [p.path for p in apart.factors] == [form.blocks[0].format(7) + t for t in fused.apart]
    rows = part_rows(fused.order, fused.parts, whole.b.shape[0], heads(name))
    assert sorted(itertools.chain(*(rows[p].tolist() for p in fused.parts))) == list(
        range(whole.b.shape[0])
    )
    for part, one in zip(fused.parts, apart.factors, strict=True):
        assert one.rank == whole.rank
        np.testing.assert_array_equal(delta(one), delta(whole)[rows[part]])
    # What was cut is found to be apart, and joined to the very same pair.
    assert source_form(name, [p.path for p in apart.factors]) == name
    back = relayout(apart.factors, [], name, name, heads(name))
    assert not back.problems
    assert same_bytes(back.factors[0], whole)
    # A copy of A that is another object, as a file has it, gives it too; unread it cannot.
    copies = [
        Factors(**{f: getattr(p, f) for f in p.__slots__} | {"a": again(p.a)})
        for p in apart.factors
    ]
    assert same_bytes(relayout(copies, [], name, name, heads(name)).factors[0], whole)
    wide = relayout(copies, [], name, name, heads(name), read=False).factors[0]
    assert wide.rank == whole.rank * len(fused.parts)
    np.testing.assert_allclose(delta(wide), delta(whole), rtol=0, atol=1e-12)


def again(tensor):
    return from_array(
        np.frombuffer(bytes(tensor.load()), "<f4").reshape(tensor.shape), DType.F32, "copy"
    )


@pytest.mark.parametrize(("name", "tail"), FUSED)
@pytest.mark.parametrize("missing", [None, 0, 1])
def test_joined_pairs_of_any_ranks(name, tail, missing):
    form, fused = FORMS[name], FORMS[name].fused[tail]
    total = rows_of(name, fused)
    rows = part_rows(fused.order, fused.parts, total, heads(name))
    block = form.blocks[0].format(3)
    pairs = {
        part: pair(block + apart, len(rows[part]), rank=2 + i, seed=i)
        for i, (part, apart) in enumerate(zip(fused.parts, fused.apart, strict=True))
        if i != missing
    }
    # One scale for all: alpha follows the rank.
    pairs = {
        p: Factors(
            **{f: getattr(v, f) for f in v.__slots__}
            | {"scale": Scale.from_alpha(0.5 * v.rank, v.rank)}
        )
        for p, v in pairs.items()
    }
    joined = relayout(list(pairs.values()), [], name, name, heads(name))
    assert not joined.problems, joined.problems
    assert joined.exact
    (whole,) = joined.factors
    assert whole.path == block + tail
    assert whole.rank == sum(p.rank for p in pairs.values())
    expected = np.zeros((total, HIDDEN))
    bias = np.zeros(total)
    for part, one in pairs.items():
        expected[rows[part]] = delta(one)
        bias[rows[part]] = to_numpy_f64(one.bias_delta)
    np.testing.assert_allclose(delta(whole), expected, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(to_numpy_f64(whole.bias_delta), bias)


def test_different_scales_are_folded_and_said():
    block = "model.layers.0."
    first = pair(block + "mlp.gate_proj", WIDE, alpha=3.0)
    second = pair(block + "mlp.up_proj", WIDE, seed=1, alpha=7.0)
    joined = relayout([first, second], [], "phi3", "phi3", heads("phi3"))
    assert not joined.exact
    expected = np.concatenate([delta(first), delta(second)])
    np.testing.assert_allclose(delta(joined.factors[0]), expected, rtol=0, atol=2e-6)
    doubled = pair(block + "mlp.up_proj", WIDE, seed=1, alpha=6.0)
    exact = relayout([first, doubled], [], "phi3", "phi3", heads("phi3"))
    assert exact.exact
    expected = np.concatenate([delta(first), delta(doubled)])
    np.testing.assert_array_equal(delta(exact.factors[0]), expected)


@pytest.mark.parametrize("name", [n for n in FORMS if relatives(n)])
def test_every_relative_and_back(name):
    """From one form to each of its kin and back: the same names, the same update."""
    form = FORMS[name]
    block = form.blocks[0].format(5)
    pairs = [
        pair(block + t, rows_of(name, f), seed=i) for i, (t, f) in enumerate(form.fused.items())
    ]
    sizes = {"q": HEADS * SIZE, "k": heads(name).groups * SIZE, "v": heads(name).groups * SIZE,
             "o": HIDDEN, "gate": WIDE, "up": WIDE, "down": HIDDEN}  # fmt: skip
    for i, (part, tail) in enumerate(form.parts.items()):
        into = {"o": HEADS * SIZE, "down": WIDE}.get(part, HIDDEN)
        pairs.append(pair(block + tail, sizes.get(part, HIDDEN), into, seed=20 + i))
    before = {p.path: p for p in pairs}
    for other in relatives(name):
        there = relayout(pairs, [], name, other, heads(name))
        assert not there.problems
        paths = [p.path for p in there.factors]
        assert source_form(other, paths) is None
        back = relayout(there.factors, [], other, name, heads(name))
        assert not back.problems
        after = {p.path: p for p in back.factors}
        assert after.keys() == before.keys()
        for path, one in after.items():
            np.testing.assert_allclose(delta(one), delta(before[path]), rtol=0, atol=1e-12)


def test_heads_that_are_not_known_are_asked_for():
    fused = pair("model.layers.0.attention.wqkv", 64)
    moved = relayout([fused], [], "internlm2", "llama", Heads())
    assert [p.code for p in moved.problems] == ["ambiguous_layout"]
    assert "--base" in moved.problems[0].hint
    # Three blocks as high as the input is wide need no heads.
    thirds = pair("model.layers.0.self_attn.W_pack", 3 * HIDDEN)
    assert len(relayout([thirds], [], "baichuan", "llama", Heads()).factors) == 3


def test_layouts_that_do_not_fit_are_refused():
    samples = Path(__file__).resolve().parents[2] / "samples" / "adapters" / "math"
    adapter = read_adapter(open_path(samples)).adapter
    with pytest.raises(UsageError, match="no layout") as usage:
        write_adapter(adapter, "peft", layout="llamma")
    assert "transformers-4" in usage.value.hint
    with pytest.raises(Refused) as refused:
        write_adapter(adapter, "peft", layout="llama")
    assert "phi-l2" in refused.value.hint
    with pytest.raises(Refused, match="nothing of phi"):
        write_adapter(adapter, "peft", layout="transformers-4")
