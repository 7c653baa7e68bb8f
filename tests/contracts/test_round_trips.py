"""write ∘ read is the identity on what a format can express; all else is an error that says so.

Adapters are drawn over every family that some target names otherwise (fused, transposed,
interleaved), with ranks, alphas and element types that differ by module, DoRA, biases,
embeddings and absolute tensors; experts and diffusion pipelines have strategies of their own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adaptrix.convert.arrays import to_numpy_f64
from adaptrix.convert.reading import ReadOptions, read_adapter
from adaptrix.convert.source import AdapterFiles, MemorySource
from adaptrix.convert.writers.heads import HEADS, KV_HEADS
from adaptrix.convert.writers.peft_experts import EXPERTS
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
from adaptrix.schema.report import Fidelity
from adaptrix.schema.tensor import DType, LazyTensor

WIDTH, INNER, WORDS, LAYERS, QUERY, GROUPS = 16, 32, 24, 2, 4, 2
NARROW = WIDTH * GROUPS // QUERY
COMMON = {"hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": QUERY,
          "vocab_size": WORDS, "intermediate_size": INNER}  # fmt: skip


@dataclass(frozen=True)
class Base:
    """A tiny base: its settings, its block's linear layers as ``(out, in)``, the others' names."""

    config: dict[str, object]
    block: str
    shapes: dict[str, tuple[int, int]]
    embedding: str = "model.embed_tokens"
    head: str = "lm_head"
    groups: int = QUERY
    biases: bool = False
    kind: ModuleKind = ModuleKind.LINEAR


def square(*names: str) -> dict[str, tuple[int, int]]:
    return dict.fromkeys(names, (WIDTH, WIDTH))


def projections(prefix: str, rows: int = WIDTH, last: str = "o_proj") -> dict[str, tuple[int, int]]:
    narrow = dict.fromkeys((f"{prefix}.k_proj", f"{prefix}.v_proj"), (rows, WIDTH))
    return {**square(f"{prefix}.q_proj", f"{prefix}.{last}"), **narrow}


GATED = {"mlp.gate_proj": (INNER, WIDTH), "mlp.up_proj": (INNER, WIDTH), "mlp.down_proj": (WIDTH, INNER)}  # fmt: skip
DENSE = {"mlp.dense_h_to_4h": (4 * WIDTH, WIDTH), "mlp.dense_4h_to_h": (WIDTH, 4 * WIDTH)}
LLAMA = Base({**COMMON, "num_key_value_heads": GROUPS}, "model.layers.{}.",
             {**projections("self_attn", NARROW), **GATED}, groups=GROUPS)  # fmt: skip
BASES = {
    "phi": Base(COMMON, "model.layers.{}.",
                {**projections("self_attn", last="dense"), "mlp.fc1": (INNER, WIDTH), "mlp.fc2": (WIDTH, INNER)},
                biases=True),
    "llama": LLAMA, "qwen2": LLAMA, "gemma": Base({**LLAMA.config, "head_dim": 4}, LLAMA.block, LLAMA.shapes, groups=GROUPS),
    "phi3": Base({**COMMON, "num_key_value_heads": GROUPS}, "model.layers.{}.",
                 {"self_attn.qkv_proj": (WIDTH + 2 * NARROW, WIDTH), "self_attn.o_proj": (WIDTH, WIDTH),
                  "mlp.gate_up_proj": (2 * INNER, WIDTH), "mlp.down_proj": (WIDTH, INNER)}, groups=GROUPS),
    "gpt2": Base({"n_embd": WIDTH, "n_layer": LAYERS, "n_head": QUERY, "vocab_size": WORDS}, "transformer.h.{}.",
                 {"attn.c_attn": (3 * WIDTH, WIDTH), "attn.c_proj": (WIDTH, WIDTH),
                  "mlp.c_fc": (4 * WIDTH, WIDTH), "mlp.c_proj": (WIDTH, 4 * WIDTH)},
                 embedding="transformer.wte", biases=True, kind=ModuleKind.CONV1D),
    "bloom": Base({"hidden_size": WIDTH, "n_layer": LAYERS, "n_head": QUERY, "vocab_size": WORDS}, "transformer.h.{}.",
                  {"self_attention.query_key_value": (3 * WIDTH, WIDTH), **square("self_attention.dense"), **DENSE},
                  embedding="transformer.word_embeddings", biases=True),
    "gpt_neox": Base({**COMMON, "intermediate_size": 4 * WIDTH}, "gpt_neox.layers.{}.",
                     {"attention.query_key_value": (3 * WIDTH, WIDTH), **square("attention.dense"), **DENSE},
                     embedding="gpt_neox.embed_in", biases=True),
    "falcon": Base({**COMMON, "ffn_hidden_size": 4 * WIDTH, "new_decoder_architecture": True, "num_kv_heads": GROUPS}, "transformer.h.{}.",
                   {"self_attention.query_key_value": (WIDTH + 2 * NARROW, WIDTH), **square("self_attention.dense"), **DENSE},
                   embedding="transformer.word_embeddings", groups=GROUPS),
}  # fmt: skip
DIFFUSION = {"diffusers", "diffusers-old", "kohya"}
"""Targets that have no place for a language model."""
BY_UPDATE = {"phi-l1", "phi-l2", "phi-l3", "loralib", "litgpt", "mlx-npz", "diffusers-old"}
"""Targets that join modules, multiply scales in, or hold other types: the update is the same."""
DTYPES = {DType.F32: "<u4", DType.F16: "<u2", DType.BF16: "<u2"}
ONES = {DType.F32: 0x3F000000, DType.F16: 0x3800, DType.BF16: 0x3F00}
RUN = settings(
    max_examples=30, deadline=None, derandomize=True, database=None,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip


@dataclass
class Outcome:
    """What a target did with the adapters it was given."""

    written: int = 0
    families: set[str] = field(default_factory=set)
    unnamed: set[str] = field(default_factory=set)


def tensor(rng, dtype: DType, *shape: int) -> LazyTensor:
    """Finite values between 0.5 and 1 whose low bits are random."""
    low = {DType.F32: 1 << 23, DType.F16: 1 << 10, DType.BF16: 1 << 7}[dtype]
    data = (ONES[dtype] + rng.integers(0, low, shape)).astype(DTYPES[dtype]).tobytes()
    return LazyTensor(dtype=dtype, shape=shape, source="made", load=lambda: data)


@st.composite
def adapters(draw, family: str) -> Adapter:
    """Canonical adapters of one family with everything that PEFT can say."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    base = BASES[family]
    some = st.integers(0, 4).map(lambda n: n == 0)
    dtype, mixed = draw(st.sampled_from(sorted(DTYPES))), draw(some)
    ranks, alphas, rslora, dora, bias = draw(some), draw(some), draw(some), draw(some), draw(some)
    rank, alpha = draw(st.integers(1, 6)), draw(st.sampled_from((1, 4, 8, 12)))
    tails = draw(
        st.just(set(base.shapes)) | st.sets(st.sampled_from(sorted(base.shapes)), min_size=1)
    )
    shapes = {
        base.block.format(n) + t: base.shapes[t] for n in range(LAYERS) for t in sorted(tails)
    }
    shapes |= {base.head: (WORDS, WIDTH)} if draw(some) else {}
    shapes |= {base.embedding: (WIDTH, WORDS)} if not dora and not bias and draw(some) else {}
    modules = []
    for path, (out, into) in sorted(shapes.items()):
        r, own = (draw(st.integers(1, 6)) if ranks else rank), dtype
        own = draw(st.sampled_from(sorted(DTYPES))) if mixed else dtype
        inside = path not in (base.embedding, base.head)
        kind = ModuleKind.EMBEDDING if path == base.embedding else ModuleKind.LINEAR
        modules.append(AdaptedModule(
            path=ModulePath(path), kind=base.kind if inside else kind, source=path,
            a=tensor(rng, own, r, into), b=tensor(rng, own, out, r),
            scale=Scale.from_alpha(draw(st.sampled_from((1, 3, 8))) if alphas else alpha, r, rslora=rslora),
            magnitude=tensor(rng, own, out) if dora else None,
            bias_delta=tensor(rng, own, out) if bias else None,
        ))  # fmt: skip
    return Adapter(
        modules=tuple(modules), replacements=draw(replaced(rng, base, dtype, sorted(shapes))),
        family=family, base_name=f"me/{family}", format="peft", layout="transformers",
        method="dora" if dora else "rslora" if rslora else "lora",
        needs_base=BaseRequirement.MERGE if dora else BaseRequirement.NONE,
        extra={HEADS: QUERY, KV_HEADS: base.groups},
    )  # fmt: skip


