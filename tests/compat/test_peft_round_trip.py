"""PEFT saves, we read and write, PEFT loads: no key missing, the same logits."""

import json

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model, set_peft_model_state_dict
from peft.utils import load_peft_weights
from safetensors.torch import load_file, save_file
from transformers import PhiConfig, PhiForCausalLM

from adaptrix.convert.reading import ReadOptions, read_adapter
from adaptrix.convert.source import open_path
from adaptrix.convert.writing import write_adapter

# Warnings of the two libraries about each other are not ours.
pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
IDS = torch.arange(12).reshape(2, 6)
ALL = ["q_proj", "k_proj", "v_proj", "dense", "fc1", "fc2"]


def base_model(seed=0):
    torch.manual_seed(seed)
    config = PhiConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=3,
        num_attention_heads=4, partial_rotary_factor=0.5, attention_dropout=0.0,
        resid_pdrop=0.0, embd_pdrop=0.0, tie_word_embeddings=False,
    )  # fmt: skip
    return PhiForCausalLM(config).eval()


def trained(**settings):
    """A PEFT model whose adapter has random factors, biases and magnitudes."""
    torch.manual_seed(1)
    model = get_peft_model(base_model(), LoraConfig(task_type="CAUSAL_LM", **settings))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def logits(model):
    with torch.no_grad():
        return model(IDS).logits


def converted(folder, out, **options):
    reading = read_adapter(open_path(folder), ReadOptions(**options))
    assert reading.adapter is not None, reading.inspection.problems
    written = write_adapter(reading.adapter, "peft")
    assert written.fidelity == "exact"
    out.mkdir()
    for file in written.files:
        data = b"".join(bytes(chunk) for chunk in file.chunks())
        assert len(data) == file.size_bytes
        (out / file.path).write_bytes(data)
    return reading, written


def loaded(folder):
    """The base with the adapter; fails on any missing or unexpected key."""
    model = get_peft_model(base_model(), LoraConfig.from_pretrained(folder))
    result = set_peft_model_state_dict(model, load_peft_weights(folder, device="cpu"))
    marks = ("lora_", "modules_to_save", "trainable_tokens")
    assert [key for key in result.missing_keys if any(mark in key for mark in marks)] == []
    assert result.unexpected_keys == []
    return PeftModel.from_pretrained(base_model(), folder).eval()


CASES = {
    "plain": {"r": 4, "lora_alpha": 6, "target_modules": ["q_proj", "v_proj"]},
    "all linear": {"r": 4, "lora_alpha": 8, "target_modules": ALL},
    "rslora": {"r": 8, "lora_alpha": 5, "target_modules": ALL, "use_rslora": True},
    "patterns": {
        "r": 4, "lora_alpha": 6, "target_modules": ["q_proj", "k_proj", "v_proj", "dense"],
        "use_rslora": True, "rank_pattern": {"q_proj": 2, r"layers\.1\.self_attn\.dense": 3},
        "alpha_pattern": {"layers.0.self_attn.q_proj": 9, "^model.layers.2.self_attn.v_proj": 7},
    },
    "dora": {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "fc1"], "use_dora": True},
    "lora bias": {"r": 2, "lora_alpha": 8, "target_modules": ["fc2"], "lora_bias": True},
    "bias lora_only": {"r": 2, "lora_alpha": 8, "target_modules": ["q_proj"], "bias": "lora_only"},
    "bias all": {"r": 2, "lora_alpha": 8, "target_modules": ["q_proj"], "bias": "all"},
    "modules to save": {
        "r": 2, "lora_alpha": 8, "target_modules": ["q_proj"], "modules_to_save": ["lm_head"],
    },
    "embedding": {"r": 2, "lora_alpha": 8, "target_modules": ["q_proj", "embed_tokens", "lm_head"]},
    "tokens": {
        "r": 2, "lora_alpha": 8, "target_modules": ["q_proj"],
        "trainable_token_indices": {"embed_tokens": [3, 9]},
    },
    "two layers": {
        "r": 2, "lora_alpha": 8, "target_modules": ["q_proj", "dense"],
        "layers_to_transform": [0, 2],
    },
    "regex": {"r": 2, "lora_alpha": 8, "target_modules": r".*layers\.[01]\..*(q_proj|fc1)"},
}  # fmt: skip


