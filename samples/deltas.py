"""Dense updates of the bundled adapters, each file read with its own tool's library.

Independent of our own readers: what they make of these files can be compared with this.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from gguf import GGUFReader
from safetensors.torch import load_file

from adaptrix.samples import SAMPLES_DIR

Deltas = Mapping[str, torch.Tensor]
_GGUF_MODULES = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.dense",
    "ffn_up": "mlp.fc1",
    "ffn_down": "mlp.fc2",
}
_FOLDER = SAMPLES_DIR / "adapters"


def _config(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "adapter_config.json").read_text("utf-8"))
    return found


def _peft_deltas(name: str) -> dict[str, torch.Tensor]:
    folder = _FOLDER / name
    config, state = _config(folder), load_file(folder / "adapter_model.safetensors")
    found = {}
    for key in state:
        if not key.endswith(".lora_A.weight"):
            continue
        path = key.removesuffix(".lora_A.weight")
        module = path.removeprefix("base_model.model.")
        a, b = state[key].double(), state[f"{path}.lora_B.weight"].double()
        alpha = _pattern(config.get("alpha_pattern") or {}, module, config["lora_alpha"])
        rank = a.shape[0]
        found[module] = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank) * b @ a
    return found


def _pattern(pattern: Mapping[str, float], module: str, default: float) -> float:
    return next((v for k, v in pattern.items() if module.endswith(k)), default)


def _legacy_deltas() -> dict[str, torch.Tensor]:
    folder = _FOLDER / "instruct"
    config = _config(folder)
    state = torch.load(folder / "adapter_model.bin", weights_only=True)
    found = {}
    for key in state:
        if not key.endswith(".lora_A.weight"):
            continue
        path = key.removesuffix(".lora_A.weight")
        delta = state[f"{path}.lora_B.weight"].double() @ state[key].double()
        delta *= config["lora_alpha"] / config["r"]
        number, module = path.removeprefix("base_model.model.transformer.h.").split(".", 1)
        new = f"model.layers.{number}"
        if module == "mixer.Wqkv":
            for part, rows in zip("qkv", delta.chunk(3), strict=True):
                found[f"{new}.self_attn.{part}_proj"] = rows
        else:
            found[f"{new}.{module.replace('mixer.out_proj', 'self_attn.dense')}"] = delta
    return found


def _mlx_deltas() -> dict[str, torch.Tensor]:
    folder = _FOLDER / "code"
    scale = _config(folder)["lora_parameters"]["scale"]
    state = load_file(folder / "adapters.safetensors")
    return {
        key.removesuffix(".lora_a"): scale
        * (value.double() @ state[key.removesuffix("a") + "b"].double()).T
        for key, value in state.items()
        if key.endswith(".lora_a")
    }


def _gguf_deltas() -> dict[str, torch.Tensor]:
    reader = GGUFReader(_FOLDER / "qa" / "adapter.gguf")
    alpha = float(reader.fields["adapter.lora.alpha"].contents())
    state = {t.name: torch.from_numpy(t.data.copy()).double() for t in reader.tensors}
    found = {}
    for name, a in state.items():
        if name.endswith(".lora_a"):
            _, number, module, *_ = name.split(".")
            path = f"model.layers.{number}.{_GGUF_MODULES[module]}"
            found[path] = alpha / a.shape[0] * state[name.removesuffix("a") + "b"] @ a
    return found


def sample_deltas(name: str) -> dict[str, torch.Tensor]:
    """``ΔW`` of every module of a bundled adapter, dense, float64, by canonical path."""
    match name:
        case "instruct":
            return _legacy_deltas()
        case "code":
            return _mlx_deltas()
        case "qa":
            return _gguf_deltas()
        case _:
            return _peft_deltas(name)
