"""Adapters on quantised modules: only their forward is needed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from adaptrix.convert.reading import read_adapter
from adaptrix.convert.source import open_path
from adaptrix.loader.base import BaseModel
from adaptrix.loader.plan import WeightedAdapter, plan
from adaptrix.loader.session import Session
from adaptrix.loader.structure import structure_of, structure_of_config
from adaptrix.schema.digest import Digest
from adaptrix.schema.errors import IncompatibleAdapter

conftest = sys.modules.get("tests.conftest") or sys.modules["conftest"]
cases = conftest.load_helper("peft_cases", Path(__file__).parent / "peft_cases.py")


class Int8Linear(nn.Module):
    """Weight-only 8-bit, as GPTQ and its like: buffers, and a forward that knows them."""

    def __init__(self, linear):
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        scale = linear.weight.detach().abs().amax(dim=1, keepdim=True) / 127
        self.register_buffer("scales", scale)
        self.register_buffer("qweight", (linear.weight.detach() / scale).round().to(torch.int8))
        self.bias = linear.bias

    def forward(self, x):
        return nn.functional.linear(x, self.qweight.to(x.dtype) * self.scales, self.bias)


def quantised_by_hand(model):
    for path, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and path != "lm_head":
            parent, _, leaf = path.rpartition(".")
            setattr(model.get_submodule(parent), leaf, Int8Linear(module))
    return model


def dequantised(model):
    """The same model with the weights that its quantised modules compute with."""
    plain = cases.tiny_phi()
    for path, module in model.named_modules():
        if isinstance(module, Int8Linear):
            linear = plain.get_submodule(path)
            linear.weight.data = module.qweight.float() * module.scales
    return plain


def base_of(model):
    return BaseModel(
        name="tiny", model=model, tokenizer=None, structure=structure_of(model, "tiny"),
        config_digest=Digest.of(b""), dtype=torch.float32, compute_dtype=torch.float32,
        device=torch.device("cpu"),
    )  # fmt: skip


def adapter(name, folder):
    cases.save_case(name, folder)
    reading = read_adapter(open_path(folder))
    assert reading.adapter is not None
    return WeightedAdapter(name=name, adapter=reading.adapter)


def logits(model, ids):
    with torch.no_grad():
        return model(input_ids=ids).logits


IDS = torch.arange(24).reshape(2, 12)


@pytest.mark.parametrize("name", ["lora", "dora", "lora_bias", "all_biases", "saved_head"])
def test_attached_to_int8_is_merged_into_its_dequantised_weights(tmp_path, name):
    entry = adapter(name, tmp_path)
    model = quantised_by_hand(cases.tiny_phi())
    plain = dequantised(model)
    before = logits(model, IDS)
    assert (before - logits(plain, IDS)).abs().max() <= 1e-5 * before.abs().max()
    Session.open(base_of(plain), [entry], mode="merged")
    Session.open(base_of(model), [entry], mode="attached")
    got, wanted = logits(model, IDS), logits(plain, IDS)
    assert (got - wanted).abs().max() <= 1e-5 * wanted.abs().max()
    assert (got - before).abs().max() > 1e-2 * wanted.abs().max()


def test_merging_into_quantised_weights_is_refused(tmp_path):
    entry = adapter("lora", tmp_path)
    with pytest.raises(IncompatibleAdapter, match="is quantised; run with --mode attached"):
        Session.open(base_of(quantised_by_hand(cases.tiny_phi())), [entry], mode="merged")


def test_rows_differ_on_quantised_modules_too(tmp_path):
    entries = [adapter(name, tmp_path / name) for name in ("lora", "dora")]
    model = quantised_by_hand(cases.tiny_phi())
    session = Session(base_of(model), entries, mode="attached")
    sets = [{"lora": 0.5}, {"dora": 1.0}, {}]
    plans = [session.plan_for(weights) for weights in sets]
    with session.rows(plans, range(3)):
        mixed = logits(model, IDS[:1].expand(3, -1))
    for row, weights in enumerate(sets):
        session.use(weights)
        alone = logits(model, IDS[:1])[0]
        assert (mixed[row] - alone).abs().max() <= 1e-5 * alone.abs().max()


def test_torchao_int8(tmp_path):
    pytest.importorskip("torchao", reason="torchao is not installed")
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    entry = adapter("lora", tmp_path)
    model, plain = cases.tiny_phi(), cases.tiny_phi()
    quantize_(model, Int8WeightOnlyConfig())
    for path, module in model.named_modules():
        if isinstance(module, nn.Linear):
            plain.get_submodule(path).weight.data = module.weight.dequantize().clone()
    with pytest.raises(IncompatibleAdapter, match="quantised"):
        Session.open(base_of(model), [entry], mode="merged")
    Session.open(base_of(model), [entry], mode="attached")
    Session.open(base_of(plain), [entry], mode="merged")
    wanted = logits(plain, IDS)
    assert (logits(model, IDS) - wanted).abs().max() <= 1e-4 * wanted.abs().max()


def test_bitsandbytes_4_bit(tmp_path):
    bnb = pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    entry = adapter("lora", tmp_path)
    model, plain = cases.tiny_phi(), cases.tiny_phi()
    for path, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and path != "lm_head":
            packed = bnb.nn.Linear4bit(
                module.in_features, module.out_features, compute_dtype=torch.float32
            )
            packed.load_state_dict(module.state_dict())
            packed = packed.to("cpu")
            parent, _, leaf = path.rpartition(".")
            setattr(model.get_submodule(parent), leaf, packed)
            unit = torch.eye(module.in_features)
            with torch.no_grad():
                read = packed(unit) - packed(torch.zeros_like(unit))
            plain.get_submodule(path).weight.data = read.T.contiguous()
    with pytest.raises(IncompatibleAdapter, match="quantised"):
        Session.open(base_of(model), [entry], mode="merged")
    Session.open(base_of(model), [entry], mode="attached")
    Session.open(base_of(plain), [entry], mode="merged")
    wanted = logits(plain, IDS)
    assert (logits(model, IDS) - wanted).abs().max() <= 1e-4 * wanted.abs().max()


def test_the_plan_of_a_quantised_base_says_so_before_anything_is_loaded(tmp_path):
    config = cases.tiny_phi().config
    config.quantization_config = {
        "quant_method": "bitsandbytes", "load_in_8bit": True, "llm_int8_skip_modules": ["fc1"],
    }  # fmt: skip
    modules = structure_of_config(config, "tiny").modules
    left = {path for path, shape in modules.items() if shape.mergeable and path != "lm_head"}
    assert left == {"model.embed_tokens", "model.layers.0.mlp.fc1", "model.layers.1.mlp.fc1"}
    entry = adapter("lora", tmp_path / "a")
    with pytest.raises(IncompatibleAdapter, match="q_proj is quantised; run with --mode attached"):
        plan(structure_of_config(config, "tiny"), [entry])
    assert plan(structure_of_config(config, "tiny"), [entry], mode="attached").modules
