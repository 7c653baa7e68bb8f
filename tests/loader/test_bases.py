"""Bases of every kind that transformers reads, and what is said of those that cannot be."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from adaptrix.loader.base import base_structure, load_base
from adaptrix.loader.base_place import locate
from adaptrix.loader.generate import GenerateOptions, generate
from adaptrix.samples import BASE_DIR
from adaptrix.schema.errors import FormatError, NotFound, PolicyRefused

ROOT = Path(__file__).resolve().parents[2]
PROMPT = "problem : tom has 3 apples and gets 4 more . how many in all ? answer :"


@pytest.fixture
def folder(tmp_path):
    return Path(shutil.copytree(BASE_DIR, tmp_path / "base"))


def weights(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


@pytest.fixture(scope="module")
def wanted():
    return weights(load_base("sample").model)


def test_shards_and_pickles_are_the_same_model(folder, wanted):
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(tensors, folder / "pytorch_model.bin")
    assert same(weights(load_base(str(folder)).model), wanted)
    (folder / "pytorch_model.bin").unlink()
    names = sorted(tensors)
    parts = {"model-00001-of-00002.safetensors": names[::2],
             "model-00002-of-00002.safetensors": names[1::2]}  # fmt: skip
    for file, members in parts.items():
        save_file({name: tensors[name] for name in members}, folder / file, {"format": "pt"})
    index = {"metadata": {}, "weight_map": {n: f for f, ns in parts.items() for n in ns}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert same(weights(load_base(str(folder)).model), wanted)
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(FormatError, match="00002-of-00002"):
        load_base(str(folder))


def test_weights_that_are_missing_are_never_made_up(folder):
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.fc1.weight"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(FormatError, match=r"missing .*layers\.1\.mlp\.fc1"):
        load_base(str(folder))


def test_damaged_weights_are_said(folder):
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(FormatError) as caught:
        load_base(str(folder))
    assert str(folder) in str(caught.value)


def test_a_base_needs_a_tokenizer(folder):
    for file in folder.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(FormatError, match="no tokenizer") as caught:
        load_base(str(folder))
    assert caught.value.code == "no_tokenizer"


def test_what_is_no_base_is_told_apart(folder, tmp_path):
    with pytest.raises(FormatError, match="holds an adapter"):
        locate(str(ROOT / "samples" / "adapters" / "math"))
    with pytest.raises(FormatError, match="no model folder"):
        locate(str(tmp_path))
    with pytest.raises(NotFound, match="no such model folder"):
        locate("./nowhere")
    with pytest.raises(NotFound, match="no such base model"):
        locate("nowhere")
    with pytest.raises(FormatError, match="neither") as caught:
        locate(str(folder / "model.safetensors"))
    assert f"--base {folder}" in caught.value.hint
    assert locate("hf:org/name@v1").revision == "v1"
    assert locate("org/name/file.gguf").gguf_file == "file.gguf"
    assert locate(str(folder / "config.json")).location == str(folder)
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    with pytest.raises(FormatError) as caught:
        locate(str(tmp_path))
    assert "x.gguf" in caught.value.hint


def test_code_from_a_base_is_never_run(folder):
    config = json.loads((folder / "config.json").read_text())
    del config["architectures"]
    config |= {"model_type": "own", "auto_map": {
        "AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text(f"open({str(folder / 'ran')!r}, 'w')\n")
    with pytest.raises(PolicyRefused, match="never run"):
        load_base(str(folder))
    assert not (folder / "ran").exists()


def write_gguf(path):
    """A llama of two layers with 8-bit weights; returns the weights as they read back."""
    rng, width, inner, vocabulary = np.random.default_rng(0), 32, 64, 64
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(2)
    writer.add_context_length(64)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(width // 2)
    writer.add_vocab_size(vocabulary)
    letters = [chr(97 + number) for number in range(26)]
    tokens = ["<unk>", "<s>", "</s>", "▁", *letters, *(f"▁{char}" for char in letters)]
    tokens += [f"zz{number}" for number in range(vocabulary - len(tokens))]
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([-float(number) for number in range(vocabulary)])
    writer.add_token_types([2, 3, 3] + [1] * (vocabulary - 3))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    shapes = {"attn_q": (width, width), "attn_k": (width, width), "attn_v": (width, width),
              "attn_output": (width, width), "ffn_gate": (inner, width),
              "ffn_up": (inner, width), "ffn_down": (width, inner)}  # fmt: skip
    read = {}
    for name in ("token_embd", "output"):
        writer.add_tensor(
            f"{name}.weight", rng.standard_normal((vocabulary, width)).astype(np.float32)
        )
    writer.add_tensor("output_norm.weight", np.ones(width, np.float32))
    kind = gguf.GGMLQuantizationType.Q8_0
    for layer in range(2):
        for name, shape in shapes.items():
            packed = gguf.quants.quantize(
                (rng.standard_normal(shape) * 0.2).astype(np.float32), kind
            )
            read[f"{layer}.{name}"] = gguf.quants.dequantize(packed, kind)
            writer.add_tensor(f"blk.{layer}.{name}.weight", packed, raw_dtype=kind)
        for name in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{layer}.{name}.weight", np.ones(width, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return read


def test_a_gguf_base_runs(tmp_path, capfd):
    read = write_gguf(tmp_path / "tiny.gguf")
    with warnings.catch_warnings():
        # Inside transformers, on reading arrays that it does not write.
        warnings.simplefilter("ignore", UserWarning)
        base = load_base(str(tmp_path / "tiny.gguf"))
    assert base_structure(str(tmp_path / "tiny.gguf")).family == "llama"
    for layer in range(2):
        got = base.model.get_parameter(f"model.layers.{layer}.mlp.down_proj.weight")
        assert torch.equal(got, torch.from_numpy(read[f"{layer}.ffn_down"]))
    done = generate(base, ["a b c"], GenerateOptions(max_new_tokens=5))[0]
    assert done.finish in {"end", "length"}
    capfd.readouterr()


SEVERAL = """
import json, sys
from adaptrix.cli import main
for base in sys.argv[1:]:
    status = main.run(["run", "--base", base, "-p", "problem :", "--max-new-tokens", "3", "--json"])
    print(json.dumps({"base": base, "status": status}), flush=True)
    print(file=sys.stderr, flush=True)
