"""OpenCLIP's and Segment Anything's own names: rows against dense float64, and back again."""

import json

import numpy as np
import pytest
from safetensors.numpy import save

from adaptrix.convert.arrays import to_numpy_f64
from adaptrix.convert.reading import ReadOptions, read_adapter
from adaptrix.convert.source import AdapterFiles, MemorySource
from adaptrix.convert.writing import write_adapter

RNG = np.random.default_rng(3)
VISION, TEXT = "vision_model.encoder.layers", "text_model.encoder.layers"


def thirds(place, width):
    return {f"{place}.{part}_proj": width for part in "qkv"}


ROWS = {
    "open-clip": ("clip", [
        ("visual.transformer.resblocks.0.attn", 768, thirds(f"{VISION}.0.self_attn", 768)),
        ("visual.transformer.resblocks.0.attn.base_layer.out_proj", 768, {f"{VISION}.0.self_attn.out_proj": 768}),
        ("visual.transformer.resblocks.11.mlp.c_fc", 768, {f"{VISION}.11.mlp.fc1": 3072}),
        ("transformer.resblocks.3.attn", 512, thirds(f"{TEXT}.3.self_attn", 512)),
        ("transformer.resblocks.3.mlp.c_proj", 2048, {f"{TEXT}.3.mlp.fc2": 512}),
    ]),
    "open-clip, text apart": ("clip", [
        ("text.transformer.resblocks.3.attn", 512, thirds(f"{TEXT}.3.self_attn", 512)),
        ("text.transformer.resblocks.3.attn.out_proj", 512, {f"{TEXT}.3.self_attn.out_proj": 512}),
    ]),
    "segment-anything": ("sam", [
        ("image_encoder.blocks.0.attn.qkv", 768, {"vision_encoder.layers.0.attn.qkv": 2304}),
        ("image_encoder.blocks.11.attn.proj", 768, {"vision_encoder.layers.11.attn.proj": 768}),
        ("image_encoder.blocks.11.mlp.lin1", 768, {"vision_encoder.layers.11.mlp.lin1": 3072}),
    ]),
}  # fmt: skip


def read(tensors, config=None):
    config = config or {"peft_type": "LORA", "r": 2, "lora_alpha": 6, "bias": "none"}
    files = {
        "adapter_config.json": json.dumps(config).encode(),
        "adapter_model.safetensors": save(tensors),
    }
    found = {name: MemorySource(name, content) for name, content in files.items()}
    return read_adapter(AdapterFiles(location="mem", files=found), ReadOptions())


@pytest.mark.parametrize("layout", list(ROWS))
def test_names_of_the_first_code_are_those_of_transformers(layout):
    family, rows = ROWS[layout]
    tensors, wanted = {}, {}
    for name, into, paths in rows:
        a = RNG.standard_normal((2, into)).astype("f4")
        b = RNG.standard_normal((sum(paths.values()), 2)).astype("f4")
        place = f"base_model.model.{name}"
        tensors |= {f"{place}.lora_A.weight": a, f"{place}.lora_B.weight": b}
        row = 0
        for path, count in paths.items():
            wanted[path] = 3.0 * (b[row : row + count].astype("f8") @ a.astype("f8"))
            row += count
    reading = read(tensors)
    assert reading.adapter is not None, reading.inspection.problems
    assert reading.inspection.architecture.family == family
    assert {p.code for p in reading.inspection.problems} == {"renamed_modules"}
    found = {
        str(m.path): m.scale.value * (to_numpy_f64(m.b) @ to_numpy_f64(m.a))
        for m in reading.adapter.modules
    }
    assert found.keys() == wanted.keys()
    for path, update in wanted.items():
        np.testing.assert_allclose(found[path], update, rtol=1e-12)
    if layout == "open-clip":
        written = write_adapter(reading.adapter, "peft", layout=layout)
        files = {f.path: b"".join(bytes(c) for c in f.chunks()) for f in written.files}
        again = read_adapter(
            AdapterFiles(location="mem", files={n: MemorySource(n, c) for n, c in files.items()})
        )
        for module in again.adapter.modules:
            update = module.scale.value * (to_numpy_f64(module.b) @ to_numpy_f64(module.a))
            np.testing.assert_allclose(update, wanted[str(module.path)], rtol=1e-12)


def test_a_tower_without_its_model_is_not_renamed():
    place = "base_model.model.transformer.resblocks.0.mlp.c_fc"  # vision's, or text's
    tensors = {f"{place}.lora_A.weight": np.ones((2, 768), "f4"), f"{place}.lora_B.weight": np.ones((3072, 2), "f4")}  # fmt: skip
    modules = read(tensors).adapter.modules
    assert [str(m.path) for m in modules] == ["transformer.resblocks.0.mlp.c_fc"]


def test_plain_vision_transformers_are_not_another_models_tower():
    tensors = {}
    for i in range(4):
        for name, (out, into) in {"attn.qkv": (1152, 384), "mlp.fc1": (1536, 384)}.items():
            place = f"base_model.model.blocks.{i}.{name}"
            tensors |= {
                f"{place}.lora_A.weight": np.ones((2, into), "f4"),
                f"{place}.lora_B.weight": np.ones((out, 2), "f4"),
            }
    architecture = read(tensors).inspection.architecture
    assert "timm" in {candidate.family for candidate in architecture.candidates}
    assert architecture.confidence < 0.95


REMOTE = {
    "exaone": ("transformer.h.{}.attn.attention.q_proj", 4096, 4096, "LGAI-EXAONE/EXAONE-3.5-7.8B-Instruct"),
    "molmo": ("model.transformer.blocks.{}.att_proj", 4608, 3584, "allenai/Molmo-7B-D-0924"),
    "llada": ("model.transformer.blocks.{}.ff_proj", 12288, 4096, "GSAI-ML/LLaDA-8B-Instruct"),
    "esmc": ("transformer.blocks.{}.attn.layernorm_qkv.1", 2880, 960, "me/esmc"),
    "eva-clip": ("visual.blocks.{}.attn.v_proj", 768, 768, ""),
}  # fmt: skip


@pytest.mark.parametrize("family", list(REMOTE))
def test_families_of_remote_code_are_named(family):
    template, out, into, base = REMOTE[family]
    tensors = {}
    for layer in range(6):
        place = f"base_model.model.{template.format(layer)}"
        tensors |= {
            f"{place}.lora_A.weight": np.ones((2, into), "f4"),
            f"{place}.lora_B.weight": np.ones((out, 2), "f4"),
        }
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 6, "base_model_name_or_path": base}
    candidates = read(tensors, config).inspection.architecture.candidates
    assert candidates[0].family == family  # one kind of module is little, and most names are rare
