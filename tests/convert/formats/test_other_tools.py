"""NeMo, Tunix, AdapterHub, LoRA-ViT, per-layer pickles: each against its own definition."""

import io
import json

import numpy as np
import pytest
import torch
from safetensors.numpy import save

from adaptrix.convert.arrays import to_numpy_f64
from adaptrix.convert.reading import ReadOptions, read_adapter
from adaptrix.convert.source import AdapterFiles, MemorySource

HEADS, GROUPS, SIZE, WIDTH = 4, 2, 3, 10
LLAMA = {"model_type": "llama", "hidden_size": WIDTH, "intermediate_size": 14, "num_hidden_layers": 2,
         "num_attention_heads": HEADS, "num_key_value_heads": GROUPS, "head_dim": SIZE,
         "vocab_size": 32}  # fmt: skip


def read(files, **options):
    found = {n: MemorySource(n, content) for n, content in files.items()}
    return read_adapter(AdapterFiles(location="mem", files=found), ReadOptions(**options))


def delta(module):
    return module.scale.value * (to_numpy_f64(module.b) @ to_numpy_f64(module.a))


def deltas(reading):
    assert reading.adapter is not None, reading.inspection.problems
    return {m.path: delta(m) for m in reading.adapter.modules}


def codes(reading):
    return [p.code for p in reading.inspection.problems if p.severity == "error"]


def pair(rng, rank, into, out):
    a = rng.standard_normal((rank, into)).astype("f4")
    b = rng.standard_normal((out, rank)).astype("f4")
    return a, b, b.astype("f8") @ a.astype("f8")


def torch_bytes(state):
    stream = io.BytesIO()
    torch.save(state, stream)
    return stream.getvalue()


def megatron(style):
    """Tensors, and the dense update of each Megatron weight before anything is taken apart."""
    rng = np.random.default_rng(0)
    rows = (HEADS + 2 * GROUPS) * SIZE
    sizes = {
        "qkv": (WIDTH, rows),
        "o": (HEADS * SIZE, WIDTH),
        "fc1": (WIDTH, 28),
        "fc2": (14, WIDTH),
    }
    names = {
        "bridge": {"qkv": "self_attention.linear_qkv.adapter", "o": "self_attention.linear_proj.adapter",
                   "fc1": "mlp.linear_fc1.adapter", "fc2": "mlp.linear_fc2.adapter"},
        "nemo1": {"qkv": "self_attention.adapter_layer.lora_kqv_adapter",
                  "o": "self_attention.adapter_layer.lora_dense_attention_adapter",
                  "fc1": "mlp.adapter_layer.lora_hto4h_adapter",
                  "fc2": "mlp.adapter_layer.lora_4htoh_adapter"},
    }[style]  # fmt: skip
    root = {"bridge": "decoder.layers", "nemo1": "model.language_model.encoder.layers"}[style]
    tensors, dense = {}, {}
    for part, (into, out) in sizes.items():
        a, b, dense[part] = pair(rng, 2, into, out)
        tensors[f"{root}.1.{names[part]}.linear_in.weight"] = a
        tensors[f"{root}.1.{names[part]}.linear_out.weight"] = b
    return tensors, dense