@st.composite
def replaced(draw, rng, base: Base, dtype: DType, paths: list[str]) -> tuple[Replacement, ...]:
    """Absolute tensors beside the factors: none, a head, tokens, or biases."""
    which = draw(st.sampled_from(("none",) * 4 + ("head", "tokens", "biases")))
    if which == "head" and base.head not in paths:
        role = ReplacementRole.MODULES_TO_SAVE
        return (Replacement(parameter=f"{base.head}.weight", tensor=tensor(rng, dtype, WORDS, WIDTH), role=role),)  # fmt: skip
    if which == "tokens" and base.embedding not in paths:
        role, rows = ReplacementRole.TRAINABLE_TOKENS, (1, 5, WORDS - 1)
        return (Replacement(parameter=base.embedding, tensor=tensor(rng, dtype, 3, WIDTH), role=role, rows=rows),)  # fmt: skip
    if which == "biases" and base.biases:
        role = ReplacementRole.BIAS
        inside = [p for p in paths if p not in (base.head, base.embedding)]
        sizes = {p: base.shapes[re.sub(r"^.*?\.\d+\.", "", p)][0] for p in inside}
        return tuple(Replacement(parameter=f"{p}.bias", tensor=tensor(rng, dtype, sizes[p]), role=role) for p in inside)  # fmt: skip
    return ()


