"""Experts stacked in three axes, or in another column order: each against dense float64."""

import json

import numpy as np
import pytest
from safetensors.numpy import save

from adaptrix.convert.arrays import to_numpy_f64
from adaptrix.convert.reading import ReadOptions, read_adapter
from adaptrix.convert.source import AdapterFiles, MemorySource

EXPERTS, RANK, HIDDEN, INNER = 4, 2, 16, 12
PLACE = "base_model.model.model.layers.0.mlp.experts"
BLOCK = "model.layers.0.mlp.experts"
RNG = np.random.default_rng(8)
QWEN, OSS = "me/Qwen3-30B-A3B", "openai/gpt-oss-20b"


def draw(*shape):
    return RNG.standard_normal(shape).astype("f4")


def product(b, a):
    return b.astype("f8") @ a.astype("f8")


def read(tensors, *, base=QWEN, config=(), **options):
    fields = {"peft_type": "LORA", "r": RANK, "lora_alpha": 6, "task_type": "CAUSAL_LM",
              "base_model_name_or_path": base, "target_modules": "all-linear", **dict(config)}  # fmt: skip
    files = {
        "adapter_config.json": json.dumps(fields).encode(),
        "adapter_model.safetensors": save(tensors),
    }
    found = {name: MemorySource(name, content) for name, content in files.items()}
    return read_adapter(AdapterFiles(location="mem", files=found), ReadOptions(**options))


def deltas(reading):
    assert reading.adapter is not None, reading.inspection.problems
    return {
        str(m.path): m.scale.value * (to_numpy_f64(m.b) @ to_numpy_f64(m.a))
        for m in reading.adapter.modules
    }


def same(found, wanted):
    assert found.keys() == wanted.keys()
    for path, update in wanted.items():
        np.testing.assert_allclose(found[path], 3.0 * update, rtol=1e-12, atol=1e-12)


def named(**pairs):
    return {
        f"{PLACE}.{name}.lora_{side}.weight": np.ascontiguousarray(tensor)
        for name, (a, b) in pairs.items()
        for side, tensor in (("A", a), ("B", b))
    }


def shared_outer():
    """Tinker's and SGLang's: what every expert shares has one row of experts."""
    gate = draw(1, RANK, HIDDEN), draw(EXPERTS, INNER, RANK)
    up = draw(1, RANK, HIDDEN), draw(EXPERTS, INNER, RANK)
    down = draw(EXPERTS, RANK, INNER), draw(1, HIDDEN, RANK)
    wanted = {
        "gate": [product(b, gate[0][0]) for b in gate[1]],
        "up": [product(b, up[0][0]) for b in up[1]],
        "down": [product(down[1][0], a) for a in down[0]],
    }
    return named(w1=gate, w3=up, w2=down), wanted


def test_shared_sides_are_given_to_every_expert():
    tensors, wanted = shared_outer()
    head = draw(RANK, HIDDEN), draw(50, RANK)
    tensors |= {f"base_model.model.model.unembed_tokens.lora_{s}.weight": t for s, t in zip("AB", head, strict=True)}  # fmt: skip
    reading = read(tensors)
    assert reading.inspection.architecture.family == "qwen3_moe"
    same(deltas(reading), {
        **{f"{BLOCK}.gate_up_proj.{e}": np.concatenate([wanted["gate"][e], wanted["up"][e]]) for e in range(EXPERTS)},
        **{f"{BLOCK}.down_proj.{e}": wanted["down"][e] for e in range(EXPERTS)},
        "lm_head": product(head[1], head[0]),
    })  # fmt: skip


def test_gpt_oss_has_gate_and_up_in_every_other_row():
    tensors, wanted = shared_outer()
    query = draw(RANK, HIDDEN), draw(HIDDEN, RANK)
    tensors |= {f"base_model.model.model.layers.0.attn.q_proj.lora_{s}.weight": t for s, t in zip("AB", query, strict=True)}  # fmt: skip
    rows = np.stack([np.arange(INNER), INNER + np.arange(INNER)], 1).reshape(-1)
    stacked = [np.concatenate([wanted["gate"][e], wanted["up"][e]]) for e in range(EXPERTS)]
    same(deltas(read(tensors, base=OSS)), {
        **{f"{BLOCK}.gate_up_proj.{e}": stacked[e][rows] for e in range(EXPERTS)},
        **{f"{BLOCK}.down_proj.{e}": wanted["down"][e] for e in range(EXPERTS)},
        "model.layers.0.self_attn.q_proj": product(query[1], query[0]),
    })  # fmt: skip


def test_a_projection_that_the_experts_have_not_is_left_out_with_its_reason():
    tensors, wanted = shared_outer()
    empty = np.zeros((0,), "f4")
    tensors |= named(w3=(empty, empty))
    reading = read(tensors, base="me/other")
    assert [t.name for t in reading.inspection.tensors.ignored] == [f"{PLACE}.w3.lora_{s}.weight" for s in "AB"]  # fmt: skip
    same(deltas(reading), {
        **{f"{BLOCK}.{e}.up_proj": wanted["gate"][e] for e in range(EXPERTS)},
        **{f"{BLOCK}.{e}.down_proj": wanted["down"][e] for e in range(EXPERTS)},
    })  # fmt: skip


