"""Small adapters in every naming, with their dense updates computed in float64 by numpy."""

import json

import numpy as np
import pytest
from safetensors.numpy import save

from adaptrix.convert.arrays import to_numpy_f64
from adaptrix.convert.reading import ReadOptions, read_adapter
from adaptrix.convert.source import AdapterFiles, MemorySource

WIDTH, HEADS, LAYERS, INNER = 16, 4, 3, 32
BLOCKS = {
    "phi-l1": ("layers.{1}.mixer.Wqkv", "layers.{1}.mixer.out_proj", "layers.{1}.mlp.fc1", "layers.{1}.mlp.fc2"),
    "phi-l2": ("transformer.h.{0}.mixer.Wqkv", "transformer.h.{0}.mixer.out_proj", "transformer.h.{0}.mlp.fc1", "transformer.h.{0}.mlp.fc2"),
    "phi-l3": ("model.layers.{0}.self_attn.query_key_value", "model.layers.{0}.self_attn.dense", "model.layers.{0}.mlp.fc1", "model.layers.{0}.mlp.fc2"),
}  # fmt: skip
SPLIT = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")


def files_of(tensors, config=None, name="adapter_model.safetensors", location="mem"):
    """An adapter folder in memory."""
    found = {}
    if tensors is not None:
        weights = tensors if isinstance(tensors, bytes) else save(tensors)
        found[name] = MemorySource(name, weights)
    if config is not None:
        text = config if isinstance(config, bytes) else json.dumps(config).encode()
        found["adapter_config.json"] = MemorySource("adapter_config.json", text)
    return AdapterFiles(location=location, files=found)


def lora_config(**more):
    """A plain configuration as PEFT writes it."""
    base = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 2, "lora_alpha": 3.0,
        "target_modules": ["q_proj"], "bias": "none", "base_model_name_or_path": "microsoft/phi-2",
    }  # fmt: skip
    return {**base, **more}


def phi_config(width=WIDTH, heads=HEADS, layers=LAYERS, inner=INNER):
    return {
        "model_type": "phi", "hidden_size": width, "num_attention_heads": heads,
        "num_hidden_layers": layers, "intermediate_size": inner, "vocab_size": 64,
    }  # fmt: skip


def phi_source(layout, *, width=WIDTH, heads=HEADS, layers=LAYERS, inner=INNER, rank=2, seed=0,
               dtype=np.float32, prefix="base_model.model.", only=None):  # fmt: skip
    """Tensors of a layout, and ``ΔW/s`` of every canonical module, row by row."""
    rng = np.random.default_rng(seed)
    tensors, dense = {}, {}
    sizes = ((3 * width, width), (width, width), (inner, width), (width, inner))
    for layer in range(layers):
        names = BLOCKS.get(layout)
        for slot, (out, into) in enumerate(sizes):
            if only is not None and slot not in only:
                continue
            if names is None and slot == 0:
                for tail in SPLIT:
                    path = f"model.layers.{layer}.{tail}"
                    dense[path] = _pair(
                        tensors, prefix + path, width, into, rank=rank, rng=rng, dtype=dtype
                    )
                continue
            tail = ("self_attn.dense", "mlp.fc1", "mlp.fc2")[slot - 1] if slot else ""
            if layout == "phi-l5" and slot == 1:
                source = f"model.layers.{layer}.self_attn.o_proj"
            elif names is None:
                source = f"model.layers.{layer}.{tail}"
            else:
                source = names[slot].format(layer, layer + 1)
            delta = _pair(tensors, prefix + source, out, into, rank=rank, rng=rng, dtype=dtype)
            if slot:
                dense[f"model.layers.{layer}.{tail}"] = delta
            else:
                for part, rows in zip(SPLIT, fused_rows(layout, width, heads), strict=True):
                    dense[f"model.layers.{layer}.{part}"] = delta[rows]
    return tensors, dense


def fused_rows(layout, width, heads):
    """Rows of q, k, v in the fused weight, spelled out one by one."""
    size = width // heads
    if layout == "phi-l3":
        return [
            [h * 3 * size + part * size + i for h in range(heads) for i in range(size)]
            for part in range(3)
        ]
    return [[part * width + i for i in range(width)] for part in range(3)]


def _pair(tensors, name, out, into, *, rank, rng, dtype):
    a = rng.standard_normal((rank, into)).astype(dtype)
    b = rng.standard_normal((out, rank)).astype(dtype)
    tensors[f"{name}.lora_A.weight"] = a
    tensors[f"{name}.lora_B.weight"] = b
    return b.astype(np.float64) @ a.astype(np.float64)


def delta_of(module):
    """``ΔW`` of a canonical module in float64."""
    return module.scale.value * (to_numpy_f64(module.b) @ to_numpy_f64(module.a))


def read(tensors, config=None, *, name="adapter_model.safetensors", **options):
    return read_adapter(files_of(tensors, config, name), ReadOptions(**options))


def codes(reading):
    return [problem.code for problem in reading.inspection.problems]


@pytest.fixture
def make():
    """The builders of this file, as attributes."""

    class Make:
        pass

    made = Make()
    for builder in (
        files_of,
        lora_config,
        phi_config,
        phi_source,
        delta_of,
        read,
        codes,
        fused_rows,
    ):
        setattr(made, builder.__name__, builder)
    return made
