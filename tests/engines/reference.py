"""What every engine is compared with: PEFT's logits of our conversion, on the sample base."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch
from peft import PeftModel
from transformers import PhiForCausalLM

from adaptrix import Registry
from adaptrix.samples import SAMPLES_DIR
from adaptrix.samples.adapter_training import load_base

IDS = [token * 7 % 100 for token in range(16)]
ADAPTERS = SAMPLES_DIR / "adapters"


def convert(task: str, to: str, out: Path) -> Path:
    with Registry(out.parent / "home") as registry:
        assert registry.convert(str(ADAPTERS / task), to=to, output=out).fidelity == "exact"
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


def peft_logits(task: str, tmp_path: Path, activation: torch.nn.Module | None = None) -> np.ndarray:
    """``(16, vocabulary)`` float32 logits of PEFT with the sample converted to PEFT."""
    folder = convert(task, "peft", tmp_path / "peft")
    model = model_of_base(activation)
    with warnings.catch_warnings():
        # PEFT and transformers advise each other.
        warnings.simplefilter("ignore")
        tuned = PeftModel.from_pretrained(model, str(folder)).eval()
    with torch.no_grad():
        return tuned(torch.tensor([IDS])).logits[0].numpy()


def difference(got: np.ndarray, wanted: np.ndarray) -> float:
    """Greatest difference over the greatest magnitude."""
    return float(np.abs(got - wanted).max() / np.abs(wanted).max())
