"""Exact match of the samples, without any of our own code for formats or merging.

``python -m adaptrix.samples.evaluate`` reads each file with its own library, multiplies
the factors out densely in float64, adds them to the base and generates. What the rest of
the project computes can be compared with this.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from gguf import GGUFReader
from safetensors.torch import load_file

from adaptrix.samples import SAMPLES_DIR
from adaptrix.samples.adapter_training import load_base
from adaptrix.samples.metrics import score
from adaptrix.samples.tasks import TASKS, Item, items, read_heldout

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


@torch.inference_mode()
def completions(prompts: Sequence[str], parts: Iterable[tuple[Deltas, float]] = ()) -> list[str]:
    """Greedy completions of the base with weighted deltas added densely."""
    base, tokenizer = load_base()
    model: Any = base
    for deltas, weight in parts:
        for path, delta in deltas.items():
            parameter = model.get_parameter(f"{path}.weight")
            parameter.copy_((parameter.double() + weight * delta).float())
    batch = tokenizer(list(prompts), return_tensors="pt", padding=True)
    out = model.generate(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        max_new_tokens=24,
        do_sample=False,
        pad_token_id=1,
        eos_token_id=0,
    )
    new = out[:, batch.input_ids.shape[1] :]
    return list(tokenizer.batch_decode(new, skip_special_tokens=True))


def _score(exercises: Sequence[Item], parts: Iterable[tuple[Deltas, float]] = ()) -> float:
    return score(completions([item.prompt for item in exercises], parts), exercises)


def validation_grid(weights: Sequence[float]) -> dict[tuple[float, float], tuple[float, float]]:
    """Exact match of math and code on validation items, by composition weights."""
    math_deltas, code_deltas = sample_deltas("math"), sample_deltas("code")
    exercises = {task: items(task, "validation", 100) for task in ("math", "code")}
    return {
        (one, other): (
            _score(exercises["math"], [(math_deltas, one), (code_deltas, other)]),
            _score(exercises["code"], [(math_deltas, one), (code_deltas, other)]),
        )
        for one in weights
        for other in weights
    }


def main() -> None:
    """Print the table."""
    print(f"{'task':10} {'base':>7} {'adapter':>8} {'math+code':>10}")
    both = [(sample_deltas("math"), 1.0), (sample_deltas("code"), 1.0)]
    for task in TASKS:
        exercises = read_heldout(task)
        base = _score(exercises)
        alone = _score(exercises, [(sample_deltas(task), 1.0)])
        together = f"{_score(exercises, both):10.1%}" if task in {"math", "code"} else " " * 10
        print(f"{task:10} {base:7.1%} {alone:8.1%} {together}", flush=True)


if __name__ == "__main__":
    main()