DOWN = draw(EXPERTS, RANK, INNER), draw(EXPERTS, HIDDEN, RANK)
WHOLE = draw(EXPERTS, RANK, HIDDEN), draw(EXPERTS, 2 * INNER, RANK)
HALVES = draw(EXPERTS, 2 * RANK, HIDDEN), draw(EXPERTS, 2 * INNER, RANK)


def halves(expert):
    a, b = (factor[expert] for factor in HALVES)
    return np.concatenate([product(b[:INNER], a[:RANK]), product(b[INNER:], a[RANK:])])


def flat(a, b, *, blocks=False):
    """PEFT's two axes; with ``blocks`` the columns of one expert stand together."""
    columns = b.transpose(1, 0, 2) if blocks else b.transpose(1, 2, 0)
    return a.reshape(-1, a.shape[2]), columns.reshape(b.shape[1], -1)


def nested(gate_up, down):
    """vLLM's names, and PEFT's."""
    pairs = {"base_layer.": gate_up, "": down}
    return {
        f"{PLACE}.{infix}lora_{side}.weight": np.ascontiguousarray(tensor)
        for infix, pair in pairs.items()
        for side, tensor in zip("AB", pair, strict=True)
    }


TARGETS = {"target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"],
           "target_modules": [], "peft_version": "0.19.1"}  # fmt: skip
NOTED = {**TARGETS, "auto_mapping": {"base_model_class": "X", "unsloth_fixed": True}}
PLAIN = nested(flat(*WHOLE), flat(*DOWN))
BLOCKS = nested(flat(*WHOLE, blocks=True), flat(*DOWN, blocks=True))
ROWS = {
    # tensors, settings, options, whether the halves have factors of their own
    "SGLang, one A a half": (named(gate_up_proj=HALVES, down_proj=DOWN), {}, {}, True),
    "Megatron-Bridge": (named(gate_up_proj=WHOLE, down_proj=DOWN), {}, {}, False),
    "Megatron-Bridge for vLLM": (
        nested(*((a, b.transpose(1, 2, 0)) for a, b in (WHOLE, DOWN))), {}, {}, False,
    ),
    "vLLM's names, PEFT's axes": (PLAIN, {}, {}, False),
    "PEFT": (PLAIN, TARGETS, {}, False),
    "Unsloth, noted as PEFT's": (PLAIN, {**NOTED, "lora_B_layout": "rank_major"}, {}, False),
    "Unsloth, noted as its own": (BLOCKS, {**NOTED, "lora_B_layout": "grouped_by_expert"}, {}, False),
    "Unsloth, stated": (BLOCKS, NOTED, {"source_layout": "unsloth"}, False),
    "Unsloth, stated as PEFT's": (PLAIN, NOTED, {"source_layout": "peft-0.19.1"}, False),
}  # fmt: skip


@pytest.mark.parametrize("row", list(ROWS))
def test_every_stacking_is_one_update_per_expert(row):
    tensors, config, options, apart = ROWS[row]
    reading = read(tensors, config=config, **options)
    assert not [p for p in reading.inspection.problems if p.code == "unused_target"]
    same(deltas(reading), {
        **{f"{BLOCK}.gate_up_proj.{e}": halves(e) if apart else product(WHOLE[1][e], WHOLE[0][e]) for e in range(EXPERTS)},
        **{f"{BLOCK}.down_proj.{e}": product(DOWN[1][e], DOWN[0][e]) for e in range(EXPERTS)},
    })  # fmt: skip


def test_an_order_that_nothing_notes_is_asked_for():
    reading = read(PLAIN, config=NOTED)
    (problem,) = [p for p in reading.inspection.problems if p.severity == "error"]
    assert problem.code == "ambiguous_layout"
    assert "--source-layout unsloth" in problem.hint
    assert reading.inspection.verdict == "INCONCLUSIVE"
    named_only = read(PLAIN, config=TARGETS, base="unsloth/Qwen3-30B-A3B")
    assert named_only.adapter is not None
    assert "expert_order" in {p.code for p in named_only.inspection.problems}


@pytest.mark.parametrize(
    ("a", "b"),
    [((EXPERTS, RANK, HIDDEN), (3, INNER, RANK)), ((EXPERTS, 3, HIDDEN), (EXPERTS, INNER, RANK)),
     ((EXPERTS, 2 * RANK, HIDDEN), (EXPERTS, INNER, RANK))],
)  # fmt: skip
def test_what_is_no_stack_is_refused(a, b):
    reading = read(named(w1=(draw(*a), draw(*b)), w2=DOWN))
    codes = {p.code for p in reading.inspection.problems if p.severity == "error"}
    assert codes == {"shape_mismatch"}
