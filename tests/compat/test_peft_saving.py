"""What PEFT saves beside the factors, by its own rules, on models built from configurations."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from adaptrix import open_path, read_adapter
from adaptrix.convert.arrays import to_numpy_f64


def saved(folder, **settings):
    """A trained adapter as PEFT saves it."""
    config = LlamaConfig(
        vocab_size=60, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, tie_word_embeddings=False,
    )  # fmt: skip
    torch.manual_seed(3)
    model = get_peft_model(
        LlamaForCausalLM(config), LoraConfig(r=2, task_type="CAUSAL_LM", **settings)
    )
    for value in model.parameters():
        if value.requires_grad:
            torch.nn.init.normal_(value)
    model.save_pretrained(folder, save_embedding_layers=False)
    return read_adapter(open_path(folder)), load_file(folder / "adapter_model.safetensors")


@pytest.mark.parametrize("names", [["norm"], ["embed_tokens", "norm"], ["model.norm"]])
def test_modules_to_save_match_by_the_end_of_the_path(tmp_path, names):
    """PEFT asks for ``endswith``: ``norm`` covers ``input_layernorm`` (LongLoRA's habit)."""
    reading, tensors = saved(tmp_path, target_modules=["q_proj"], modules_to_save=names)
    assert reading.adapter is not None, reading.inspection.problems
    plain = {n.removeprefix("base_model.model."): t for n, t in tensors.items() if "lora_" not in n}
    found = {r.parameter: r.tensor for r in reading.adapter.replacements}
    assert found.keys() == plain.keys()
    assert len(found) == {"norm": 5, "embed_tokens": 6, "model.norm": 1}[names[0]]
    for name, tensor in found.items():
        assert (to_numpy_f64(tensor) == plain[name].double().numpy()).all()


@pytest.mark.parametrize(
    "settings",
    [{"target_modules": "all-linear", "exclude_modules": ["k_proj"]},
     {"target_modules": ["q_proj", "v_proj"], "exclude_modules": r".*layers\.0\..*"},
     {"target_modules": ["q_proj", "lm_head"], "layers_to_transform": [1]}],
)  # fmt: skip
def test_targets_that_the_configuration_leaves_out_are_not_missed(tmp_path, settings):
    reading, _ = saved(tmp_path, **settings)
    assert "unused_target" not in [p.code for p in reading.inspection.problems]
