"""GGUF adapters, against llama.cpp's conventions written out and its own library."""

from dataclasses import replace

import gguf
import numpy as np
import pytest

from adaptrix.convert.arrays import to_numpy_f64
from adaptrix.convert.writing import write_adapter
from adaptrix.schema.errors import Refused

NAME = "adapter.gguf"
BLOCKS = {"attn_q": (16, 16), "attn_k": (16, 16), "attn_v": (16, 16), "attn_output": (16, 16),
          "ffn_up": (32, 16), "ffn_down": (16, 32)}  # fmt: skip
PATHS = {"attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
         "attn_output": "self_attn.dense", "ffn_up": "mlp.fc1", "ffn_down": "mlp.fc2"}  # fmt: skip


def file_of(tmp_path, tensors, arch="phi2", *, kind="adapter", adapter="lora", alpha=6.0, **more):
    """A file written by llama.cpp's own gguf library."""
    path = tmp_path / NAME
    writer = gguf.GGUFWriter(path, arch)
    writer.add_type(kind)
    if adapter:
        writer.add_string("adapter.type", adapter)
    if alpha is not None:
        writer.add_float32("adapter.lora.alpha", alpha)
    for key, value in more.items():
        writer.add_string(key.replace("__", "."), value)
    for name, array in tensors.items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


def phi2(rank=3, layers=2):
    rng = np.random.default_rng(4)
    tensors, dense = {}, {}
    for layer in range(layers):
        for name, (out, into) in BLOCKS.items():
            a = rng.standard_normal((rank, into)).astype(np.float32)
            b = rng.standard_normal((out, rank)).astype(np.float32)
            key = f"blk.{layer}.{name}.weight"
            tensors |= {f"{key}.lora_a": a, f"{key}.lora_b": b}
            dense[f"model.layers.{layer}.{PATHS[name]}"] = b.astype(np.float64) @ a
    return tensors, dense


def test_phi2(make, tmp_path):
    tensors, dense = phi2()
    url = {"general__base_model__0__repo_url": "https://huggingface.co/microsoft/phi-2"}
    reading = make.read(file_of(tmp_path, tensors, **url), name=NAME)
    found = reading.inspection
    assert found.architecture.family == "phi"
    assert found.architecture.confidence > 0.99
    assert found.architecture.layout == "gguf"
    assert reading.adapter.base_name == "microsoft/phi-2"
    assert {m.path for m in reading.adapter.modules} == set(dense)
    for module in reading.adapter.modules:
        np.testing.assert_allclose(make.delta_of(module), 2.0 * dense[module.path], rtol=1e-13)


def test_fused_input_is_split_in_blocks(make, tmp_path):
    a = np.arange(32, dtype=np.float32).reshape(2, 16)
    b = np.arange(96, dtype=np.float32).reshape(48, 2)
    data = file_of(tmp_path, {"blk.0.attn_qkv.weight.lora_a": a, "blk.0.attn_qkv.weight.lora_b": b})
    adapter = make.read(data, name=NAME).adapter
    by_path = {m.path: m for m in adapter.modules}
    for index, part in enumerate("qkv"):
        module = by_path[f"model.layers.0.self_attn.{part}_proj"]
        np.testing.assert_array_equal(to_numpy_f64(module.b), b[16 * index : 16 * index + 16])


def test_rows_of_llama_are_put_back(make, tmp_path):
    heads, size = 2, 8
    hf = np.arange(heads * size * 2, dtype=np.float32).reshape(heads * size, 2)
    # convert_hf_to_gguf.py, LlamaModel.permute
    stored = hf.reshape(heads, 2, size // 2, 2).swapaxes(1, 2).reshape(hf.shape)
    assert stored[:8, 0].tolist() == hf[[0, 4, 1, 5, 2, 6, 3, 7], 0].tolist()
    key = "blk.0.attn_q.weight"
    tensors = {f"{key}.lora_a": np.ones((2, 16), np.float32), f"{key}.lora_b": stored}
    data = file_of(tmp_path, tensors, "llama")
    asked = make.read(data, name=NAME)
    assert "ambiguous_layout" in make.codes(asked)
    base = {"model_type": "llama", "hidden_size": 16, "num_attention_heads": heads,
            "num_key_value_heads": heads, "num_hidden_layers": 1, "intermediate_size": 32}  # fmt: skip
    adapter = make.read(data, name=NAME, base_config=base).adapter
    np.testing.assert_array_equal(to_numpy_f64(adapter.modules[0].b), hf)


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({"kind": "model", "adapter": None}, "full_checkpoint"),
        ({"adapter": "control_vector"}, "unsupported_method"),
        ({"arch": "mamba"}, "unsupported_method"),
    ],
)
def test_what_is_no_lora_is_refused_by_name(make, tmp_path, more, code):
    reading = make.read(file_of(tmp_path, phi2()[0], **more), name=NAME)
    assert make.codes(reading) == [code]
    assert reading.inspection.format.name == "gguf"


