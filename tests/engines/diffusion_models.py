"""Tiny diffusion models with random weights, and random adapters on them."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path

import diffusers
import numpy as np
import torch
from safetensors.numpy import save_file
from transformers import CLIPTextConfig, CLIPTextModel

from adaptrix.convert.arrays import to_numpy_f64
from adaptrix.convert.reading import read_adapter
from adaptrix.convert.source import open_path
from adaptrix.convert.writing import write_adapter

CONTEXT = 12


def unet() -> torch.nn.Module:
    """Stable Diffusion's shape, four blocks of two layers."""
    torch.manual_seed(0)
    model = diffusers.UNet2DConditionModel(
        block_out_channels=(8, 16, 16, 16),
        down_block_types=["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
        up_block_types=["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
        cross_attention_dim=CONTEXT,
        attention_head_dim=4,
        norm_num_groups=4,
        layers_per_block=2,
        sample_size=16,
    )
    return model.eval()


def unet_output(model: torch.nn.Module) -> np.ndarray:
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(1, 4, 16, 16, generator=generator)
    text = torch.randn(1, 5, CONTEXT, generator=generator)
    with torch.no_grad():
        return model(noise, torch.tensor([7]), text).sample.numpy()


def flux() -> torch.nn.Module:
    torch.manual_seed(0)
    return diffusers.FluxTransformer2DModel(
        in_channels=4,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=16,
        pooled_projection_dim=16,
        axes_dims_rope=[2, 2, 4],
        guidance_embeds=False,
    ).eval()


def flux_output(model: torch.nn.Module) -> np.ndarray:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        return model(
            hidden_states=torch.randn(1, 6, 4, generator=generator),
            encoder_hidden_states=torch.randn(1, 5, 16, generator=generator),
            pooled_projections=torch.randn(1, 16, generator=generator),
            timestep=torch.tensor([0.5]),
            img_ids=torch.zeros(6, 3),
            txt_ids=torch.zeros(5, 3),
        ).sample.numpy()


def text_encoder() -> torch.nn.Module:
    torch.manual_seed(0)
    config = CLIPTextConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        vocab_size=99,
        bos_token_id=97,
        eos_token_id=98,
    )
    return CLIPTextModel(config).eval()


def text_output(model: torch.nn.Module) -> np.ndarray:
    with torch.no_grad():
        return model(torch.tensor([[1, 2, 3, 4, 5]])).last_hidden_state.numpy()


def layers(model: torch.nn.Module, *words: str) -> dict[str, torch.nn.Module]:
    """Linear layers and convolutions whose path has one of ``words``; all without."""
    kinds = (torch.nn.Linear, torch.nn.Conv2d)
    return {
        path: layer
        for path, layer in model.named_modules()
        if isinstance(layer, kinds) and (not words or any(word in path for word in words))
    }


def factors(
    found: dict[str, torch.nn.Module], rank: int = 2, seed: int = 0
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Random ``(A, B)`` for every layer, float32."""
    rng = np.random.default_rng(seed)
    made = {}
    for path, layer in found.items():
        out, *rest = layer.weight.shape
        ones = [1] * (len(rest) - 1)
        a = rng.standard_normal((rank, *rest)) / np.sqrt(np.prod(rest))
        b = rng.standard_normal((out, rank, *ones)) * 0.2
        made[path] = (a.astype("f4"), b.astype("f4"))
    return made


def converted(path: Path):
    """Our reading of a file, which has to be convertible."""
    reading = read_adapter(open_path(path))
    assert reading.adapter is not None, reading.inspection.problems
    assert not reading.inspection.tensors.unknown
    return reading.adapter


def written(adapter, target: str, folder: Path) -> Path:
    """Write ``adapter`` below ``folder``; the weights' path."""
    found = write_adapter(adapter, target)
    folder.mkdir(parents=True, exist_ok=True)
    for file in found.files:
        (folder / file.path).write_bytes(b"".join(bytes(c) for c in file.chunks()))
    return folder / found.files[0].path


def with_dense_updates(model: torch.nn.Module, adapter, component: str) -> torch.nn.Module:
    """Add ``s·B·A`` of every module of one component to the model's own weights."""
    state = dict(model.named_modules())
    for module in adapter.modules:
        if not module.path.startswith(component + "."):
            continue
        layer = state[_present(module.path.removeprefix(component + "."), state)]
        a, b = (to_numpy_f64(t) for t in (module.a, module.b))
        delta = module.scale.value * (b.reshape(len(b), -1) @ a.reshape(len(a), -1))
        with torch.no_grad():
            layer.weight += torch.tensor(delta, dtype=torch.float32).reshape(layer.weight.shape)
            if module.bias_delta is not None:
                layer.bias += torch.tensor(
                    module.scale.value * to_numpy_f64(module.bias_delta), dtype=torch.float32
                )
    return model


def _present(path: str, modules: Iterable[str]) -> str:
    """CLIP's text model lost ``text_model.`` in transformers 5."""
    return path if path in modules else path.removeprefix("text_model.")


def save(tensors, path: Path, metadata=None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, path, metadata=metadata)
    return path


def quiet(call, *args, **kwargs):
    """Call a loader of diffusers; what it and PEFT advise each other is not for us."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return call(*args, **kwargs)
