"""ΔW of a file, computed in float64 by code that shares nothing with the readers.

Files are opened with the libraries that wrote them (safetensors, ``torch.load`` with
``weights_only``, numpy); the formula of each format is written out once more here, from its
producer. Only tests use this.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

Dense = dict[str, np.ndarray]
"""ΔW by module path, or by anything unique where the format's names are translated."""


def tensors_of(path: Path) -> dict[str, np.ndarray]:
    """All tensors of one file as float64."""
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        loaded = load_file(path)
    elif path.suffix == ".npz":
        return {name: np.asarray(array, np.float64) for name, array in np.load(path).items()}
    else:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
        loaded = loaded if isinstance(loaded, dict) else dict(enumerate(loaded))
    return {
        str(k): v.detach().double().numpy()
        for k, v in loaded.items()
        if isinstance(v, torch.Tensor)
    }


def config_of(folder: Path) -> dict:
    found = folder / "adapter_config.json"
    return json.loads(found.read_text(encoding="utf-8-sig")) if found.exists() else {}


def weights_of(folder: Path, *names: str) -> Path:
    """The first of ``names`` that is there, else the only weight file."""
    if folder.is_file():
        return folder
    for name in names:
        if (folder / name).exists():
            return folder / name
    suffixes = {".safetensors", ".bin", ".pt", ".npz"}
    (only,) = [path for path in folder.iterdir() if path.suffix in suffixes]
    return only


def matched(pattern: dict, path: str, default: float) -> float:
    """PEFT's rule for patterns (0.14 and later): the first key that ends the path."""
    hits = (value for key, value in pattern.items() if re.match(rf"(.*\.)?({key})$", path))
    return next(hits, default)


def peft(folder: Path) -> Dense:
    """LoRA and AdaLoRA as PEFT applies them (``tuners/lora/layer.py``, ``adalora/layer.py``)."""
    config = config_of(folder)
    tensors = tensors_of(weights_of(folder, "adapter_model.safetensors", "adapter_model.bin"))
    found = {}
    for name, a in tensors.items():
        match = re.fullmatch(r"(?:base_model\.model\.)+(.*)\.lora_(embedding_)?A(\.weight)?", name)
        if match is None:
            continue
        path, embedding = match[1], bool(match[2])
        b = tensors[name.replace("lora_A", "lora_B").replace("embedding_A", "embedding_B")]
        rank = a.shape[0]
        alpha = matched(config.get("alpha_pattern") or {}, path, config["lora_alpha"])
        scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
        if config["peft_type"] == "ADALORA":
            gates = tensors[name.replace("lora_A", "lora_E")]
            # ``ranknum`` is the configured rank before the budget was cut.
            found[path] = b @ (a * gates) * config["lora_alpha"] / (rank + 1e-5)
        elif b.ndim == 3:
            found[path] = merged(a, b, config["enable_lora"], config["lora_alpha"] / config["r"])
        else:
            assert not embedding or b.shape[1] == rank
            found[path] = scale * b.reshape(b.shape[0], -1)[:, :rank] @ a.reshape(rank, -1)
    return found


def merged(a: np.ndarray, b: np.ndarray, enabled: list[bool], scale: float) -> np.ndarray:
    """loralib's ``MergedLinear``: a grouped convolution, its parts set between zeros."""
    groups = sum(enabled)
    delta = torch.nn.functional.conv1d(
        torch.from_numpy(a)[None], torch.from_numpy(b).reshape(b.shape[0], -1, 1), groups=groups
    )[0].numpy()
    height = delta.shape[0] // groups
    out = np.zeros((height * len(enabled), a.shape[1]))
    parts = iter(np.split(delta, groups))
    for index, on in enumerate(enabled):
        if on:
            out[index * height : (index + 1) * height] = next(parts)
    return scale * out


def mlx(folder: Path, alpha: float = 0.0) -> Dense:
    """``y + scale·(x·A)·B`` (mlx_lm, ``tuner/lora.py``): ΔW is its transpose."""
    parameters = config_of(folder).get("lora_parameters", {})
    tensors = tensors_of(weights_of(folder, "adapters.safetensors", "adapters.npz"))
    return {
        name.removesuffix(".lora_a"): parameters.get("scale", alpha / a.shape[1])
        * (a @ tensors[f"{name[:-1]}b"]).T
        for name, a in tensors.items()
        if name.endswith(".lora_a")
    }


def per_layer(folder: Path) -> Dense:
    """A pickle per layer: ``{module: {"lora_A", "lora_B", "alpha", "rank", "scaling"}}``."""
    found = {}
    for path in sorted(folder.glob("layer_*.pt")):
        layer = torch.load(path, map_location="cpu", weights_only=True)
        for module, part in layer.items():
            a, b = (part[key].double().numpy() for key in ("lora_A", "lora_B"))
            scale = part.get("scaling", part["alpha"] / part["rank"])
            found[f"{path.stem}.{module}"] = float(scale) * b @ a
    return found


def loralib(folder: Path, alpha: float = 16.0) -> Dense:
    """``B·A·alpha/r`` for linear layers (loralib, ``layers.py``)."""
    tensors = tensors_of(weights_of(folder))
    return {
        name: alpha / a.shape[0] * tensors[name.replace("lora_A", "lora_B")] @ a
        for name, a in tensors.items()
        if name.endswith("lora_A")
    }


def lora_vit(folder: Path, alpha: float) -> Dense:
    """Sam_LoRA: pair ``2n`` adds to q and pair ``2n + 1`` to v of block ``n``'s fused qkv."""
    tensors = tensors_of(weights_of(folder))
    blocks = len([name for name in tensors if name.startswith("w_a_")]) // 2
    found = {}
    for block in range(blocks):
        q, v = (
            alpha
            / tensors[f"w_a_{n:03}"].shape[0]
            * tensors[f"w_b_{n:03}"]
            @ tensors[f"w_a_{n:03}"]
            for n in (2 * block, 2 * block + 1)
        )
        found[f"block {block}"] = np.concatenate([q, np.zeros_like(q), v])
    return found


RAW: dict[str, Callable[..., Dense]] = {
    "peft": peft, "mlx": mlx, "per-layer": per_layer, "loralib": loralib, "lora-vit": lora_vit,
}  # fmt: skip
"""One row per format that real files convert from."""
ELSEWHERE = {"diffusers", "lora_diffusion", "lycoris"}
"""Formats of diffusion models, whose dense updates are gigabytes: test_diffusion.py has them."""
NAMED = {"peft", "mlx"}
"""Formats whose paths are those of the current transformers class."""
ALPHA = {"loralib", "lora-vit", "mlx"}
"""Formats whose files may not hold alpha; it is given as 16 then."""
