"""A short form of benchmarks/detection.py: drawn adapters, and a confidence that is a chance."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from adaptrix.convert.architecture.claims import told
from adaptrix.convert.architecture.detect import Claims, Observation, detect
from adaptrix.convert.reading import read_adapter
from adaptrix.convert.source import open_path

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def found():
    sys.path.insert(0, str(BENCHMARKS))
    try:
        spec = importlib.util.spec_from_file_location("detection", BENCHMARKS / "detection.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules["detection"] = module
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(BENCHMARKS))
    import detection_report

    return module.outcomes(module.draw(7, 400)), detection_report


def test_confidence_is_a_probability(found):
    outcomes, measured = found
    rows = measured.rows_of(outcomes, measured_ratios())
    sure = [right for chance, right in rows if chance >= 0.99]
    assert len(sure) > 100
    assert all(sure)
    # 400 cases in 15 bins: sampling alone gives about 0.03.
    assert measured.calibration_error(rows) < 0.06


def test_what_can_be_told_apart_is_told_apart(found):
    outcomes, measured = found
    ratios = measured_ratios()
    alone = [one for one in outcomes if measured.is_identifiable(one)]
    assert len(alone) > 250
    assert [one.case for one in alone if one.ranked(ratios)[0][1] != one.case.family] == []


def test_families_that_fit_alike_share(found):
    outcomes, measured = found
    ratios = measured_ratios()
    shared = 0
    for one in outcomes:
        fits = measured.fitting(one)
        own = fits.get(one.case.family)
        twins = [name for name, kind in fits.items() if kind == own]
        if own is not None and len(twins) > 1:
            shared += 1
            chances = {name: chance for chance, name in one.ranked(ratios)}
            assert all(0 < chances[name] < 1 for name in twins)
    assert shared > 60


def test_the_chance_of_a_base_is_a_probability(found):
    outcomes, measured = found
    rows = [(c, n == one.case.base) for one in outcomes for c, n in [one.base()] if c]
    assert len(rows) > 200
    assert measured.calibration_error(rows) < 0.08
    for one in outcomes[:60]:
        every = one.weighed.matches(one.ranked(), list(one.weighed.shapes))
        assert sum(chance for _, chance in every) <= 1 + 1e-9


def measured_ratios():
    from adaptrix.convert.architecture.weights import RATIOS

    return RATIOS


LLAMA = "model.layers.{}.self_attn.{}_proj"


def seen(names, layers=2, shapes=None):
    shapes = shapes or {}
    return [
        Observation(
            path=name.format(i), out_features=shapes.get(name, (0, 0))[0],
            in_features=shapes.get(name, (0, 0))[1],
        )
        for i in range(layers) for name in names
    ]  # fmt: skip


EXPERTS = {
    "one module each, older class": ["model.layers.{}.block_sparse_moe.experts.0.w1", "model.layers.{}.block_sparse_moe.experts.1.w1"],
    "slices of the parameter": ["model.layers.{}.mlp.experts.gate_up_proj.0", "model.layers.{}.mlp.experts.down_proj.1"],
    "the gate": ["model.layers.{}.block_sparse_moe.gate"],
}  # fmt: skip


@pytest.mark.parametrize("names", EXPERTS.values(), ids=list(EXPERTS))
def test_experts_in_every_naming_are_known(names):
    found = detect(seen(names), Claims(base_name="mistralai/Mixtral-8x7B-v0.1"))
    assert found.family == "mixtral"


def test_a_wrapped_model_is_told_by_what_is_inside():
    names = ["backbone.encoder.layer.{}.attention.self.query", "backbone.encoder.layer.{}.attention.self.value"]  # fmt: skip
    found = detect(seen(names, 12), Claims())
    assert "bert" in [c.family for c in found.candidates]
    assert found.confidence < 0.9


def test_phi2_by_its_dimensions_and_not_stablelm():
    names = ["model.layers.{}.self_attn.dense", "model.layers.{}.mlp.fc1", "model.layers.{}.mlp.fc2"]  # fmt: skip
    shapes = dict(zip(names, [(2560, 2560), (10240, 2560), (2560, 10240)], strict=True))
    found = detect(seen(names, 32, shapes), Claims())
    assert found.family == "phi"
    assert found.confidence > 0.99
    assert [base.name for base in found.matches] == ["microsoft/phi-2"]


def test_a_known_base_comes_before_another_familys_defaults():
    """Two layers of Llama-2's width, which Qwen3's default configuration has as well."""
    seen = [
        Observation(path=f"model.layers.{i}.self_attn.{p}", out_features=4096, in_features=4096)
        for i in range(2)
        for p in ("q_proj", "k_proj")
    ]
    assert detect(seen, Claims()).candidates[0].family == "llama"


def square(sizes, layers=32, prefix="model.layers.{}.self_attn."):
    return [
        Observation(path=prefix.format(i) + name, out_features=out, in_features=into)
        for i in range(layers) for name, (out, into) in sizes.items()
    ]  # fmt: skip


TWINS = {"q_proj": (4096, 4096), "v_proj": (1024, 4096)}
"""Of Mistral-7B and of Llama-3-8B."""


def test_a_declaration_decides_among_families_of_one_content_and_is_no_proof():
    alone = detect(square(TWINS), Claims())
    assert alone.family == "unknown"
    assert {"mistral", "llama"} <= {c.family for c in alone.candidates}
    for base, family in (("mistralai/Mistral-7B-v0.1", "mistral"), ("NousResearch/Meta-Llama-3-8B", "llama")):  # fmt: skip
        found = detect(square(TWINS), Claims(base_name=base))
        assert found.family == family
        assert 0.96 < found.confidence < 0.99


def test_a_saved_table_tells_by_its_rows():
    saved = Observation(
        path="model.embed_tokens", out_features=128256, in_features=4096, saved=True
    )
    found = detect([*square(TWINS), saved], Claims())
    assert found.family == "llama"
    assert found.matches[0].dimensions.vocabulary == 128256
    assert found.chances[0] > 10 * found.chances[-1]


def test_a_head_that_only_one_family_has_tells():
    names = ("q_lin", "v_lin")
    adapted = square(dict.fromkeys(names, (768, 768)), 6, "distilbert.transformer.layer.{}.attention.")  # fmt: skip
    head = Observation(path="pre_classifier", out_features=768, in_features=768, saved=True)
    own = Observation(path="my_head", out_features=7, in_features=768, saved=True)
    assert detect([*adapted, head], Claims()).family == "distilbert"
    assert detect([*adapted, own], Claims()).confidence == detect(adapted, Claims()).confidence


@pytest.mark.parametrize(
    "said",
    [
        Claims(base_class="MistralForCausalLM"),
        Claims(library="transformers.models.mistral.modeling_mistral"),
        Claims(architecture="mistral"),
    ],
)
def test_the_class_its_module_and_what_is_stated_tell(said):
    found = detect(square(TWINS), said)
    assert found.family == "mistral"
    assert found.confidence > 0.95


NAMED = {
    "tiiuae/falcon-mamba-7b-tuned": "falcon_mamba",
    "google/umt5-small-x": "umt5",
    "me/flex-olmo-7b": "flex_olmo",
    "someone/granite-base": "granite",
    "x/Qwen3-VL-30B-A3B": "qwen3_vl_moe",
}


@pytest.mark.parametrize("name", NAMED)
def test_a_name_inside_a_longer_one_is_not_meant(name):
    relatives = {
        "falcon_mamba", "mamba", "falcon", "umt5", "mt5", "t5", "flex_olmo", "olmo", "granite",
        "qwen3_vl_moe", "qwen3_vl", "qwen3", "llama",
    }  # fmt: skip
    assert set(told(relatives, Claims(base_name=name))) == {NAMED[name]}


CONFIGURATIONS = [
    ("microsoft/phi-2", "q_proj k_proj v_proj dense", "phi"),
    ("unsloth/llama-3-8b-Instruct-bnb-4bit", "q_proj v_proj", "llama"),
    ("/data/DeepSeek-R1-0528-Qwen3-8B", "q_proj k_proj", "qwen3"),
    ("google/flan-t5-base", "q v", "t5"),
    ("./flan", "v q", "t5"),
    ("/model/7B_hf", "q_proj v_proj", "unknown"),
    ("black-forest-labs/FLUX.2-klein-base-4B", "to_k to_q add_q_proj to_qkv_mlp_proj", "unknown"),
    ("", "lin0", "unknown"),
    ("gpt2", "", "unknown"),
]


@pytest.mark.parametrize(("base", "targets", "family"), CONFIGURATIONS)
def test_a_configuration_without_weights_is_read_by_what_it_says(base, targets, family):
    found = detect([], Claims(base_name=base, targets=tuple(targets.split())))
    assert found.family == family
    assert found.confidence < 0.999


def test_dimensions_that_one_base_has_tell_without_a_name():
    gemma = detect(square({"q_proj": (2048, 2304), "v_proj": (1024, 2304)}, 26), Claims())
    assert gemma.family == "gemma2"
    assert {"google/gemma-2-2b", "google/gemma-2-2b-it"} <= {b.name for b in gemma.matches}
    fused = square({"query_key_value": (12288, 4096)}, 36)
    assert detect(fused, Claims()).family == "persimmon"
    experts = square({"q_proj": (4096, 2048), "k_proj": (512, 2048)}, 48)
    assert detect(experts, Claims()).family == "qwen3_moe"


def test_a_base_that_is_of_the_same_dimensions_shares():
    found = detect(square({"q_proj": (2048, 2304), "v_proj": (1024, 2304)}, 26), Claims())
    chances = {b.name: p for b, p in zip(found.matches, found.chances, strict=True)}
    assert chances["google/gemma-2-2b"] == chances["google/gemma-2-2b-it"] < 0.5
    named = detect(
        square({"q_proj": (2048, 2304), "v_proj": (1024, 2304)}, 26),
        Claims(base_name="google/gemma-2-2b-it"),
    )
    assert named.matches[0].name == "google/gemma-2-2b-it"
    assert named.chances[0] > 0.9


@pytest.mark.parametrize(
    ("declared", "differs"),
    [
        ("someone/my-gpt2-tuned", True),
        ("microsoft/phi-2", True),
        ("someone/llama-mine", False),
        ("/data/7B_hf", False),
    ],
)
def test_a_name_that_the_modules_contradict_is_said(tmp_path, declared, differs):
    tensors = {}
    for layer in range(2):
        for name, out, into in (("gate_proj", 44, 16), ("down_proj", 16, 44)):
            key = f"base_model.model.model.layers.{layer}.mlp.{name}"
            tensors[f"{key}.lora_A.weight"] = np.ones((2, into), np.float32)
            tensors[f"{key}.lora_B.weight"] = np.ones((out, 2), np.float32)
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["gate_proj", "down_proj"],
        "base_model_name_or_path": declared,
        "auto_mapping": {"parent_library": "transformers.models.llama.modeling_llama"},
    }  # fmt: skip
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    found = read_adapter(open_path(tmp_path)).inspection
    assert found.architecture.family == "llama"
    codes = {problem.code for problem in found.problems}
    assert ("declared_base_differs" in codes) == differs