@st.composite
def experts(draw) -> Adapter:
    """One pair per expert of a stacked parameter, as Qwen2-MoE's class has them."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    dtype = draw(st.sampled_from(sorted(DTYPES)))
    modules = []
    for name, shape in (("gate_up_proj", (2 * INNER, WIDTH)), ("down_proj", (WIDTH, INNER))):
        rank, alpha = draw(st.integers(1, 4)), draw(st.sampled_from((1, 4, 8)))
        modules += [
            AdaptedModule(
                path=ModulePath(f"model.layers.0.mlp.experts.{name}.{expert}"), source=name,
                kind=ModuleKind.PARAMETER, a=tensor(rng, dtype, rank, shape[1]),
                b=tensor(rng, dtype, shape[0], rank), scale=Scale.from_alpha(alpha, rank),
            )
            for expert in range(3)
        ]  # fmt: skip
    return Adapter(
        modules=tuple(sorted(modules, key=lambda m: m.path)), family="qwen2_moe", base_name="me/moe",
        format="peft", layout="transformers", extra={EXPERTS: 3},
    )  # fmt: skip


MOE = {**COMMON, "model_type": "qwen2_moe", "num_experts": 3, "moe_intermediate_size": INNER,
       "num_key_value_heads": QUERY}  # fmt: skip
UNET = {f"unet.down_blocks.0.attentions.0.transformer_blocks.0.attn{n}.{p}": (320, 320 if n == 1 or p == "to_q" else 768)
        for n in (1, 2) for p in ("to_q", "to_k", "to_v", "to_out.0")}  # fmt: skip
UNET |= {f"text_encoder.text_model.encoder.layers.{n}.mlp.fc1": (3072, 768) for n in range(2)}
CONVOLUTION = "unet.down_blocks.0.resnets.0.conv1"


@st.composite
def pipelines(draw) -> Adapter:
    """Adapters of Stable Diffusion's UNet and text encoder; a convolution among them."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    some = st.integers(0, 4).map(lambda n: n == 0)
    dtype, dora, bias = draw(st.sampled_from(sorted(DTYPES))), draw(some), draw(some)
    modules = []
    for path in sorted({*UNET} | ({CONVOLUTION} if draw(st.booleans()) else set())):
        rank, alpha = draw(st.integers(1, 4)), draw(st.sampled_from((1, 4, 2.5)))
        linear = path != CONVOLUTION
        out, into = UNET[path] if linear else (320, 320)
        ends, ones = ((), ()) if linear else ((3, 3), (1, 1))
        modules.append(AdaptedModule(
            path=ModulePath(path), kind=ModuleKind.LINEAR if linear else ModuleKind.CONV, source=path,
            a=tensor(rng, dtype, rank, into, *ends), b=tensor(rng, dtype, out, rank, *ones),
            scale=Scale.from_alpha(alpha, rank),
            magnitude=tensor(rng, dtype, out) if dora and linear else None,
            bias_delta=tensor(rng, dtype, out) if bias and linear else None,
        ))  # fmt: skip
    return Adapter(
        modules=tuple(modules), family="stable-diffusion", format="kohya", layout="diffusers",
        method="dora" if dora else "lora", needs_base=BaseRequirement.MERGE if dora else BaseRequirement.NONE,
    )  # fmt: skip


def read_back(written, config):
    files = {f.path: b"".join(bytes(chunk) for chunk in f.chunks()) for f in written.files}
    assert {f.path: f.size_bytes for f in written.files} == {k: len(v) for k, v in files.items()}
    sources = {name: MemorySource(name, data) for name, data in files.items()}
    return read_adapter(
        AdapterFiles(location="made", files=sources), ReadOptions(base_config=config)
    )


def matrix(tensor: LazyTensor, rows: int) -> np.ndarray:
    return to_numpy_f64(tensor).reshape(rows, -1)