@pytest.mark.parametrize("case", list(CASES))
def test_logits_and_keys_survive(case, tmp_path):
    model = trained(**CASES[case])
    before = logits(model)
    assert not torch.allclose(before, logits(base_model()), atol=1e-3)
    model.save_pretrained(tmp_path / "peft", save_embedding_layers=case == "embedding")
    reading, _ = converted(
        tmp_path / "peft", tmp_path / "ours", base_config=dict(model.config.to_dict())
    )
    assert reading.inspection.verdict == "PASS", reading.inspection.problems
    after = logits(loaded(tmp_path / "ours"))
    torch.testing.assert_close(after, before, rtol=0, atol=0)
    again = read_adapter(open_path(tmp_path / "ours")).adapter
    first = reading.adapter
    assert [m.path for m in again.modules] == [m.path for m in first.modules]
    assert [m.scale.value for m in again.modules] == [m.scale.value for m in first.modules]
    assert [m.kind for m in again.modules] == [m.kind for m in first.modules]
    assert again.tensors().keys() == first.tensors().keys()
    for name, tensor in first.tensors().items():
        assert bytes(again.tensors()[name].load()) == bytes(tensor.load())


def test_our_file_has_the_tensors_that_peft_saved(tmp_path):
    model = trained(**CASES["all linear"])
    model.save_pretrained(tmp_path / "peft")
    converted(tmp_path / "peft", tmp_path / "ours")
    theirs = load_file(tmp_path / "peft" / "adapter_model.safetensors")
    ours = load_file(tmp_path / "ours" / "adapter_model.safetensors")
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(theirs[name], ours[name]) for name in theirs)
    config = json.loads((tmp_path / "ours" / "adapter_config.json").read_text())
    assert config["target_modules"] == sorted(ALL)
    assert config["lora_alpha"] == 8


@pytest.mark.parametrize("layout", ["phi-l1", "phi-l2", "phi-l3"])
def test_an_old_layout_gives_the_logits_of_hand_merged_weights(layout, tmp_path):
    generator = torch.Generator().manual_seed(7)
    tensors, merged = {}, base_model().state_dict()
    names = {
        "phi-l1": "layers.{j}.mixer.Wqkv", "phi-l2": "transformer.h.{i}.mixer.Wqkv",
        "phi-l3": "model.layers.{i}.self_attn.query_key_value",
    }  # fmt: skip
    for layer in range(3):
        a = torch.randn(4, 32, generator=generator) * 0.2
        b = torch.randn(96, 4, generator=generator) * 0.2
        key = "base_model.model." + names[layout].format(i=layer, j=layer + 1)
        tensors |= {f"{key}.lora_A.weight": a, f"{key}.lora_B.weight": b}
        delta = 2.0 * (b.double() @ a.double())
        if layout == "phi-l3":
            parts = [delta.view(4, 3, 8, 32)[:, j].reshape(32, 32) for j in range(3)]
        else:
            parts = list(delta.view(3, 32, 32))
        for part, update in zip("qkv", parts, strict=True):
            name = f"model.layers.{layer}.self_attn.{part}_proj.weight"
            merged[name] = (merged[name].double() + update).float()
    folder = tmp_path / "old"
    folder.mkdir()
    if layout == "phi-l2":
        torch.save(tensors, folder / "adapter_model.bin")
    else:
        save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["Wqkv"], "task_type": "CAUSAL_LM"}  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config))
    model = base_model()
    converted(folder, tmp_path / "ours", base_config=model.config.to_dict())
    expected = base_model()
    expected.load_state_dict(merged)
    got, want = logits(loaded(tmp_path / "ours")), logits(expected)
    assert float((got - want).abs().max() / want.abs().max()) < 1e-5


def test_mlx_gives_the_same_logits_as_its_own_formula(tmp_path):
    rng = np.random.default_rng(2)
    tensors, merged = {}, base_model().state_dict()
    for layer in range(3):
        for part in ("q_proj", "k_proj", "v_proj"):
            path = f"model.layers.{layer}.self_attn.{part}"
            a = torch.from_numpy(rng.standard_normal((32, 4)).astype(np.float32)) * 0.1
            b = torch.from_numpy(rng.standard_normal((4, 32)).astype(np.float32)) * 0.1
            tensors |= {f"{path}.lora_a": a, f"{path}.lora_b": b}
            # mlx_lm, tuner/lora.py: y + scale * (x @ lora_a) @ lora_b
            merged[f"{path}.weight"] = (
                merged[f"{path}.weight"].double() + (10.0 * (a.double() @ b.double())).T
            ).float()
    folder = tmp_path / "mlx"
    folder.mkdir()
    save_file(tensors, folder / "adapters.safetensors")
    config = {"fine_tune_type": "lora", "num_layers": -1, "model": "me/sample-phi",
              "lora_parameters": {"rank": 4, "scale": 10.0, "dropout": 0.0}}  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config))
    converted(folder, tmp_path / "ours")
    expected = base_model()
    expected.load_state_dict(merged)
    got, want = logits(loaded(tmp_path / "ours")), logits(expected)
    assert float((got - want).abs().max() / want.abs().max()) < 1e-5
