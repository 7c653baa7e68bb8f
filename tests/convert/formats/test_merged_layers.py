"""loralib and LitGPT: merged layers against their definition, spelled out in float64."""

import io
import json
import pickle
import zipfile

import numpy as np
import pytest
import torch
from safetensors.numpy import save

from adaptrix.convert.arrays import to_numpy_f64
from adaptrix.convert.reading import ReadOptions, read_adapter
from adaptrix.convert.source import AdapterFiles, MemorySource
from adaptrix.convert.writing import write_adapter
from adaptrix.schema.errors import Refused

LLAMA = {"model_type": "llama", "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2,
         "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 32}  # fmt: skip
QKV = {"q": 8, "k": 4, "v": 4}


def folder(**files):
    named = {name.replace("__", "."): content for name, content in files.items()}
    return AdapterFiles(
        location="mem", files={n: MemorySource(n, content) for n, content in named.items()}
    )


def delta(module):
    return module.scale.value * (to_numpy_f64(module.b) @ to_numpy_f64(module.a))


def codes(reading):
    return [p.code for p in reading.inspection.problems]


def on_disk(written):
    return {f.path: b"".join(bytes(c) for c in f.chunks()) for f in written.files}


def merged(rng, rank, into, sizes):
    """Factors of a merged layer, and ``ΔW/s`` of each part from its own two blocks."""
    a = rng.standard_normal((rank * len(sizes), into)).astype("f4")
    b = rng.standard_normal((sum(sizes.values()), rank)).astype("f4")
    dense, row = {}, 0
    for i, (part, size) in enumerate(sizes.items()):
        block = a[i * rank : (i + 1) * rank].astype("f8")
        dense[part] = b[row : row + size].astype("f8") @ block
        row += size
    return a, b, dense


def forward_of_peft_02(x, a, b, enabled, out):
    """``MergedLinear.forward`` of PEFT 0.2 without its base: a convolution in two groups."""
    after = torch.nn.functional.conv1d((x @ a.T).T[None], b, groups=2)[0].T
    rows = torch.zeros(out, dtype=torch.bool).view(len(enabled), -1)
    rows[torch.tensor(enabled, dtype=torch.bool)] = True
    padded = torch.zeros(len(x), out, dtype=x.dtype)
    padded[:, rows.view(-1)] = after
    return padded


@pytest.mark.parametrize("enabled", [[1, 1, 1], [1, 0, 1], [1, 1, 0], [0, 1, 0], [0, 0, 1]])
def test_the_first_pefts_merged_layer_is_its_grouped_convolution(enabled):
    rng = np.random.default_rng(7)
    rank, width, count = 4, 12, sum(enabled)
    a = rng.standard_normal((rank * count, width)).astype("f4")
    b = rng.standard_normal((width * count, rank * count // 2, 1)).astype("f4")
    name = "base_model.model.transformer.h.0.attn.c_attn"
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": 6, "target_modules": ["c_attn"],
              "enable_lora": [bool(flag) for flag in enabled]}  # fmt: skip
    weights = save({f"{name}.lora_A.weight": a, f"{name}.lora_B.weight": b})
    files = folder(adapter_model__safetensors=weights,
                   adapter_config__json=json.dumps(config).encode())  # fmt: skip
    (module,) = read_adapter(files).adapter.modules
    x = torch.from_numpy(rng.standard_normal((5, width)))
    factors = torch.from_numpy(a).double(), torch.from_numpy(b).double()
    wanted = 6 / rank * forward_of_peft_02(x, *factors, enabled, 3 * width)
    np.testing.assert_allclose(x.numpy() @ delta(module).T, wanted.numpy(), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("enabled", [[1, 1, 1], [1, 0, 1], [0, 1, 0]])
def test_loralib_merged_layer_is_its_zero_padded_update(enabled):
    rng = np.random.default_rng(1)
    parts = {name: 8 for name, flag in zip("qkv", enabled, strict=True) if flag}
    a, b, dense = merged(rng, 2, 8, parts)
    name = "transformer.h.0.attn.c_attn"
    flags = json.dumps({"lora_alpha": 6, "enable_lora": [bool(f) for f in enabled]}).encode()
    weights = save({f"{name}.lora_A": a, f"{name}.lora_B": b})
    reading = read_adapter(folder(x__safetensors=weights, adapter_config__json=flags))
    (module,) = reading.adapter.modules
    wanted = np.concatenate([dense.get(p, np.zeros((8, 8))) for p in "qkv"])
    np.testing.assert_allclose(delta(module), 3.0 * wanted, rtol=1e-12)
    assert module.kind == "conv1d_transposed"
    files = on_disk(write_adapter(reading.adapter, "loralib"))
    again = torch.load(io.BytesIO(files["lora.bin"]), weights_only=True)
    np.testing.assert_array_equal(again[f"{name}.lora_B"].numpy(), b)
    assert json.loads(files["adapter_config.json"])["enable_lora"] == [bool(f) for f in enabled]


def test_loralib_asks_which_parts_and_for_alpha():
    a, b, _ = merged(np.random.default_rng(2), 2, 8, {"q": 8, "v": 8})
    name = "transformer.h.0.attn.c_attn"
    files = folder(x__safetensors=save({f"{name}.lora_A": a, f"{name}.lora_B": b}))
    assert {"missing_alpha", "ambiguous_layout"} <= set(codes(read_adapter(files)))
    assert read_adapter(files).inspection.verdict == "INCONCLUSIVE"
    told = ReadOptions(alpha=4, source_layout="merged-qv")
    (module,) = read_adapter(files, told).adapter.modules
    wide = to_numpy_f64(module.b)
    assert wide.shape == (24, 4)
    assert not wide[8:16].any()
    assert wide[:8, :2].any()


def test_loralib_refuses_what_its_file_cannot_say():
    rng = np.random.default_rng(3)
    tensors = {}
    for layer, rank in ((0, 2), (1, 4)):
        path = f"base_model.model.model.layers.{layer}.self_attn.q_proj"
        tensors[f"{path}.lora_A.weight"] = rng.standard_normal((rank, 8)).astype("f4")
        tensors[f"{path}.lora_B.weight"] = rng.standard_normal((8, rank)).astype("f4")
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "rank_pattern": {"layers.1.self_attn.q_proj": 4},
              "alpha_pattern": {"layers.1.self_attn.q_proj": 5}}  # fmt: skip
    weights = save(tensors)
    reading = read_adapter(
        folder(
            adapter_model__safetensors=weights,
            adapter_config__json=json.dumps(config).encode(),
        ),
        ReadOptions(base_config=LLAMA),
    )
    with pytest.raises(Refused, match="one alpha"):
        write_adapter(reading.adapter, "loralib")


def litgpt(enabled, rank=2, seed=0):
    rng = np.random.default_rng(seed)
    tensors, dense = {}, {}
    names = {"attn.proj": ("self_attn.o_proj", 8, 8), "mlp.fc_1": ("mlp.gate_proj", 12, 8),
             "mlp.fc_2": ("mlp.up_proj", 12, 8), "mlp.proj": ("mlp.down_proj", 8, 12)}  # fmt: skip
    for layer in range(2):
        a, b, parts = merged(rng, rank, 8, {p: QKV[p] for p in enabled})
        place = f"transformer.h.{layer}"
        tensors[f"{place}.attn.qkv.lora_A"], tensors[f"{place}.attn.qkv.lora_B"] = a, b
        for part, update in parts.items():
            dense[f"model.layers.{layer}.self_attn.{part}_proj"] = update
        for tail, (canonical, out, into) in names.items():
            a = rng.standard_normal((rank, into)).astype("f4")
            b = rng.standard_normal((out, rank)).astype("f4")
            tensors[f"{place}.{tail}.lora_A"], tensors[f"{place}.{tail}.lora_B"] = a, b
            dense[f"model.layers.{layer}.{canonical}"] = b.astype("f8") @ a.astype("f8")
    return tensors, dense


def torch_bytes(tensors):
    stream = io.BytesIO()
    torch.save({"model": {k: torch.from_numpy(v) for k, v in tensors.items()}}, stream)
    return stream.getvalue()


def hyperparameters(enabled, alpha=5):
    flags = "".join(f"lora_{name}: {str(part in enabled).lower()}\n"
                    for part, name in (("q", "query"), ("k", "key"), ("v", "value")))  # fmt: skip
    return f"lora_r: 2\nlora_alpha: {alpha}\n{flags}checkpoint_dir: checkpoints/me/some-llama\n".encode()


@pytest.mark.parametrize("enabled", ["qkv", "qv", "q", "kv"])
def test_litgpt_parts_are_their_own_rows_and_blocks(enabled):
    tensors, dense = litgpt(enabled)
    files = folder(
        lit_model__pth__lora=torch_bytes(tensors), hyperparameters__yaml=hyperparameters(enabled)
    )
    reading = read_adapter(files, ReadOptions(base_config=LLAMA))
    assert reading.inspection.format.name == "litgpt"
    assert reading.inspection.base_model.declared == "me/some-llama"
    found = {m.path: m for m in reading.adapter.modules}
    assert found.keys() == dense.keys()
    for path, wanted in dense.items():
        np.testing.assert_allclose(delta(found[path]), 2.5 * wanted, rtol=1e-12)
    written = on_disk(write_adapter(reading.adapter, "litgpt"))
    state = torch.load(io.BytesIO(written["lit_model.pth.lora"]), weights_only=True)["model"]
    assert state.keys() == tensors.keys()
    for name, array in tensors.items():
        np.testing.assert_array_equal(state[name].numpy(), array)


def test_litgpt_asks_for_the_base_it_does_not_name():
    tensors, _ = litgpt("qkv")
    files = folder(lit_model__pth__lora=torch_bytes(tensors))
    reading = read_adapter(files)
    assert codes(reading).count("ambiguous_layout") == 1
    assert reading.inspection.verdict == "INCONCLUSIVE"
    # Two of three parts, no settings, and q + k = q + v: nobody can tell k from v.
    tensors, _ = litgpt("qv")
    unclear = read_adapter(folder(lit_model__pth__lora=torch_bytes(tensors)),
                           ReadOptions(base_config=LLAMA, alpha=4))  # fmt: skip
    assert "ambiguous_layout" in codes(unclear)
    told = ReadOptions(base_config=LLAMA, alpha=4, source_layout="merged-qv")
    again = read_adapter(folder(lit_model__pth__lora=torch_bytes(tensors)), told)
    assert "model.layers.0.self_attn.v_proj" in {m.path for m in again.adapter.modules}


def test_litgpt_refuses_a_family_with_fused_projections():
    tensors, _ = litgpt("qkv")
    fused = {**LLAMA, "model_type": "gpt_neox"}
    reading = read_adapter(
        folder(lit_model__pth__lora=torch_bytes(tensors)), ReadOptions(base_config=fused, alpha=4)
    )
    assert "unsupported_method" in codes(reading)
    assert reading.adapter is None


def test_the_torch_archive_is_aligned_and_checked():
    tensors, _ = litgpt("qkv")
    files = folder(
        lit_model__pth__lora=torch_bytes(tensors), hyperparameters__yaml=hyperparameters("qkv")
    )
    adapter = read_adapter(files, ReadOptions(base_config=LLAMA)).adapter
    written = write_adapter(adapter, "litgpt")
    content = b"".join(bytes(c) for c in written.files[0].chunks())
    assert len(content) == written.files[0].size_bytes
    archive = zipfile.ZipFile(io.BytesIO(content))
    assert archive.testzip() is None
    for entry in archive.infolist():
        with archive.open(entry) as stream:
            assert stream.read()
        name_length, extra_length = np.frombuffer(content, "<u2", 2, entry.header_offset + 26)
        begin = entry.header_offset + 30 + int(name_length) + int(extra_length)
        assert begin % 64 == 0
    ops = {
        op.name for op, _, _ in __import__("pickletools").genops(archive.read("archive/data.pkl"))
    }
    assert "REDUCE" in ops
    assert pickle.DEFAULT_PROTOCOL >= 2
