"""Tiny Phi models with random adapters, saved by PEFT itself."""

from __future__ import annotations

import warnings

import torch
from peft import LoraConfig, get_peft_model
from transformers import PhiConfig, PhiForCausalLM

CASES = {
    "lora": {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "fc1"]},
    "rslora": {"r": 8, "lora_alpha": 5, "use_rslora": True, "target_modules": ["v_proj", "dense"]},
    "patterns": {
        "r": 4,
        "lora_alpha": 7,
        "target_modules": ["q_proj", "k_proj", "fc2"],
        "rank_pattern": {"k_proj": 2, "model.layers.1.mlp.fc2": 6},
        "alpha_pattern": {"q_proj": 3},
    },
    "dora": {"r": 4, "lora_alpha": 8, "use_dora": True, "target_modules": ["q_proj", "fc1"]},
    "lora_bias": {"r": 4, "lora_alpha": 8, "lora_bias": True, "target_modules": ["q_proj", "fc2"]},
    "saved_head": {
        "r": 4, "lora_alpha": 8, "target_modules": ["v_proj"], "modules_to_save": ["lm_head"],
    },
    "embedding": {"r": 4, "lora_alpha": 8, "target_modules": ["embed_tokens", "q_proj"]},
    "all_biases": {"r": 4, "lora_alpha": 8, "bias": "lora_only", "target_modules": ["q_proj"]},
}  # fmt: skip


def tiny_phi(seed: int = 0) -> PhiForCausalLM:
    torch.manual_seed(seed)
    config = PhiConfig(
        vocab_size=48, hidden_size=16, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=32,
        bos_token_id=0, eos_token_id=0, pad_token_id=1, tie_word_embeddings=False,
    )  # fmt: skip
    model = PhiForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    return model.eval()


def save_case(name: str, folder, seed: int = 1):
    """Save a random adapter; returns PEFT's own logits for some ids."""
    torch.manual_seed(seed)
    model = get_peft_model(tiny_phi(), LoraConfig(task_type="CAUSAL_LM", **CASES[name]))
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if parameter.requires_grad:
                if "magnitude" in parameter_name:
                    parameter.mul_(1.0 + 0.2 * torch.rand_like(parameter))
                else:
                    parameter.normal_(std=0.3)
    with warnings.catch_warnings():
        # PEFT advises on what these cases do on purpose.
        warnings.simplefilter("ignore")
        model.save_pretrained(str(folder))
    ids = torch.arange(24).reshape(2, 12)
    with torch.no_grad():
        return ids, model.eval()(input_ids=ids).logits
