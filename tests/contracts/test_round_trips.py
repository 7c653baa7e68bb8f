"""write ∘ read is the identity on what a format can express; all else is an error that says so."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adaptrix.convert.arrays import to_numpy_f64
from adaptrix.convert.reading import ReadOptions, read_adapter
from adaptrix.convert.source import AdapterFiles, MemorySource
from adaptrix.convert.writers.heads import HEADS, KV_HEADS
from adaptrix.convert.writing import TARGETS, write_adapter
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
from adaptrix.schema.errors import AdaptrixError
from adaptrix.schema.tensor import DType, LazyTensor

BASES = {
    "phi": {"model_type": "phi", "hidden_size": 16, "intermediate_size": 32, "vocab_size": 32,
            "num_hidden_layers": 2, "num_attention_heads": 2},
    "llama": {"model_type": "llama", "hidden_size": 16, "intermediate_size": 32, "vocab_size": 32,
              "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2},
}  # fmt: skip
DIFFUSION = {"diffusers", "kohya"}
"""Targets that have no place for a language model; tests/convert/formats holds theirs."""
LAST = {"phi": "dense", "llama": "o_proj"}
DTYPES = {DType.F32: "<u4", DType.F16: "<u2", DType.BF16: "<u2"}
ONES = {DType.F32: 0x3F000000, DType.F16: 0x3800, DType.BF16: 0x3F00}


def tensor(rng, dtype: DType, *shape: int) -> LazyTensor:
    """Finite values between 0.5 and 1 whose low bits are random."""
    low = {DType.F32: 1 << 23, DType.F16: 1 << 10, DType.BF16: 1 << 7}[dtype]
    data = (ONES[dtype] + rng.integers(0, low, shape)).astype(DTYPES[dtype]).tobytes()
    return LazyTensor(dtype=dtype, shape=shape, source="made", load=lambda: data)


@st.composite
def adapters(draw) -> Adapter:
    """Canonical adapters with everything that PEFT can say."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    family = draw(st.sampled_from(sorted(BASES)))
    dtype = draw(st.sampled_from(sorted(DTYPES)))
    even, rslora = draw(st.booleans()), draw(st.booleans())
    dora = draw(st.integers(0, 3)) == 0
    rank, alpha = draw(st.integers(1, 6)), draw(st.sampled_from((1, 4, 8, 12)))
    modules = []
    names = draw(st.sets(st.sampled_from(("q_proj", "k_proj", "v_proj", LAST[family])), min_size=1))
    for layer in range(2):
        for name in sorted(names):
            r = rank if even else draw(st.integers(1, 6))
            modules.append(AdaptedModule(
                path=ModulePath(f"model.layers.{layer}.self_attn.{name}"), kind=ModuleKind.LINEAR,
                source=name, a=tensor(rng, dtype, r, 16), b=tensor(rng, dtype, 16, r),
                scale=Scale.from_alpha(alpha, r, rslora=rslora),
                magnitude=tensor(rng, dtype, 16) if dora else None,
            ))  # fmt: skip
    replaced = ()
    if draw(st.integers(0, 3)) == 0:
        role = ReplacementRole.MODULES_TO_SAVE
        head = tensor(rng, dtype, 32, 16)
        replaced = (Replacement(parameter="lm_head.weight", tensor=head, role=role),)
    return Adapter(
        modules=tuple(sorted(modules, key=lambda m: m.path)), replacements=replaced, family=family,
        base_name=f"me/{family}", format="peft", layout="transformers",
        method="dora" if dora else "rslora" if rslora else "lora",
        needs_base=BaseRequirement.MERGE if dora else BaseRequirement.NONE,
        extra={HEADS: 2, KV_HEADS: 2},
    )  # fmt: skip


def read_back(written, family: str):
    files = {f.path: b"".join(bytes(chunk) for chunk in f.chunks()) for f in written.files}
    sources = {name: MemorySource(name, data) for name, data in files.items()}
    options = ReadOptions(base_config=BASES[family])
    return read_adapter(AdapterFiles(location="made", files=sources), options)


def delta(module: AdaptedModule) -> np.ndarray:
    return module.scale.value * to_numpy_f64(module.b) @ to_numpy_f64(module.a)


def same(one: Adapter, two: Adapter, *, by_update: bool) -> None:
    others = {module.path: module for module in two.modules}
    for module in one.modules:
        other = others.pop(module.path)
        assert other.scale.value == pytest.approx(module.scale.value, rel=1e-7)
        if by_update:
            np.testing.assert_allclose(delta(other), delta(module), rtol=1e-6)
        else:
            for left, right in ((module.a, other.a), (module.b, other.b)):
                assert (left.dtype, left.shape) == (right.dtype, right.shape)
                assert bytes(left.load()) == bytes(right.load())
        assert (other.magnitude is None) == (module.magnitude is None)
        if module.magnitude is not None:
            assert bytes(other.magnitude.load()) == bytes(module.magnitude.load())
    # A fused pair has room for the parts that the adapter lacks; they must be zero.
    assert all(not to_numpy_f64(module.b).any() for module in others.values())
    saved = {r.parameter: bytes(r.tensor.load()) for r in one.replacements}
    assert {r.parameter: bytes(r.tensor.load()) for r in two.replacements} == saved


@pytest.mark.parametrize("target", [name for name in TARGETS if name not in DIFFUSION])
def test_identity_or_an_error_that_says_why(target):
    outcomes = {"written": 0, "refused": 0}
    said: set[tuple[bool, bool]] = set()

    @settings(
        max_examples=40, deadline=None, derandomize=True, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(adapters())
    def run(adapter):
        try:
            written = write_adapter(adapter, target)
        except AdaptrixError as error:
            outcomes["refused"] += 1
            said.add((bool(error.message), bool(error.where)))
            return
        outcomes["written"] += 1
        again = read_back(written, adapter.family)
        assert again.adapter is not None, again.inspection.problems
        fused = target in {"phi-l2", "loralib", "litgpt", "mlx-npz"}
        same(adapter, again.adapter, by_update=fused)

    run()
    assert outcomes["written"], outcomes
    assert said <= {(True, True)}
