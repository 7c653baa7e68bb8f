"""Small checkpoints with Phi's names, sharded float16 files, and PEFT adapters for them."""

from __future__ import annotations

import shutil
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from adaptrix.convert.reading import read_adapter
from adaptrix.convert.source import open_path
from adaptrix.loader.base import load_base
from adaptrix.loader.generate import GenerateOptions
from adaptrix.loader.plan import WeightedAdapter
from adaptrix.samples import BASE_DIR

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from phi2_checkpoint import make_checkpoint

__all__ = ["GenerateOptions"]
SIX = ["q_proj", "k_proj", "v_proj", "dense", "fc1", "fc2"]


def checkpoint(folder: Path) -> Path:
    """Two layers, 40 wide, in several shards, with the sample's tokenizer."""
    make_checkpoint(
        folder, layers=2, vocabulary=1024, width=40, inner=96, heads=2, shard_bytes=100_000
    )
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(BASE_DIR / name, folder / name)
    return folder


def peft_adapter(base: Path, folder: Path, seed: int, **settings) -> Path:
    """A random adapter as PEFT saves it."""
    torch.manual_seed(seed)
    settings = {"r": 4, "lora_alpha": 6, "target_modules": SIX, **settings}
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    tuned = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **settings))
    with torch.no_grad():
        for name, value in tuned.named_parameters():
            if value.requires_grad and "magnitude" not in name:
                value.normal_(std=0.1)
    with warnings.catch_warnings():
        # PEFT advises on what these cases do on purpose.
        warnings.simplefilter("ignore")
        tuned.save_pretrained(str(folder))
    return folder


def weighted(folder: Path, weight: float = 1.0) -> WeightedAdapter:
    adapter = read_adapter(open_path(folder)).adapter
    assert adapter is not None
    return WeightedAdapter(name=folder.name, adapter=adapter, weight=weight)


def mapped_base(folder: Path, **options):
    """The base as a large one is loaded: narrow, mapped weights."""
    return load_base(str(folder), widen_below=0, **options)


def failing(entry: WeightedAdapter, fuse: dict) -> WeightedAdapter:
    """The adapter, whose tensors can be read ``fuse['left']`` times before reading fails."""

    def load(tensor):
        def read():
            fuse["left"] -= 1
            if fuse["left"] < 0:
                raise OSError("disk gone")
            return tensor.load()

        return replace(tensor, load=read)

    modules = tuple(replace(m, a=load(m.a), b=load(m.b)) for m in entry.adapter.modules)
    return replace(entry, adapter=replace(entry.adapter, modules=modules))