def test_without_alpha_the_scale_is_one(make, tmp_path):
    reading = make.read(file_of(tmp_path, phi2()[0], alpha=None), name=NAME)
    assert {m.scale.value for m in reading.adapter.modules} == {1.0}
    assert make.codes(reading) == ["alpha_rule"]


def test_names_that_the_architecture_lacks(make, tmp_path):
    tensors, _ = phi2()
    tensors["blk.0.ffn_gate.weight.lora_a"] = np.ones((3, 16), np.float32)
    assert "unknown_tensors" in make.codes(make.read(file_of(tmp_path, tensors), name=NAME))
    half = {"blk.0.attn_q.weight.lora_a": np.ones((3, 16), np.float32)}
    assert "unpaired_factor" in make.codes(make.read(file_of(tmp_path, half), name=NAME))


def test_the_library_reads_what_we_write(make, tmp_path):
    tensors, _ = phi2()
    embedding = {"token_embd.weight.lora_a": np.ones((64, 3), np.float32),
                 "token_embd.weight.lora_b": np.ones((16, 3), np.float32)}  # fmt: skip
    tensors |= embedding
    adapter = make.read(file_of(tmp_path, tensors), name=NAME).adapter
    assert adapter.modules[0].path == "model.embed_tokens"
    assert adapter.modules[0].a.shape == (3, 64)
    (file,) = write_adapter(adapter, "gguf").files
    path = tmp_path / "ours.gguf"
    path.write_bytes(b"".join(bytes(chunk) for chunk in file.chunks()))
    reader = gguf.GGUFReader(path)
    found = {t.name: t.data for t in reader.tensors}
    assert found.keys() == tensors.keys()
    for name, array in tensors.items():
        np.testing.assert_array_equal(found[name], array)
    field = reader.fields["adapter.lora.alpha"]
    assert field.parts[field.data[0]][0] == 6.0


def test_what_one_alpha_cannot_say_is_refused(make):
    tensors, _ = make.phi_source("phi-l4")
    config = make.lora_config(alpha_pattern={"q_proj": 7})
    adapter = make.read(tensors, config, base_config=make.phi_config()).adapter
    with pytest.raises(Refused, match="one alpha"):
        write_adapter(adapter, "gguf")
    with pytest.raises(Refused, match="one scale"):
        write_adapter(adapter, "mlx")


LINEAR = {"q_proj": (16, 16), "k_proj": (8, 16), "v_proj": (8, 16), "o_proj": (16, 16)}
GATED = {"gate_proj": (40, 16), "up_proj": (40, 16), "down_proj": (16, 40)}


