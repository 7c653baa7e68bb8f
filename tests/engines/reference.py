"""What every engine is compared with: PEFT's logits of our conversion, on the sample base."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import PhiForCausalLM

from adaptrix import Registry
from adaptrix.samples import SAMPLES_DIR
from adaptrix.samples.adapter_training import load_base

IDS = [token * 7 % 100 for token in range(16)]
ADAPTERS = SAMPLES_DIR / "adapters"


# What the samples lack: some layers only, modules outside the layers, DoRA.
MADE = {
    "middle layers": {"target_modules": ["q_proj", "fc1"], "layers_to_transform": [0, 2]},
    "not the last": {"target_modules": ["v_proj", "dense"], "layers_to_transform": [1, 2]},
    "head": {"target_modules": ["q_proj", "lm_head"]},
    "embedding": {"target_modules": ["k_proj", "embed_tokens"]},
    "dora": {"target_modules": ["q_proj", "fc1"], "layers_to_transform": [1, 2], "use_dora": True},
}


def made(case: str, tmp_path: Path) -> Path:
    """A PEFT folder with random factors, saved by PEFT."""
    torch.manual_seed(1)
    model, _ = load_base()
    config = LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=6, **MADE[case])
    folder = tmp_path / "made"
    with warnings.catch_warnings():
        # PEFT and transformers advise each other.
        warnings.simplefilter("ignore")
        tuned = get_peft_model(model, config)
        with torch.no_grad():
            for parameter in tuned.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn_like(parameter) * 0.1)
        tuned.save_pretrained(folder, save_embedding_layers=False)
    return folder


def convert(source: str | Path, to: str, out: Path) -> Path:
    """Convert a sample, by its name, or a folder."""
    with Registry(out.parent / "home") as registry:
        assert registry.convert(str(ADAPTERS / source), to=to, output=out).fidelity == "exact"
    return out


def model_of_base(activation: torch.nn.Module | None) -> PhiForCausalLM:
    model, _ = load_base()
    if activation is not None:
        for layer in model.model.layers:
            layer.mlp.activation_fn = activation
    return model


def base_logits(activation: torch.nn.Module | None = None) -> np.ndarray:
    model = model_of_base(activation)
    with torch.no_grad():
        return model(torch.tensor([IDS])).logits[0].numpy()


def peft_logits(
    source: str | Path, tmp_path: Path, activation: torch.nn.Module | None = None
) -> np.ndarray:
    """``(16, vocabulary)`` float32 logits of PEFT: a sample converted, a made folder as it is."""
    folder = source if isinstance(source, Path) else convert(source, "peft", tmp_path / "peft")
    model = model_of_base(activation)
    with warnings.catch_warnings():
        # PEFT and transformers advise each other.
        warnings.simplefilter("ignore")
        tuned = PeftModel.from_pretrained(model, str(folder)).eval()
    with torch.no_grad():
        return tuned(torch.tensor([IDS])).logits[0].numpy()
