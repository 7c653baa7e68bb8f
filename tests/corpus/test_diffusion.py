"""Real adapters of diffusion models: every update recomputed from the raw file, in float64.

``ΔW·x`` is compared for a random ``x`` per layer, which two different updates share with
probability zero; the updates themselves would be gigabytes.
"""

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from adaptrix.convert.arrays import to_numpy_f64
from adaptrix.convert.reading import ReadOptions, read_adapter
from adaptrix.convert.source import open_path
from adaptrix.convert.writing import tensors_digest, write_adapter

ROOT = Path(os.environ.get("ADAPTRIX_CORPUS", "/nonexistent")) / "adapters"
pytestmark = pytest.mark.skipif(not ROOT.is_dir(), reason="ADAPTRIX_CORPUS names no corpus")
SD1, SD2 = "stable-diffusion-v1-5/stable-diffusion-v1-5", "stabilityai/stable-diffusion-2-1"
FILES = {
    "KohakuBlueleaf__LyCORIS__0/smart_falcon_4_lokr.safetensors": ("lycoris", 350, "rounding", SD1),
    "KohakuBlueleaf__LyCORIS__0/smart_falcon_16_lokr.safetensors": ("lycoris", 350, "rounding", SD1),
    "catundchat__stable-diffusion-v1.5-lora__0/pytorch_lora_weights.safetensors": ("diffusers", 128, "exact", SD1),
    "catundchat__stable-diffusion-v1.5-lora__0/pytorch_lora_weights.bin": ("diffusers", 128, "exact", SD1),
    "huggingface__diffusers__0/pytorch_lora_weights.safetensors": ("diffusers", 128, "exact", SD1),
    "hyper07__Skin-Lesion-Generation-Diffusion__0": ("peft", 128, "exact", SD1),
    "cloneofsimo__lora__0/lora_disney.pt": ("lora_diffusion", 128, "exact", SD2),
    "cloneofsimo__lora__0/lora_kiriko.text_encoder.pt": ("lora_diffusion", 92, "exact", SD2),
    "cloneofsimo__lora__1/analog_svd_rank4.safetensors": ("lora_diffusion", 192, "exact", SD1),
    "cloneofsimo__lora__1/lora_disney.safetensors": ("lora_diffusion", 192, "exact", SD1),
    "cloneofsimo__lora__2/lora_disney_inpainting.safetensors": ("lora_diffusion", 192, "exact", SD1),
    "cloneofsimo__lora__3/lora_kiriko2.text_encoder.pt": ("lora_diffusion", 48, "exact", SD1),
    "cloneofsimo__lora__3/lora_pop.pt": ("lora_diffusion", 128, "exact", SD2),
}  # fmt: skip
SEVERAL = ["KohakuBlueleaf__LyCORIS__0", "cloneofsimo__lora__0", "cloneofsimo__lora__1", "cloneofsimo__lora__3"]  # fmt: skip
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")


def raw_tensors(path):
    """Name to float64 array, by the libraries that wrote the files."""
    path = path / "adapter_model.safetensors" if path.is_dir() else path
    if path.suffix == ".safetensors":
        return {name: value.astype("f8") for name, value in load_file(path).items()}
    stored = torch.load(path, weights_only=True, map_location="cpu")
    entries = enumerate(stored) if isinstance(stored, list) else stored.items()
    return {str(name): value.detach().double().numpy() for name, value in entries}


def lokr(raw, path, x):
    """``α/r·(w1 ⊗ w2)·x = α/r·w1·X·w2ᵀ`` of a module of kohya's naming."""
    component, _, rest = path.partition(".")
    name = {"unet": "lora_unet_", "text_encoder": "lora_te_"}[component] + rest.replace(".", "_")
    w1, w2 = (raw[f"{name}.lokr_w{i}_a"] @ raw[f"{name}.lokr_w{i}_b"] for i in (1, 2))
    rank = raw[f"{name}.lokr_w2_b"].shape[0]
    product = w1 @ x.reshape(w1.shape[1], w2.shape[1]) @ w2.T
    return float(raw[f"{name}.alpha"]) / rank * product.reshape(-1)


def processor(raw, path, x):
    head, _, last = path.removeprefix("unet.").rpartition(".to_")
    name = f"{head}.processor.to_{last.removesuffix('.0')}_lora"
    return raw[f"{name}.up.weight"] @ (raw[f"{name}.down.weight"] @ x)


def layer(raw, path, x):
    return raw[f"{path}.lora.up.weight"] @ (raw[f"{path}.lora.down.weight"] @ x)


def peft(raw, path, x):
    name = f"base_model.model.{path}"
    return 16 / 4 * raw[f"{name}.lora_B.weight"] @ (raw[f"{name}.lora_A.weight"] @ x)


