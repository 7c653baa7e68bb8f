"""PEFT's own ΔW: the file loaded by PEFT into a model of its architecture.

The base is built from its configuration, its weights are arbitrary: ΔW needs none of them.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import numpy as np
import torch
from peft import PeftConfig, PeftModel
from torch import nn

raw = sys.modules["corpus_raw"]
OPT_350M = {
    "hidden_size": 1024, "word_embed_proj_dim": 512, "ffn_dim": 4096, "num_hidden_layers": 24,
    "num_attention_heads": 16, "do_layer_norm_before": False,
}  # fmt: skip
BLOOM_560M = {"hidden_size": 1024, "n_layer": 24, "n_head": 16, "vocab_size": 250880}
CONFIGS = {
    "roberta-base": ("RobertaConfig", {"vocab_size": 50265, "max_position_embeddings": 514}),
    "gpt2": ("GPT2Config", {}),
    "microsoft/DialoGPT-small": ("GPT2Config", {}),
    "facebook/opt-125m": ("OPTConfig", {}),
    "facebook/opt-350m": ("OPTConfig", OPT_350M),
    "distilbert-base-uncased": ("DistilBertConfig", {}),
    "google-bert/bert-base-uncased": ("BertConfig", {}),
    "bigscience/bloom-560m": ("BloomConfig", BLOOM_560M),
}
WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
CLASSES = ("AutoModelForSequenceClassification", "AutoModelForCausalLM", "AutoModel")


def peft_updates(folder: Path) -> dict[str, np.ndarray]:
    """PEFT's ``get_delta_weight`` of every module, ``(out, in)``, by module path."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fields of other versions and forks
        config = PeftConfig.from_pretrained(str(folder))
    # Memory that is never written to: the base weights are whatever was there.
    base = _base(folder, config).to_empty(device="cpu")
    # The classes for tasks want a model that generates; the layers are the same.
    config.task_type = None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tuned = PeftModel.from_pretrained(base, str(folder), config=config, low_cpu_mem_usage=True)
    found = {}
    for path, layer in tuned.base_model.model.named_modules():
        if hasattr(layer, "get_delta_weight"):
            delta = layer.get_delta_weight("default").detach()
            if delta.is_meta:
                continue  # a target that the file has no factors for
            delta = delta.numpy()
            turned = getattr(layer, "fan_in_fan_out", False)
            turned = turned or isinstance(layer.get_base_layer(), nn.Embedding)
            found[path] = delta.T if turned else delta
    return found


def _base(folder: Path, config: PeftConfig) -> nn.Module:
    import transformers

    name = config.base_model_name_or_path or ""
    with torch.device("meta"):
        if name not in CONFIGS:
            return _of_the_files_shapes(folder)
        kind, changes = CONFIGS[name]
        if config.task_type == "SEQ_CLS":
            changes = {**changes, "num_labels": _labels(folder)}
        settings = getattr(transformers, kind)(**changes)
        adapted = set(raw.peft(folder))
        for name in CLASSES:
            model = getattr(transformers, name).from_config(settings)
            if adapted <= {path for path, _ in model.named_modules()}:
                return model
    raise AssertionError(f"no class of {kind} has the modules of {folder.name}")


def _labels(folder: Path) -> int:
    """Rows of the classifier in the file."""
    heads = (".classifier.weight", ".score.weight", ".classifier.out_proj.weight")
    tensors = raw.tensors_of(raw.weights_of(folder, *WEIGHTS))
    return next((t.shape[0] for name, t in tensors.items() if name.endswith(heads)), 2)


def _of_the_files_shapes(folder: Path) -> nn.Module:
    """For bases that exist nowhere else: one module per pair of factors."""
    root = nn.Module()
    tensors = raw.tensors_of(raw.weights_of(folder, *WEIGHTS))
    for name, a in tensors.items():
        path, _, leaf = name.removeprefix("base_model.model.").rpartition(".lora_")
        if leaf.startswith("embedding_A"):
            b = tensors[name.replace("ing_A", "ing_B")]
            _place(root, path, nn.Embedding(a.shape[1], b.shape[0]))
        elif leaf.startswith("A"):
            b = tensors[name.replace("lora_A", "lora_B")]
            kinds = {2: nn.Linear, 3: nn.Conv1d, 4: nn.Conv2d}
            kernel = (tuple(a.shape[2:]),) if a.ndim > 2 else ()
            _place(root, path, kinds[a.ndim](a.shape[1], b.shape[0], *kernel))
    return root


def _place(root: nn.Module, path: str, made: nn.Module) -> None:
    *above, last = path.split(".")
    for part in above:
        if part not in root._modules:
            root.add_module(part, nn.Module())
        root = root._modules[part]
    root.add_module(last, made)
