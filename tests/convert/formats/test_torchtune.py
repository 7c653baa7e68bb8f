"""torchtune: rotary order against attention scores, spelled out in float64."""

import io
import json

import numpy as np
import pytest
import torch
from safetensors.numpy import save

from adaptrix.convert.arrays import to_numpy_f64
from adaptrix.convert.layouts.rotary import half_rows, neighbour_rows
from adaptrix.convert.reading import ReadOptions, read_adapter
from adaptrix.convert.source import AdapterFiles, MemorySource
from adaptrix.convert.writing import write_adapter
from adaptrix.schema.errors import Refused

HEADS, KV_HEADS, SIZE, WIDTH = 2, 1, 8, 16
LLAMA = {"model_type": "llama", "hidden_size": WIDTH, "intermediate_size": 24, "num_hidden_layers": 1,
         "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "vocab_size": 32}  # fmt: skip
NAMES = {
    "attn.q_proj": ("self_attn.q_proj", 16, 16), "attn.k_proj": ("self_attn.k_proj", 8, 16),
    "attn.v_proj": ("self_attn.v_proj", 8, 16), "attn.output_proj": ("self_attn.o_proj", 16, 16),
    "mlp.w1": ("mlp.gate_proj", 24, 16), "mlp.w3": ("mlp.up_proj", 24, 16),
    "mlp.w2": ("mlp.down_proj", 16, 24),
}  # fmt: skip
RECIPE = (
    b"model:\n  lora_rank: 2\n  lora_alpha: 3\ncheckpointer:\n  checkpoint_dir: /tmp/some-llama\n"
)


def source(dora=False, meta=False):
    rng = np.random.default_rng(4)
    tensors, dense = {}, {}
    old = {"attn.q_proj": "attention.wq", "attn.k_proj": "attention.wk", "attn.v_proj": "attention.wv",
           "attn.output_proj": "attention.wo", "mlp.w1": "feed_forward.w1",
           "mlp.w2": "feed_forward.w2", "mlp.w3": "feed_forward.w3"}  # fmt: skip
    for name, (_, out, into) in NAMES.items():
        a = rng.standard_normal((2, into)).astype("f4")
        b = rng.standard_normal((out, 2)).astype("f4")
        place = f"layers.0.{old[name] if meta else name}"
        leaves = ("lora_A.weight", "lora_B.weight") if meta else ("lora_a.weight", "lora_b.weight")
        tensors[f"{place}.{leaves[0]}"], tensors[f"{place}.{leaves[1]}"] = a, b
        if dora:
            tensors[f"{place}.magnitude"] = rng.standard_normal(out).astype("f4")
        dense[name] = b.astype("f8") @ a.astype("f8")
    return tensors, dense


def read(tensors, recipe=RECIPE, base=LLAMA, **options):
    files = {"adapter_0.safetensors": save(tensors)}
    if recipe:
        files["torchtune_config.yaml"] = recipe
    found = {n: MemorySource(n, content) for n, content in files.items()}
    return read_adapter(
        AdapterFiles(location="mem", files=found), ReadOptions(base_config=base, **options)
    )


def delta(module):
    return module.scale.value * (to_numpy_f64(module.b) @ to_numpy_f64(module.a))


def neighbours(vector, angles):
    """Rotary embedding of one head, neighbouring rows rotated (Meta)."""
    pairs = vector.reshape(-1, 2)
    x = pairs[:, 0] * np.cos(angles) - pairs[:, 1] * np.sin(angles)
    y = pairs[:, 1] * np.cos(angles) + pairs[:, 0] * np.sin(angles)
    return np.stack([x, y], 1).reshape(-1)


def halves(vector, angles):
    """Rotary embedding of one head, halves rotated (transformers)."""
    x, y = vector[: SIZE // 2], vector[SIZE // 2 :]
    return np.concatenate(
        [x * np.cos(angles) - y * np.sin(angles), y * np.cos(angles) + x * np.sin(angles)]
    )


@pytest.mark.parametrize("meta", [False, True])
def test_attention_scores_are_those_of_the_producer(meta):
    tensors, dense = source(meta=meta)
    reading = read(tensors)
    assert reading.inspection.format.name == "torchtune"
    found = {m.path: delta(m) for m in reading.adapter.modules}
    rng = np.random.default_rng(5)
    x, z = rng.standard_normal((2, WIDTH))
    one, two = 3 * 10.0 ** -np.arange(4), 11 * 10.0 ** -np.arange(4)
    for head in range(HEADS):
        rows = slice(head * SIZE, (head + 1) * SIZE)
        theirs = neighbours(1.5 * dense["attn.q_proj"][rows] @ x, one) @ neighbours(
            1.5 * dense["attn.k_proj"] @ z, two
        )
        ours = halves(found["model.layers.0.self_attn.q_proj"][rows] @ x, one) @ halves(
            found["model.layers.0.self_attn.k_proj"] @ z, two
        )
        assert ours == pytest.approx(theirs, rel=1e-12)
    for name, (path, _, _) in NAMES.items():
        if name not in ("attn.q_proj", "attn.k_proj"):
            np.testing.assert_allclose(
                found[f"model.layers.0.{path}"], 1.5 * dense[name], rtol=1e-12
            )


def test_qwen_keeps_its_rows():
    tensors, dense = source()
    reading = read(tensors, base={**LLAMA, "model_type": "qwen2"})
    found = {m.path: delta(m) for m in reading.adapter.modules}
    np.testing.assert_allclose(
        found["model.layers.0.self_attn.q_proj"], 1.5 * dense["attn.q_proj"], rtol=1e-12
    )


def test_rotary_orders_are_inverse_and_as_published():
    assert neighbour_rows(8, 1) == [0, 4, 1, 5, 2, 6, 3, 7]
    assert [half_rows(16, 2)[i] for i in neighbour_rows(16, 2)] == list(range(16))


@pytest.mark.parametrize("dora", [False, True])
def test_written_files_are_the_source_again(dora):
    tensors, _ = source(dora=dora)
    adapter = read(tensors).adapter
    assert adapter.needs_base == ("merge" if dora else "none")
    files = {
        f.path: b"".join(bytes(c) for c in f.chunks())
        for f in write_adapter(adapter, "torchtune").files
    }
    state = torch.load(io.BytesIO(files["adapter_0.pt"]), weights_only=True)
    assert state.keys() == tensors.keys()
    for name, array in tensors.items():
        np.testing.assert_array_equal(state[name].numpy(), array)
    assert b"lora_alpha: 3" in files["torchtune_config.yaml"]


def test_without_the_base_the_row_order_is_not_guessed():
    tensors, _ = source()
    reading = read(tensors, base=None)
    assert [p.code for p in reading.inspection.problems if p.severity == "error"] == [
        "ambiguous_layout"
    ]
    mlp = {k: v for k, v in tensors.items() if ".mlp." in k}
    assert read(mlp, base=None).adapter is not None
    assert "missing_alpha" in [p.code for p in read(tensors, recipe=None).inspection.problems]


def test_a_fused_family_and_unknown_heads_are_refused():
    tensors, _ = source()
    reading = read(tensors, base={**LLAMA, "model_type": "phi3"})
    assert "unsupported_method" in [p.code for p in reading.inspection.problems]
    config = json.dumps(
        {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "base_model_name_or_path": "x/llama"}
    ).encode()
    path = "base_model.model.model.layers.0.self_attn.q_proj"
    weights = save(
        {
            f"{path}.lora_A.weight": np.ones((2, 16), "f4"),
            f"{path}.lora_B.weight": np.ones((16, 2), "f4"),
        }
    )
    files = {"adapter_model.safetensors": MemorySource("adapter_model.safetensors", weights),
             "adapter_config.json": MemorySource("adapter_config.json", config)}  # fmt: skip
    adapter = read_adapter(AdapterFiles(location="mem", files=files)).adapter
    with pytest.raises(Refused, match="heads"):
        write_adapter(adapter, "torchtune")
