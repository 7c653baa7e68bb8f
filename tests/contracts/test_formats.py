"""One contract for every format: own files only, nothing lost, what is written reads back."""

import json

import numpy as np
import pytest
from safetensors.numpy import save

from adaptrix.convert.arrays import to_numpy_f64
from adaptrix.convert.contents import gather
from adaptrix.convert.formats import FORMATS
from adaptrix.convert.formats.recognised import KINDS
from adaptrix.convert.reading import ReadOptions, read_adapter
from adaptrix.convert.source import AdapterFiles, MemorySource
from adaptrix.convert.writing import TARGETS, write_adapter
from adaptrix.schema.problems import PROBLEM_CODES

PATHS = [f"model.layers.{i}.self_attn.{p}" for i in range(2) for p in ("q_proj", "dense")]
BASE = {"model_type": "phi", "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2,
        "num_attention_heads": 2, "vocab_size": 32}  # fmt: skip
SAMPLES = {
    ("soft-prompt", "prompt_tuning"): ["prompt_embeddings"],
    ("prefix-tuning", "prefix_tuning"): ["transformer.prefix_encoder.embedding.weight"],
    ("adaption-prompt", "adaption_prompt"): ["model.layers.0.self_attn.adaption_prompt"],
    ("textual-inversion", "textual_inversion"): ["<cat>"],
    ("ia3", "ia3"): ["base_model.model.model.layers.0.self_attn.k_proj.ia3_l"],
    ("xlora", "xlora"): ["base_model.internal_xlora_classifier.inner.0.weight"],
    ("poly", "poly"): ["base_model.model.q.poly_lora_A"],
    ("adapterhub", "bottleneck"): ["bert.encoder.layer.0.output.adapters.x.adapter_down.0.weight"],
    ("comfyui", "lora"): ["model.layers.0.self_attn.q_proj.lora_down.weight"],
    ("keras", "lora"): ["lora.0.lora_kernel_a"],
    ("tensor-list", "lora"): ["0", "1", "2"],
    ("adalora", "adalora"): ["base_model.model.q.lora_A", "base_model.model.q.lora_B", "base_model.model.q.lora_E"],
    ("phi-4-multimodal", "full_checkpoint"): ["model.layers.0.mlp.down_proj.lora_A.speech.weight", "model.norm.weight"],
    ("ip-adapter", "ip_adapter"): ["ip_adapter.1.to_k_ip.weight"],
    ("optimizer-state", "optimizer_state"): ["state.0.exp_avg"],
    ("deepspeed-shard", "sharded_state"): ["fp32_flat_groups.0"],
    ("full-checkpoint", "full_checkpoint"): ["model.embed_tokens.weight", "model.layers.0.mlp.fc1.weight"],
}  # fmt: skip


def folder(files):
    found = {name: MemorySource(name, content) for name, content in files.items()}
    return AdapterFiles(location="contract", files=found)


LLAMA = {"model_type": "llama", "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2,
         "num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": 32}  # fmt: skip
LLAMA_TARGETS = {"torchtune"}
"""Targets that have no place for Phi's modules."""
DIFFUSION_TARGETS = {"kohya", "diffusers", "diffusers-old"}
"""Targets that have a place for modules of diffusion models only."""
UNET = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.{}"


def diffusion(target):
    """Stable Diffusion's UNet and text encoder, ranks and alphas of their own, a convolution."""
    rng = np.random.default_rng(0)
    shapes = {f"lora_unet_{UNET.format(tail)}": (320, 320) for tail in ("to_q", "to_k", "to_out.0")}
    shapes |= {f"lora_te_text_model.encoder.layers.{i}.mlp.fc1": (3072, 768) for i in range(2)}
    old = target == "diffusers-old"  # it has no convolutions, and no scale but 1
    shapes |= {} if old else {"lora_unet_down_blocks.0.resnets.0.conv1": (320, 320, 3, 3)}
    tensors = {}
    for i, (path, (out, *rest)) in enumerate(shapes.items()):
        name, rank = path.replace(".", "_"), 2 + i % 2
        ones = [1] * (len(rest) - 1)
        tensors[f"{name}.lora_down.weight"] = rng.standard_normal((rank, *rest)).astype("f4")
        tensors[f"{name}.lora_up.weight"] = rng.standard_normal((out, rank, *ones)).astype("f4")
        tensors[f"{name}.alpha"] = np.array(rank if old else 1.1 * i + 1, "f4")
    return folder({"sd.safetensors": save(tensors)})