"""


def run_bases(tmp_path, bases, **env):
    """Statuses and error texts, from one process with the real client of the Hub."""
    done = subprocess.run(
        [sys.executable, "-c", SEVERAL, *bases], check=False, capture_output=True, text=True,
        timeout=240,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src"), "HF_HOME": str(tmp_path / "hf"),
             "ADAPTRIX_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1", **env},
    )  # fmt: skip
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    statuses = [row["status"] for row in rows if "status" in row]
    texts = [row["text"] for row in rows if "text" in row]
    errors = [json.loads(line)["error"] for line in done.stderr.splitlines() if line.strip()]
    return statuses, errors, texts


def test_bases_on_the_hub(hub, tmp_path):
    files = {path.name: path.read_bytes() for path in BASE_DIR.iterdir()}
    hub.repository("any/base").commit(files)
    gated = hub.repository("any/gated")
    gated.commit(files)
    gated.token, gated.gated = "secret", True
    hub.repository("any/bare").commit({"README.md": b"no model"})
    bases = ["any/base", "any/base@nope", "any/gated", "any/missing", "any/bare"]
    statuses, errors, texts = run_bases(tmp_path, bases)
    assert statuses == [0, 5, 4, 5, 2]
    assert errors[0]["message"].startswith("no such revision")
    assert "huggingface.co/any/gated" in errors[1]["hint"]
    assert "HF_TOKEN" in errors[1]["hint"]
    assert errors[2]["message"].startswith("no such repository")
    asked = len(hub.requests)
    offline, said, again = run_bases(tmp_path, ["any/base", "any/other"], HF_HUB_OFFLINE="1")
    assert (offline, again) == ([0, 6], texts)
    assert "hf download any/other" in said[0]["hint"]
    assert len(hub.requests) == asked
    allowed, _, _ = run_bases(
        tmp_path, ["any/gated"], HF_TOKEN="secret", HF_HUB_DISABLE_IMPLICIT_TOKEN="0"
    )
    assert allowed == [0]