def walk(modules, *, gated):
    """Number of each path in lora_diffusion's walk: down, up, middle; k, v, q, out in CLIP."""
    texts = [p for p in modules if p.startswith("text_encoder.")]
    layers = 1 + max((int(p.split(".")[4]) for p in texts), default=-1)
    order = {f"text_encoder.text_model.encoder.layers.{i}.self_attn.{tail}_proj": 4 * i + j
             for i in range(layers) for j, tail in enumerate(("k", "v", "q", "out"))}  # fmt: skip
    blocks = [f"down_blocks.{i}.attentions.{j}" for i in range(3) for j in range(2)]
    blocks += [f"up_blocks.{i}.attentions.{j}" for i in (1, 2, 3) for j in range(3)]
    number = 0
    for block in [*blocks, "mid_block.attentions.0"]:
        names = [f"attn1.{t}" for t in ATTENTION] + ["ff.net.0.proj"] * gated
        for tail in names + [f"attn2.{t}" for t in ATTENTION]:
            order[f"unet.{block}.transformer_blocks.0.{tail}"] = number
            number += 1
    return order


def numbered(raw, path, order, x):
    component, i = path.partition(".")[0], order[path]
    up, down = (f"{component}:{i}:up", f"{component}:{i}:down") if f"{component}:{i}:up" in raw else (str(2 * i), str(2 * i + 1))  # fmt: skip
    return raw[up] @ (raw[down] @ x)


def recomputed(name, raw, path, order, x):
    if "lokr" in name:
        return lokr(raw, path, x)
    if name.startswith("catundchat"):
        return processor(raw, path, x)
    if name.startswith("hyper07"):
        return peft(raw, path, x)
    return layer(raw, path, x) if name.startswith("huggingface") else numbered(raw, path, order, x)


@pytest.mark.parametrize("name", FILES)
def test_every_update_is_the_raw_files(name):
    expected_format, count, fidelity, base = FILES[name]
    large = "_16_" in name  # its factors are 1.2 GB: every ninth layer will do
    reading = read_adapter(open_path(ROOT / name), ReadOptions(check_values=not large))
    found, adapter = reading.inspection, reading.adapter
    assert (found.format.name, found.fidelity, len(adapter.modules)) == (expected_format, fidelity, count)  # fmt: skip
    assert base in found.base_model.matches
    account = found.tensors
    assert account.total == account.used + len(account.ignored) + len(account.unknown)
    assert not account.unknown
    assert all(re.fullmatch(r"<s\d>", entry.name) for entry in account.ignored)
    raw = raw_tensors(ROOT / name)
    order = walk([m.path for m in adapter.modules], gated=any(".ff." in m.path for m in adapter.modules))  # fmt: skip
    rng = np.random.default_rng(0)
    for module in adapter.modules[:: 9 if large else 1]:
        a, b = (to_numpy_f64(t) for t in (module.a, module.b))
        x = rng.standard_normal(a[0].size)
        got = module.scale.value * (b.reshape(len(b), -1) @ (a.reshape(len(a), -1) @ x))
        wanted = recomputed(name, raw, str(module.path), order, x)
        assert np.abs(got - wanted).max() <= 1e-6 * max(np.abs(wanted).max(), 1e-30), module.path


@pytest.mark.parametrize("name", [n for n in FILES if "_16_" not in n])
def test_what_is_written_reads_back(name):
    adapter = read_adapter(open_path(ROOT / name)).adapter
    wanted = tensors_digest(adapter) if adapter.format != "peft" else None
    for target in ("peft", "diffusers", "kohya"):
        written = write_adapter(adapter, target)
        assert written.fidelity == "exact"
        if wanted is not None:
            assert tensors_digest(again(written)) == wanted


def again(written):
    from adaptrix.convert.source import AdapterFiles, MemorySource

    files = {f.path: MemorySource(f.path, b"".join(bytes(c) for c in f.chunks())) for f in written.files}  # fmt: skip
    return read_adapter(AdapterFiles(location="written", files=files)).adapter


@pytest.mark.parametrize("name", SEVERAL)
def test_folders_of_several_adapters_ask_which(name):
    reading = read_adapter(open_path(ROOT / name))
    assert reading.adapter is None
    assert reading.inspection.format.name in {"lycoris", "lora_diffusion"}
    assert [p.code for p in reading.inspection.problems] == ["multiple_adapters"]


def test_hyper07_says_its_alpha():
    config = json.loads((ROOT / "hyper07__Skin-Lesion-Generation-Diffusion__0/adapter_config.json").read_text())  # fmt: skip
    assert (config["lora_alpha"], config["r"]) == (16, 4)
