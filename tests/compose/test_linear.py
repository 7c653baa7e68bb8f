"""The exact sum: laws, and numbers from a dense float64 computation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adaptrix.compose.combine import combine
from adaptrix.compose.inputs import Input
from adaptrix.compose.tensors import lazy, to_torch
from adaptrix.schema.adapter import (
    AdaptedModule,
    Adapter,
    BaseRequirement,
    ModuleKind,
    ModulePath,
    Replacement,
    ReplacementRole,
    Scale,
)
from adaptrix.schema.errors import IncompatibleAdapter, UsageError
from adaptrix.schema.report import Fidelity


def linear(pairs):
    return combine([Input(adapter=one, weight=weight) for one, weight in pairs])


SHAPES = {"m.q": (6, 5), "m.v": (4, 5), "m.fc": (7, 6)}


def tensor(value, dtype=torch.float32):
    held = value.to(dtype)
    return lazy(lambda: held, dtype=dtype, shape=tuple(value.shape), source="test")


def adapter(
    seed, *, rank=2, alpha=3.0, paths=tuple(SHAPES), rslora=False, dtype=torch.float32, **more
):
    generator = torch.Generator().manual_seed(seed)
    modules = []
    for path in sorted(paths):
        out, into = SHAPES[path]
        modules.append(
            AdaptedModule(
                path=ModulePath(path), kind=ModuleKind.LINEAR, source=path,
                a=tensor(torch.randn(rank, into, generator=generator), dtype),
                b=tensor(torch.randn(out, rank, generator=generator), dtype),
                scale=Scale.from_alpha(alpha, rank, rslora=rslora),
            )
        )  # fmt: skip
    return Adapter(
        modules=tuple(modules), family="phi", base_name="b", format="t", layout="t", **more
    )


def deltas(one):
    return {
        m.path: m.scale.value * (to_torch(m.b).double() @ to_torch(m.a).double()).numpy()
        for m in one.modules
    }


def dense_sum(pairs):
    total = {}
    for one, weight in pairs:
        for path, delta in deltas(one).items():
            total[path] = total.get(path, 0) + weight * delta
    return total


adapters = st.builds(
    adapter,
    st.integers(0, 10**6),
    rank=st.integers(1, 4),
    alpha=st.floats(0.1, 50),
    paths=st.sets(st.sampled_from(sorted(SHAPES)), min_size=1).map(tuple),
    rslora=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
)
weights = st.floats(-3, 3).filter(lambda w: abs(w) > 1e-2)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(adapters, weights), min_size=1, max_size=4))
def test_sum_equals_the_dense_float64_sum(pairs):
    result = linear(pairs)
    got, wanted = deltas(result.adapter), dense_sum(pairs)
    assert got.keys() == wanted.keys()
    size = np.sqrt(
        sum((d**2).sum() for one, w in pairs for d in (w * x for x in deltas(one).values()))
    )
    error = np.sqrt(sum(((got[p] - wanted[p]) ** 2).sum() for p in got))
    assert error <= 3e-7 * size
    norm = np.sqrt(sum((d**2).sum() for d in wanted.values()))
    if norm > 1e-3 * size:
        assert result.relative_error == pytest.approx(error / norm, rel=0.2, abs=1e-12)
    if result.fidelity is Fidelity.EXACT:
        assert error <= 1e-14 * size


@settings(max_examples=30, deadline=None)
@given(adapters, adapters, weights)
def test_laws(one, other, weight):
    alone = linear([(one, 1.0)]).adapter
    assert alone is one
    with_nothing = linear([(one, 1.0), (other, 0.0)]).adapter
    assert with_nothing is one
    forward = deltas(linear([(one, weight), (other, 1.0)]).adapter)
    backward = deltas(linear([(other, 1.0), (one, weight)]).adapter)
    for path, delta in forward.items():
        np.testing.assert_allclose(delta, backward[path], atol=1e-4, rtol=1e-5)


def test_power_of_two_ratios_are_exact_and_keep_their_bits():
    one, other = adapter(1, rank=2, alpha=4.0), adapter(2, rank=4, alpha=4.0)
    result = linear([(one, 1.0), (other, -0.5)])
    assert result.fidelity is Fidelity.EXACT
    assert result.relative_error == 0.0
    module = result.adapter.modules[0]
    assert module.rank == 6
    assert torch.equal(to_torch(module.b)[:, :2], to_torch(one.modules[0].b))


def test_bytes_are_the_same_every_time():
    pairs = [(adapter(1), 0.3), (adapter(2, rank=3), 0.7)]
    first = [bytes(t.load()) for t in linear(pairs).adapter.tensors().values()]
    again = [bytes(t.load()) for t in linear(pairs).adapter.tensors().values()]
    assert first == again


def test_bias_deltas_are_summed():
    from dataclasses import replace

    one = adapter(1, paths=("m.q",))
    biased = replace(one, modules=(replace(one.modules[0], bias_delta=tensor(torch.ones(6))),))
    module = linear([(biased, 0.5), (adapter(2, paths=("m.q",)), 1.0)]).adapter.modules[0]
    value = to_torch(module.bias_delta).double() * module.scale.value
    np.testing.assert_allclose(value.numpy(), 0.5 * one.modules[0].scale.value, rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"family": "llama"}, "base model"),
        ({"base_name": "other"}, "base model"),
        ({"base_revision": "b" * 40}, "base model"),
    ],
)
def test_other_bases_are_refused(change, where):
    from dataclasses import replace

    with pytest.raises(IncompatibleAdapter) as caught:
        linear([(adapter(1, base_revision="a" * 40), 1.0), (replace(adapter(2), **change), 1.0)])
    assert caught.value.where == where


def test_refusals_name_the_module():
    from dataclasses import replace

    one, other = adapter(1, paths=("m.q",)), adapter(2, paths=("m.v",))
    moved = replace(other, modules=(replace(other.modules[0], path=ModulePath("m.q")),))
    with pytest.raises(IncompatibleAdapter, match=r"m\.q: expected linear of shape \(6, 5\)"):
        linear([(one, 1.0), (moved, 1.0)])
    dora = replace(one, modules=(replace(one.modules[0], magnitude=tensor(torch.ones(6))),))
    with pytest.raises(IncompatibleAdapter, match="m.q: a DoRA update is not linear"):
        linear([(dora, 1.0), (other, 1.0)])
    residual = replace(one, needs_base=BaseRequirement.RESIDUAL)
    with pytest.raises(IncompatibleAdapter, match="m.q: the adapter was trained on a modified"):
        linear([(residual, 1.0), (other, 1.0)])


def replacing(one, value, *, name="lm_head.weight", role=ReplacementRole.MODULES_TO_SAVE, rows=()):
    from dataclasses import replace

    item = Replacement(parameter=name, tensor=tensor(value), role=role, rows=rows)
    return replace(one, replacements=(item,))


def test_replaced_parameters_must_not_meet():
    one, other, value = adapter(1), adapter(2), torch.ones(2, 2)
    both = [(replacing(one, value), 1.0), (replacing(other, 2 * value), 1.0)]
    with pytest.raises(IncompatibleAdapter, match="lm_head.weight: two adapters replace"):
        linear(both)
    # The same bytes twice leave nothing to choose.
    same = linear([(replacing(one, value), 1.0), (replacing(other, value), 1.0)]).adapter
    assert [item.parameter for item in same.replacements] == ["lm_head.weight"]
    with pytest.raises(IncompatibleAdapter, match="lm_head.weight: an absolute tensor"):
        linear([(replacing(one, value), 0.5), (other, 1.0)])


@pytest.mark.parametrize(
    ("role", "shapes", "rows"),
    [
        (ReplacementRole.EMBEDDING, ((5, 2), (6, 2)), ((), ())),
        (ReplacementRole.TRAINABLE_TOKENS, ((1, 2), (1, 2)), ((7,), (8,))),
    ],
)
def test_different_added_tokens_are_refused(role, shapes, rows):
    pairs = [
        (replacing(adapter(n), torch.ones(shape), name="m.embed.weight", role=role, rows=row), 1.0)
        for n, (shape, row) in enumerate(zip(shapes, rows, strict=True))
    ]
    with pytest.raises(IncompatibleAdapter, match=r"m\.embed\.weight: .*different added tokens"):
        linear(pairs)


def test_nothing_is_read_before_a_refusal():
    from dataclasses import replace

    def loud(one):
        def fail():
            raise AssertionError("read")

        return replace(one, modules=tuple(
            replace(m, a=replace(m.a, load=fail), b=replace(m.b, load=fail)) for m in one.modules
        ))  # fmt: skip

    other = replace(adapter(2), family="llama")
    for method in ("linear", "ties", "svd"):
        with pytest.raises(IncompatibleAdapter, match="families differ"):
            combine([Input(adapter=loud(adapter(1))), Input(adapter=loud(other))], method)


def test_weights_must_be_usable():
    with pytest.raises(UsageError):
        linear([(adapter(1), 0.0)])
    with pytest.raises(UsageError):
        linear([(adapter(1), float("nan"))])