def plain(target=""):
    if target in DIFFUSION_TARGETS:
        return diffusion(target)
    rng = np.random.default_rng(0)
    tensors = {}
    for path in [p.replace("dense", "o_proj") for p in PATHS] if target in LLAMA_TARGETS else PATHS:
        tensors[f"base_model.model.{path}.lora_A.weight"] = rng.standard_normal((2, 8)).astype("f4")
        tensors[f"base_model.model.{path}.lora_B.weight"] = rng.standard_normal((8, 2)).astype("f4")
    names = ("me/sample-phi", "me/sample-llama")
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 6, "target_modules": ["q_proj", "dense", "o_proj"],
              "base_model_name_or_path": names[target in LLAMA_TARGETS], "task_type": "CAUSAL_LM"}  # fmt: skip
    files = {"adapter_model.safetensors": save(tensors)}
    return folder({**files, "adapter_config.json": json.dumps(config).encode()})


def base_of(target):
    if target in DIFFUSION_TARGETS:
        return ReadOptions()
    return ReadOptions(base_config=LLAMA if target in LLAMA_TARGETS else BASE)


def canonical(target=""):
    reading = read_adapter(plain(target), base_of(target))
    assert reading.inspection.convertible, reading.inspection.problems
    return reading.adapter


def stored(adapter, target):
    written = write_adapter(adapter, target)
    return folder({f.path: b"".join(bytes(c) for c in f.chunks()) for f in written.files}), written


@pytest.mark.parametrize("target", TARGETS)
def test_writing_and_reading_is_the_identity(target):
    adapter = canonical(target)
    files, written = stored(adapter, target)
    assert written.fidelity == "exact"
    again = read_adapter(files, base_of(target))
    assert again.inspection.convertible, again.inspection.problems
    found = {m.path: m for m in again.adapter.modules}
    for module in adapter.modules:
        other = found.pop(module.path)
        assert other.scale.value == module.scale.value
        assert other.kind is module.kind
        if target == "phi-l2":
            one, two = (to_numpy_f64(m.b) @ to_numpy_f64(m.a) for m in (module, other))
            np.testing.assert_array_equal(one, two)
        else:
            assert bytes(other.a.load()) == bytes(module.a.load())
            assert bytes(other.b.load()) == bytes(module.b.load())
    # A fused pair has room for k and v too; they must be zero.
    assert all(not to_numpy_f64(m.b).any() for m in found.values())
    assert again.adapter.family == adapter.family == family_of(target)


def family_of(target):
    if target in DIFFUSION_TARGETS:
        return "stable-diffusion"
    return "llama" if target in LLAMA_TARGETS else "phi"


@pytest.mark.parametrize("target", [f.name for f in FORMATS if f.write])
def test_each_format_recognises_its_own_files_best(target):
    contents = gather(stored(canonical(target), target)[0])
    scores = {f.name: r.score for f in FORMATS if (r := f.recognise(contents))}
    assert max(scores, key=scores.__getitem__) == target
    assert sorted(scores.values())[-1] > max(0, *[s for n, s in scores.items() if n != target], 0)


@pytest.mark.parametrize("sample", list(SAMPLES), ids="-".join)
def test_what_is_refused_is_recognised_by_name(sample):
    tensors = {name: np.ones((2, 2), "f4") for name in SAMPLES[sample]}
    reading = read_adapter(folder({"weights.safetensors": save(tensors)}))
    found = reading.inspection
    assert (found.format.name, found.format.method) == sample
    assert found.format.evidence
    assert reading.adapter is None
    assert found.fidelity == "refused"
    assert found.tensors.total == len(tensors) == len(found.tensors.ignored)
    (problem,) = found.problems
    assert PROBLEM_CODES[problem.code].stops
    assert problem.hint


def test_every_kind_has_a_sample():
    kinds = {(kind.name, kind.method) for kind in KINDS}
    assert kinds == set(SAMPLES)


def test_every_tensor_is_accounted_for():
    reading = read_adapter(plain(), ReadOptions(base_config=BASE))
    sources = {t.source for m in reading.adapter.modules for t in (m.a, m.b)}
    assert len(sources) == reading.inspection.tensors.used == 8


def test_names_are_distinct_where_they_can_be_chosen():
    writable = [form.name for form in FORMATS if form.write]
    assert writable == [
        "peft",
        "mlx",
        "mlx-vlm",
        "gguf",
        "torchtune",
        "litgpt",
        "loralib",
        "kohya",
        "diffusers",
    ]
    assert all(form.name for form in FORMATS)
