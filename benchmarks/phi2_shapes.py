"""Adapters with the shapes of full-size Phi-2, random factors, in any of its namings.

Phi-2: width 2560, inner width 10240, 32 layers, 32 heads of 80 (its config.json).
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

WIDTH, INNER, LAYERS, HEADS = 2560, 10240, 32, 32
FOUR = ("q_proj", "k_proj", "v_proj", "dense")
SIX = (*FOUR, "fc1", "fc2")
_SHAPES = {"fc1": (INNER, WIDTH), "fc2": (WIDTH, INNER), "Wqkv": (3 * WIDTH, WIDTH)}


def module_path(layout: str, layer: int, module: str) -> str:
    """Path of a module as the naming ``l2`` or ``l4`` spells it."""
    if layout == "l4":
        return f"model.layers.{layer}.{'mlp' if module.startswith('fc') else 'self_attn'}.{module}"
    return f"transformer.h.{layer}.{'mlp' if module.startswith('fc') else 'mixer'}.{module}"


def make_adapter(
    folder: Path,
    *,
    modules: tuple[str, ...] = FOUR,
    rank: int = 16,
    alpha: int = 32,
    layout: str = "l4",
    seed: int = 0,
    layers: int = LAYERS,
) -> Path:
    """Write a PEFT folder; returns the weight file's path."""
    rng = np.random.default_rng(seed)
    tensors = {}
    for layer in range(layers):
        for module in modules:
            out, into = _SHAPES.get(module, (WIDTH, WIDTH))
            prefix = f"base_model.model.{module_path(layout, layer, module)}"
            a = rng.standard_normal((rank, into), dtype=np.float32) / 50
            b = rng.standard_normal((out, rank), dtype=np.float32) / 50
            tensors[f"{prefix}.lora_A.weight"], tensors[f"{prefix}.lora_B.weight"] = a, b
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": alpha,
        "base_model_name_or_path": "microsoft/phi-2", "target_modules": list(modules),
        "lora_dropout": 0.05, "bias": "none", "fan_in_fan_out": False, "inference_mode": True,
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder / "adapter_model.safetensors"
