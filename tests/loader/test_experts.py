"""Experts of MoE models in merged mode: slices of stacked parameters, beside PEFT's forward."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    GptOssConfig,
    GptOssForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from adaptrix.convert.reading import ReadOptions, read_adapter
from adaptrix.convert.source import open_path
from adaptrix.loader.plan import WeightedAdapter
from adaptrix.loader.session import Session
from adaptrix.samples import BASE_DIR
from adaptrix.schema.adapter import ModuleKind
from adaptrix.schema.errors import IncompatibleAdapter
from adaptrix.schema.report import Verdict

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
IDS = torch.arange(12).reshape(2, 6)
EXPERTS = 4
SIZES = {
    "vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "tie_word_embeddings": False, "num_experts_per_tok": 2,
    "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 1,
}  # fmt: skip
MODELS = {
    "mixtral": (MixtralForCausalLM, MixtralConfig, {
        "intermediate_size": 24, "num_local_experts": EXPERTS,
    }),
    "qwen3_moe": (Qwen3MoeForCausalLM, Qwen3MoeConfig, {
        "intermediate_size": 40, "moe_intermediate_size": 24, "num_experts": EXPERTS,
        "head_dim": 8,
    }),
    # Stored (in, out), and its class says so.
    "gpt_oss": (GptOssForCausalLM, GptOssConfig, {
        "intermediate_size": 24, "num_local_experts": EXPERTS, "head_dim": 8,
    }),
}  # fmt: skip


def saved(kind, folder):
    """A base, an adapter of its experts, router and attention, and PEFT's logits."""
    torch.manual_seed(0)
    model_class, config_class, sizes = MODELS[kind]
    model = model_class(config_class(**SIZES, **sizes)).eval()
    model.save_pretrained(folder / "base")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(BASE_DIR / name, folder / "base" / name)
    router = "mlp.router.weight" if kind == "gpt_oss" else "mlp.gate.weight"
    tuned = get_peft_model(
        model,
        LoraConfig(
            task_type="CAUSAL_LM", r=3, lora_alpha=5, target_modules=["q_proj"],
            target_parameters=["mlp.experts.gate_up_proj", "mlp.experts.down_proj", router],
        ),
    ).eval()  # fmt: skip
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.3)
        wanted = tuned(input_ids=IDS).logits
    tuned.save_pretrained(folder / "adapter")
    config = model.config.to_dict()
    reading = read_adapter(open_path(folder / "adapter"), ReadOptions(base_config=config))
    assert reading.adapter is not None, reading.inspection.problems
    return str(folder / "base"), reading.adapter, wanted


def logits(session):
    with torch.no_grad():
        return session.base.model(input_ids=IDS).logits


@pytest.mark.parametrize("kind", MODELS)
def test_merged_experts_answer_as_in_peft(kind, tmp_path):
    base, adapter, wanted = saved(kind, tmp_path)
    sliced = [m for m in adapter.modules if m.kind is ModuleKind.PARAMETER]
    assert len(sliced) == 2 * 2 * EXPERTS
    entry = WeightedAdapter(name="a", adapter=adapter)
    session = Session.open(base, [entry], dtype=torch.float32)
    session.detach()
    plain = logits(session)
    before = {name: value.clone() for name, value in session.base.model.named_parameters()}
    check = session.use({"a": 1.0})
    assert check.verdict is Verdict.PASS, check.problems
    assert len(check.modules) == len(adapter.modules)
    assert (plain - wanted).abs().max() > 1e-2
    torch.testing.assert_close(logits(session), wanted, rtol=1e-5, atol=1e-5)
    session.detach()
    for name, value in session.base.model.named_parameters():
        assert torch.equal(value, before[name]), name


def test_experts_that_nobody_adapts_stay_bit_for_bit(tmp_path):
    base, adapter, _ = saved("qwen3_moe", tmp_path)
    chosen = "model.layers.1.mlp.experts.down_proj.2"
    modules = tuple(m for m in adapter.modules if m.path == chosen)
    entry = WeightedAdapter(name="one", adapter=replace(adapter, modules=modules), weight=0.5)
    session = Session.open(base, [entry], dtype=torch.float32)
    merged = session.base.model.get_parameter(chosen.rpartition(".")[0]).clone()
    session.detach()
    pristine = session.base.model.get_parameter(chosen.rpartition(".")[0])
    a, b = (
        torch.frombuffer(bytearray(t.load()), dtype=torch.float32).reshape(t.shape).double()
        for t in (modules[0].a, modules[0].b)
    )
    exact = pristine[2].double() + 0.5 * modules[0].scale.value * (b @ a)
    torch.testing.assert_close(merged[2].double(), exact, rtol=0, atol=1e-6)
    for expert in (0, 1, 3):
        assert torch.equal(merged[expert], pristine[expert])


def test_attached_mode_says_that_merged_mode_can(tmp_path):
    base, adapter, _ = saved("mixtral", tmp_path)
    entry = WeightedAdapter(name="moe", adapter=adapter)
    with pytest.raises(IncompatibleAdapter, match="--mode merged"):
        Session.open(base, [entry], mode="attached")