@pytest.mark.parametrize(
    ("family", "arch"),
    [("llama", "llama"), ("mistral", "llama"), ("qwen2", "qwen2"), ("gemma2", "gemma2"),
     ("gemma3_text", "gemma3"), ("stablelm", "stablelm")],
)  # fmt: skip
def test_every_family_has_the_names_of_llama_cpps_own_map(make, tmp_path, family, arch):
    """Names by gguf-py's map; rows by ``LlamaModel.permute`` written out."""
    rng = np.random.default_rng(8)
    tensors, dense = {}, {}
    for tail, (out, into) in (LINEAR | GATED).items():
        path = f"model.layers.1.{'mlp' if tail in GATED else 'self_attn'}.{tail}"
        a, b = (rng.standard_normal(s).astype(np.float32) for s in ((2, into), (out, 2)))
        tensors |= {f"{path}.lora_A.weight": a, f"{path}.lora_B.weight": b}
        dense[path] = (a, b)
    named = {f"base_model.model.{name}": array for name, array in tensors.items()}
    base = {"model_type": family, "hidden_size": 16, "num_attention_heads": 4, "head_dim": 4,
            "num_key_value_heads": 2, "num_hidden_layers": 2, "intermediate_size": 40,
            "vocab_size": 50}  # fmt: skip
    config = make.lora_config(base_model_name_or_path="", target_modules=[*LINEAR, *GATED])
    adapter = make.read(named, config, base_config=base).adapter
    (file,) = write_adapter(adapter, "gguf").files
    data = b"".join(bytes(chunk) for chunk in file.chunks())
    architecture = next(k for k, v in gguf.MODEL_ARCH_NAMES.items() if v == arch)
    names = gguf.get_tensor_name_map(architecture, 2)
    again = make.read(data, name=NAME, base_config=base)
    assert again.inspection.architecture.family == family
    assert again.inspection.verdict == "PASS", again.inspection.problems
    by_path = {m.path: m for m in again.adapter.modules}
    (tmp_path / "ours.gguf").write_bytes(data)
    stored = {t.name: t for t in gguf.GGUFReader(tmp_path / "ours.gguf").tensors}
    for path, (a, b) in dense.items():
        want = b
        if arch == "llama" and path.endswith(("q_proj", "k_proj")):
            heads = 4 if path.endswith("q_proj") else 2
            want = b.reshape(heads, 2, len(b) // heads // 2, 2).swapaxes(1, 2).reshape(b.shape)
        name = names.get_name(f"{path}.weight", try_suffixes=(".weight",))
        np.testing.assert_array_equal(stored[f"{name}.lora_b"].data, want)
        np.testing.assert_array_equal(stored[f"{name}.lora_a"].data, a)
        np.testing.assert_array_equal(to_numpy_f64(by_path[path].b), b)


MOE = {"model_type": "qwen3_moe", "hidden_size": 16, "num_attention_heads": 4, "head_dim": 4,
       "num_key_value_heads": 2, "num_hidden_layers": 1, "moe_intermediate_size": 12,
       "num_experts": 3, "vocab_size": 50}  # fmt: skip


def stacked(rank=2, experts=3, **changed):
    rng = np.random.default_rng(3)
    shapes = {"gate": (12, 16), "up": (12, 16), "down": (16, 12)}
    found = {}
    for part, (out, into) in shapes.items():
        count = changed.get(part, experts)
        name = f"blk.0.ffn_{part}_exps.weight"
        found[f"{name}.lora_a"] = rng.standard_normal((count, rank, into)).astype(np.float32)
        found[f"{name}.lora_b"] = rng.standard_normal((count, out, rank)).astype(np.float32)
    return found


def test_stacked_experts_are_one_pair_each_with_gate_and_up_together(make, tmp_path):
    tensors = stacked()
    reading = make.read(file_of(tmp_path, tensors, "qwen3moe"), name=NAME, base_config=MOE)
    assert reading.inspection.verdict == "PASS", reading.inspection.problems
    assert reading.inspection.architecture.family == "qwen3_moe"
    dense = {n[:-7]: tensors[n[:-1] + "b"].astype(np.float64) @ a for n, a in tensors.items() if n.endswith("a")}  # fmt: skip
    found = {m.path: make.delta_of(m) for m in reading.adapter.modules}
    assert len(found) == 6
    for expert in range(3):
        gate, up, down = (3.0 * dense[f"blk.0.ffn_{p}_exps.weight"][expert] for p in ("gate", "up", "down"))  # fmt: skip
        path = f"model.layers.0.mlp.experts.{{}}_proj.{expert}"
        np.testing.assert_allclose(found[path.format("gate_up")], np.concatenate([gate, up]), rtol=1e-12)  # fmt: skip
        np.testing.assert_allclose(found[path.format("down")], down, rtol=1e-12)
    (file,) = write_adapter(reading.adapter, "gguf").files
    (tmp_path / "ours.gguf").write_bytes(b"".join(bytes(c) for c in file.chunks()))
    ours = {t.name: t.data for t in gguf.GGUFReader(tmp_path / "ours.gguf").tensors}
    assert ours.keys() == tensors.keys()
    for name, array in tensors.items():
        np.testing.assert_array_equal(ours[name], array)


@pytest.mark.parametrize(
    "tensors",
    [
        stacked(up=2),
        stacked(experts=4),
        {k: v[0] for k, v in stacked().items()},
        {k: v[:, :1] if k.endswith("gate_exps.weight.lora_a") else v for k, v in stacked().items()},
        {k.replace("ffn_gate_exps", "attn_q"): v for k, v in stacked().items() if "gate" in k},
    ],
    ids=["two counts", "another base", "no stack", "two ranks", "no experts"],
)
def test_stacks_that_are_none_are_refused(make, tmp_path, tensors):
    reading = make.read(file_of(tmp_path, tensors, "qwen3moe"), name=NAME, base_config=MOE)
    assert reading.adapter is None, reading.inspection.problems


def test_how_many_experts_there_are_must_be_known_to_stack_them(make, tmp_path):
    data = file_of(tmp_path, stacked(), "qwen3moe")
    adapter = make.read(data, name=NAME, base_config=MOE).adapter
    with pytest.raises(Refused, match="how many the base has is not known"):
        write_adapter(replace(adapter, extra={}), "gguf")
    fewer = tuple(m for m in adapter.modules if not m.path.endswith(".1"))
    (file,) = write_adapter(replace(adapter, modules=fewer), "gguf").files
    again = make.read(b"".join(bytes(c) for c in file.chunks()), name=NAME, base_config=MOE).adapter
    for module in again.modules:
        assert to_numpy_f64(module.b).any() != module.path.endswith(".1")