@pytest.mark.parametrize("style", ["bridge", "nemo1"])
def test_megatron_rows_are_taken_apart_by_group(style):
    tensors, dense = megatron(style)
    yaml = b"peft:\n  peft_scheme: lora\n  lora_tuning:\n    adapter_dim: 2\n    alpha: 6\n"
    reading = read({"model_weights.ckpt": torch_bytes({k: torch.from_numpy(v) for k, v in tensors.items()}),
                    "model_config.yaml": yaml}, base_config=LLAMA)  # fmt: skip
    assert reading.inspection.format.name == "nemo"
    found = deltas(reading)
    grouped = dense["qkv"].reshape(GROUPS, HEADS // GROUPS + 2, SIZE, WIDTH)
    block = "model.layers.1."
    wanted = {
        "self_attn.q_proj": grouped[:, : HEADS // GROUPS].reshape(-1, WIDTH),
        "self_attn.k_proj": grouped[:, -2].reshape(-1, WIDTH),
        "self_attn.v_proj": grouped[:, -1].reshape(-1, WIDTH),
        "self_attn.o_proj": dense["o"],
        "mlp.gate_proj": dense["fc1"][:14], "mlp.up_proj": dense["fc1"][14:],
        "mlp.down_proj": dense["fc2"],
    }  # fmt: skip
    assert found.keys() == {block + tail for tail in wanted}
    for tail, update in wanted.items():
        np.testing.assert_allclose(found[block + tail], 3.0 * update, rtol=1e-12)


def test_megatron_asks_for_the_base_and_refuses_a_shard():
    tensors, _ = megatron("bridge")
    files = {"x.safetensors": save(tensors)}
    assert codes(read(files, alpha=2)) == ["ambiguous_layout"]
    half = {k: v[:12] if "qkv" in k and "out" in k else v for k, v in tensors.items()}
    assert codes(read({"x.safetensors": save(half)}, alpha=2, base_config=LLAMA)) == [
        "shape_mismatch"
    ]
    assert codes(read(files, base_config=LLAMA)) == ["missing_alpha"]


def test_canonical_megatron_parts_stand_for_themselves():
    rng = np.random.default_rng(1)
    a, b, dense = pair(rng, 2, WIDTH, GROUPS * SIZE)
    name = "decoder.layers.0.self_attention.linear_qkv.adapter.adapter_k"
    files = {"x.safetensors": save({f"{name}.linear_in.weight": a, f"{name}.linear_out.weight": b})}
    found = deltas(read(files, base_config=LLAMA, alpha=2))
    np.testing.assert_allclose(found["model.layers.0.self_attn.k_proj"], dense, rtol=1e-12)


@pytest.mark.parametrize("joint", [".", "/"])
def test_tunix_einsum_weights_are_flattened_heads_first(joint):
    rng = np.random.default_rng(2)
    qa, qb = rng.standard_normal((WIDTH, 2)), rng.standard_normal((2, HEADS, SIZE))
    oa, ob = rng.standard_normal((HEADS, SIZE, 2)), rng.standard_normal((2, WIDTH))
    ga, gb = rng.standard_normal((WIDTH, 2)), rng.standard_normal((2, 14))
    tensors = {
        "layers.0.attn.q_proj.w_lora_a": qa, "layers.0.attn.q_proj.w_lora_b": qb,
        "layers.0.attn.o_proj.w_lora_a": oa, "layers.0.attn.o_proj.w_lora_b": ob,
        "layers.0.mlp.gate_proj.kernel_lora_a": ga, "layers.0.mlp.gate_proj.kernel_lora_b": gb,
    }  # fmt: skip
    named = {k.replace(".", joint): v.astype("f4") for k, v in tensors.items()}
    reading = read({"x.safetensors": save(named)}, base_config=LLAMA, alpha=4)
    assert reading.inspection.format.name == "tunix"
    found, place = deltas(reading), "model.layers.0."
    f8 = {k: v.astype("f4").astype("f8") for k, v in tensors.items()}
    q = np.einsum(
        "dr,rnh->nhd", f8["layers.0.attn.q_proj.w_lora_a"], f8["layers.0.attn.q_proj.w_lora_b"]
    )
    o = np.einsum(
        "nhr,rd->dnh", f8["layers.0.attn.o_proj.w_lora_a"], f8["layers.0.attn.o_proj.w_lora_b"]
    )
    g = (f8["layers.0.mlp.gate_proj.kernel_lora_a"] @ f8["layers.0.mlp.gate_proj.kernel_lora_b"]).T
    np.testing.assert_allclose(
        found[place + "self_attn.q_proj"], 2 * q.reshape(-1, WIDTH), rtol=1e-12
    )
    np.testing.assert_allclose(
        found[place + "self_attn.o_proj"], 2 * o.reshape(WIDTH, -1), rtol=1e-12
    )
    np.testing.assert_allclose(found[place + "mlp.gate_proj"], 2 * g, rtol=1e-12)


def test_tunix_refuses_gemmas_einsums():
    tensors = {"layers.0.attn.kv_einsum.w_lora_a": np.ones((10, 2), "f4"),
               "layers.0.attn.kv_einsum.w_lora_b": np.ones((2, 2, 2, 3), "f4")}  # fmt: skip
    assert "unsupported_method" in codes(read({"x.safetensors": save(tensors)}, alpha=1))


def adapterhub(**config):
    inner = {"architecture": "lora", "r": 2, "alpha": 5, "attn_matrices": ["q", "v"],
             "composition_mode": "add", "use_gating": False, **config}  # fmt: skip
    return json.dumps({"config": inner, "model_name": "roberta-base", "name": "x"}).encode()


def test_adapterhub_takes_rank_and_alpha_from_its_own_configuration():
    rng = np.random.default_rng(3)
    a, b, dense = pair(rng, 2, 8, 8)
    path = "roberta.encoder.layer.0.attention.self.query"
    tensors = {f"{path}.loras.x.lora_A": a, f"{path}.loras.x.lora_B": b}
    files = {"adapter.safetensors": save(tensors), "adapter_config.json": adapterhub()}
    reading = read(files)
    assert reading.inspection.format.name == "adapterhub"
    assert reading.inspection.architecture.family == "roberta"
    np.testing.assert_allclose(deltas(reading)[path], 2.5 * dense, rtol=1e-12)
    wrong = {**files, "adapter_config.json": adapterhub(r=4)}
    assert codes(read(wrong)) == ["rank_mismatch"]


def test_adapterhub_merged_layer_follows_attn_matrices():
    rng = np.random.default_rng(4)
    a = rng.standard_normal((4, 8)).astype("f4")
    b = rng.standard_normal((16, 2)).astype("f4")
    path = "transformer.h.0.attn.c_attn"
    tensors = {f"{path}.loras.x.lora_A": a, f"{path}.loras.x.lora_B": b}
    files = {"adapter.safetensors": save(tensors), "adapter_config.json": adapterhub()}
    q, v = b[:8].astype("f8") @ a[:2].astype("f8"), b[8:].astype("f8") @ a[2:].astype("f8")
    found = deltas(read(files))[path]
    np.testing.assert_allclose(found, 2.5 * np.concatenate([q, np.zeros((8, 8)), v]), rtol=1e-12)
    files["adapter_config.json"] = adapterhub(attn_matrices=["q", "k", "v"])
    assert codes(read(files)) == ["ambiguous_layout"]


@pytest.mark.parametrize(
    ("config", "extra", "code"),
    [
        ({"composition_mode": "scale"}, {}, "ia3"),
        ({"use_gating": True}, {}, "routed_adapter"),
        ({}, {"m.weight": np.ones((8, 1), "f4")}, "unsupported_method"),
    ],
)
def test_adapterhub_variants_are_refused_by_name(config, extra, code):
    path = "roberta.encoder.layer.0.attention.self.query.loras.x"
    tensors = {f"{path}.lora_A": np.ones((2, 8), "f4"), f"{path}.lora_B": np.ones((8, 2), "f4")}
    tensors |= {f"{path}.{name}": value for name, value in extra.items()}
    files = {"adapter.safetensors": save(tensors), "adapter_config.json": adapterhub(**config)}
    assert codes(read(files)) == [code]


def test_numbered_matrices_are_q_and_v_of_every_block():
    rng = np.random.default_rng(5)
    tensors, dense = {}, []
    for n in range(24):
        a, b, update = pair(rng, 2, 192, 192)
        tensors[f"w_a_{n:03d}"], tensors[f"w_b_{n:03d}"] = a, b
        dense.append(update)
    files = {"x.safetensors": save(tensors)}
    assert codes(read(files)) == ["missing_alpha"]
    found = deltas(read(files, alpha=2))
    assert len(found) == 12
    wanted = np.concatenate([dense[6], np.zeros((192, 192)), dense[7]])
    np.testing.assert_allclose(found["blocks.3.attn.qkv"], wanted, rtol=1e-12)
    fewer = {k: v for k, v in tensors.items() if int(k[-3:]) < 6}
    assert "ambiguous_layout" in codes(read({"x.safetensors": save(fewer)}, alpha=2))


def test_one_pickle_per_layer_is_one_adapter():
    rng = np.random.default_rng(6)
    files, dense = {}, {}
    for layer in (1, 3):
        a, b, dense[f"transformer.h.{layer}.attn.c_attn"] = pair(rng, 2, 8, 24)
        state = {"attn.c_attn": {"lora_A": torch.from_numpy(a), "lora_B": torch.from_numpy(b),
                                 "rank": 2, "alpha": 3 + layer}}  # fmt: skip
        files[f"layer_{layer}.pt"] = torch_bytes(state)
    reading = read(files)
    assert reading.inspection.format.name == "per-layer"
    assert reading.inspection.tensors.used == 4
    found = deltas(reading)
    for path, update in dense.items():
        layer = int(path.split(".")[2])
        np.testing.assert_allclose(found[path], (3 + layer) / 2 * update, rtol=1e-12)