def delta(module: AdaptedModule) -> np.ndarray:
    down, up = matrix(module.a, module.rank), matrix(module.b, module.out_features)
    return module.scale.value * up @ down


def same_bits(left: LazyTensor | None, right: LazyTensor | None) -> None:
    assert (left is None) == (right is None)
    if left is not None:
        assert (left.dtype, left.shape) == (right.dtype, right.shape)
        assert bytes(left.load()) == bytes(right.load())


def same(one: Adapter, two: Adapter, *, by_update: bool, exact: bool) -> None:
    others = {module.path: module for module in two.modules}
    for module in one.modules:
        other = others.pop(module.path)
        assert other.kind is module.kind
        if not by_update:
            assert other.scale.value == pytest.approx(module.scale.value, rel=0 if exact else 1e-7)
        if by_update:
            np.testing.assert_allclose(delta(other), delta(module), rtol=1e-6)
        else:
            same_bits(module.a, other.a)
            same_bits(module.b, other.b)
        for left, right in (
            (module.magnitude, other.magnitude),
            (module.bias_delta, other.bias_delta),
        ):
            same_bits(left, right)
    # A fused pair has room for the parts that the adapter lacks; they must be zero.
    assert all(by_update and not to_numpy_f64(module.b).any() for module in others.values())
    assert [(r.parameter, r.role, r.rows) for r in two.replacements] == [(r.parameter, r.role, r.rows) for r in one.replacements]  # fmt: skip
    for left, right in zip(one.replacements, two.replacements, strict=True):
        same_bits(left.tensor, right.tensor)


def is_named(error: AdaptrixError, adapter: Adapter) -> bool:
    """Whether an error says which tensor, or that all of the family's are meant."""
    text = f"{error.where} {error.message}"
    replaced = {re.sub(r"\.(weight|bias)$", "", r.parameter) for r in adapter.replacements}
    stacked = {m.path.rpartition(".")[0] for m in adapter.modules if m.kind is ModuleKind.PARAMETER}
    names = {str(m.path) for m in adapter.modules} | replaced | stacked
    joined = re.search(r"(layers|h)\.\d+\.(self_attn|mixer)\.(query_key_value|Wqkv)", text)
    return bool(error.where) and (any(name in text for name in names) or bool(joined) or "family" in text)  # fmt: skip


def check(adapter: Adapter, target: str, config, outcome: Outcome) -> None:
    try:
        written = write_adapter(adapter, target)
    except AdaptrixError as error:
        if not is_named(error, adapter):
            outcome.unnamed.add(f"{error.where}: {error.message}")
        return
    outcome.written += 1
    outcome.families.add(adapter.family)
    again = read_back(written, config)
    assert again.adapter is not None, again.inspection.problems
    exact = written.fidelity is Fidelity.EXACT
    same(adapter, again.adapter, by_update=target in BY_UPDATE, exact=exact)


def tried(strategy, target: str, config, outcome: Outcome, examples: int = 30) -> Outcome:
    @settings(RUN, max_examples=examples)
    @given(strategy)
    def run(adapter):
        check(adapter, target, config, outcome)

    run()
    return outcome


FAMILIES = {
    "peft": set(BASES), "loralib": set(BASES), "gguf": set(BASES),
    **{name: set(BASES) - {"bloom", "falcon"} for name in ("mlx", "mlx-npz")},
    "mlx-vlm": {"phi", "llama", "qwen2", "gemma", "phi3"},
    "torchtune": {"llama", "qwen2", "gemma"},
    "litgpt": {"phi", "llama", "qwen2", "gemma"},
    **{f"phi-l{n}": {"phi"} for n in (1, 2, 3, 5)},
}  # fmt: skip
"""Families that each target writes."""


@pytest.mark.parametrize("target", [name for name in TARGETS if name not in DIFFUSION])
def test_identity_or_an_error_that_names_the_tensor(target):
    outcome = Outcome()
    for family, base in BASES.items():
        tried(adapters(family), target, {"model_type": family, **base.config}, outcome)
    assert outcome.families == FAMILIES[target]
    assert not outcome.unnamed


@pytest.mark.parametrize("target", TARGETS)
def test_experts(target):
    outcome = tried(experts(), target, MOE, Outcome())
    assert bool(outcome.written) == (target in {"peft", "gguf", "mlx"})
    assert not outcome.unnamed


@pytest.mark.parametrize("target", TARGETS)
def test_pipelines(target):
    outcome = tried(pipelines(), target, None, Outcome(), examples=15)
    assert outcome.written or target not in {*DIFFUSION, "peft"}
    assert not outcome.unnamed
