"""A saved model is the merged one: read by transformers, weight by weight and logit by logit."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from adaptrix.loader.session import Session
from adaptrix.samples import BASE_DIR
from adaptrix.schema.errors import UsageError

conftest = sys.modules.get("tests.conftest") or sys.modules["conftest"]
half = conftest.load_helper("half_checkpoints", Path(__file__).parent / "half_checkpoints.py")
IDS = torch.arange(24).reshape(2, 12)


@pytest.fixture(scope="module")
def base_folder(tmp_path_factory):
    return half.checkpoint(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def adapters(base_folder, tmp_path_factory):
    root = tmp_path_factory.mktemp("adapters")
    return [half.weighted(half.peft_adapter(base_folder, root / f"a{n}", n)) for n in range(2)]


def tensors(folder):
    return {
        k: v for path in sorted(folder.glob("*.safetensors")) for k, v in load_file(path).items()
    }


def exact(before, entries, name):
    total = before.double()
    for entry in entries:
        for module in entry.adapter.modules:
            if f"{module.path}.weight" == name:
                a, b = (
                    torch.frombuffer(bytearray(t.load()), dtype=torch.float32).reshape(t.shape)
                    for t in (module.a, module.b)
                )
                total = total + entry.weight * module.scale.value * (b.double() @ a.double())
    return total


def test_every_tensor_is_the_base_or_the_rounded_sum(base_folder, adapters, tmp_path):
    session = Session.open(str(base_folder), adapters)
    with torch.no_grad():
        wanted = session.base.model(input_ids=IDS).logits
    size = session.save(tmp_path / "new" / "model", {"adapters": ["a0", "a1"]})
    folder = tmp_path / "new" / "model"
    assert [path.name for path in folder.parent.iterdir()] == ["model"]
    assert size == sum(path.stat().st_size for path in folder.iterdir())
    assert json.loads((folder / "adaptrix.json").read_text()) == {"adapters": ["a0", "a1"]}
    assert json.loads((folder / "config.json").read_text())["dtype"] == "float16"
    before, after = tensors(base_folder), tensors(folder)
    assert before.keys() == after.keys()
    touched = {f"{module.path}.weight" for module in session.plan.modules}
    changed = set()
    for name, value in before.items():
        assert after[name].dtype is torch.float16
        rounded = exact(value, adapters, name)
        step = torch.finfo(torch.float16).eps * rounded.abs() + 2.0**-24
        assert ((after[name].double() - rounded).abs() <= step).all(), name
        if not torch.equal(after[name], value):
            changed.add(name)
    assert changed == touched
    loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        torch.testing.assert_close(loaded(input_ids=IDS).logits, wanted, rtol=1e-5, atol=1e-5)
    theirs, ours = (AutoTokenizer.from_pretrained(place) for place in (base_folder, folder))
    assert theirs("tom has 3") == ours("tom has 3")
    # And what was saved is a base like any other, of which saving leaves no trace.
    again = Session.open(str(folder), [])
    assert again.base.dtype is torch.float16
    session.detach()
    for name, value in before.items():
        assert torch.equal(session.base.model.get_parameter(name).half(), value), name


def test_what_is_tied_is_written_once(tmp_path):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=1024, hidden_size=32, intermediate_size=48, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2, tie_word_embeddings=True,
    )  # fmt: skip
    LlamaForCausalLM(config).half().save_pretrained(tmp_path / "base")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(BASE_DIR / name, tmp_path / "base" / name)
    session = Session.open(str(tmp_path / "base"), [])
    assert session.base.compute_dtype is torch.float32
    session.save(tmp_path / "new", {})
    before, after = tensors(tmp_path / "base"), tensors(tmp_path / "new")
    assert "lm_head.weight" not in before
    assert before.keys() == after.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_a_failure_leaves_nothing(base_folder, adapters, tmp_path, monkeypatch):
    session = Session.open(str(base_folder), adapters)

    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(session.base.tokenizer), "save_pretrained", fail)
    with pytest.raises(OSError, match="No space"):
        session.save(tmp_path / "model", {})
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_saved_is_refused(base_folder, adapters, tmp_path):
    (tmp_path / "kept.txt").write_text("mine")
    session = Session.open(str(base_folder), adapters)
    with pytest.raises(UsageError, match="new or empty folder"):
        session.save(tmp_path, {})
    attached = Session.open(str(base_folder), adapters, mode="attached")
    with pytest.raises(UsageError, match="only a merged model"):
        attached.save(tmp_path / "model", {})
    assert [path.name for path in tmp_path.iterdir()] == ["kept.txt"]
