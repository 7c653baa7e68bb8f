"""All five namings of Phi: paths, rows and updates against numpy, tiny and full size."""

import numpy as np
import pytest

from adaptrix.convert.arrays import to_numpy_f64
from adaptrix.convert.layouts import phi
from adaptrix.convert.reading import refusal

LAYOUTS = ["phi-l1", "phi-l2", "phi-l3", "phi-l4", "phi-l5"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_update_equals_the_dense_computation_from_the_source(make, layout):
    tensors, dense = make.phi_source(layout)
    reading = make.read(tensors, make.lora_config(), base_config=make.phi_config())
    assert reading.adapter is not None, make.codes(reading)
    assert reading.inspection.architecture.layout == layout
    assert reading.inspection.architecture.family == "phi"
    assert reading.inspection.verdict == "PASS"
    assert {m.path for m in reading.adapter.modules} == set(dense)
    for module in reading.adapter.modules:
        # Same operands in the same order: not one bit may differ.
        np.testing.assert_array_equal(
            to_numpy_f64(module.b) @ to_numpy_f64(module.a), dense[module.path]
        )
        assert module.scale.value == 1.5
    assert reading.inspection.tensors.used == len(tensors)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_full_size_phi_2(make, layout):
    tensors, dense = make.phi_source(
        layout, width=2560, heads=32, layers=1, inner=10240, rank=4, dtype=np.float16
    )
    config = make.lora_config(r=4, lora_alpha=16, use_rslora=True)
    reading = make.read(tensors, config)
    assert reading.adapter is not None, make.codes(reading)
    assert reading.inspection.base_model.matches == ("microsoft/phi-2",)
    assert reading.inspection.architecture.confidence > 0.99
    assert reading.adapter.method == "rslora"
    for module in reading.adapter.modules:
        np.testing.assert_array_equal(
            to_numpy_f64(module.b) @ to_numpy_f64(module.a), dense[module.path]
        )
        assert module.scale.value == 8.0


def test_row_maps_of_two_heads_of_two():
    # Worked by hand from view(H, 3, hd) of transformers 4.36.2 and (three h d) of remote code.
    interleaved = phi.row_blocks("phi-l3", 12, 2)
    assert interleaved == ([0, 1, 6, 7], [2, 3, 8, 9], [4, 5, 10, 11])
    blocks = phi.row_blocks("phi-l2", 12, None)
    assert [list(range(12))[b] for b in blocks] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    to_blocks = [row for part in interleaved for row in part]
    assert to_blocks == [0, 1, 6, 7, 2, 3, 8, 9, 4, 5, 10, 11]
    assert np.argsort(to_blocks).tolist() == [0, 1, 4, 5, 8, 9, 2, 3, 6, 7, 10, 11]


def test_three_copies_of_a_are_the_same_bytes(make):
    tensors, _ = make.phi_source("phi-l2")
    adapter = make.read(tensors, make.lora_config(), base_config=make.phi_config()).adapter
    by_path = {m.path: m for m in adapter.modules}
    q, k, v = (by_path[f"model.layers.0.self_attn.{p}_proj"] for p in "qkv")
    assert bytes(q.a.load()) == bytes(k.a.load()) == bytes(v.a.load())
    assert q.source == "base_model.model.transformer.h.0.mixer.Wqkv"


def test_magnitude_and_biases_follow_the_rows(make):
    rng = np.random.default_rng(5)
    name = "base_model.model.model.layers.0.self_attn.query_key_value"
    tensors = {
        f"{name}.lora_A.weight": rng.standard_normal((2, 8)).astype(np.float32),
        f"{name}.lora_B.weight": rng.standard_normal((24, 2)).astype(np.float32),
        f"{name}.lora_B.bias": np.arange(24, dtype=np.float32),
        f"{name}.lora_magnitude_vector": np.arange(100, 124, dtype=np.float32),
        f"{name}.base_layer.bias": np.arange(200, 224, dtype=np.float32),
    }
    config = make.lora_config(use_dora=True, lora_bias=True, bias="lora_only")
    base = make.phi_config(width=8, heads=2, layers=1)
    adapter = make.read(tensors, config, base_config=base).adapter
    by_path = {m.path: m for m in adapter.modules}
    wanted = {"q": [0, 1, 2, 3, 12, 13, 14, 15], "k": [4, 5, 6, 7, 16, 17, 18, 19],
              "v": [8, 9, 10, 11, 20, 21, 22, 23]}  # fmt: skip
    for part, rows in wanted.items():
        module = by_path[f"model.layers.0.self_attn.{part}_proj"]
        assert to_numpy_f64(module.bias_delta).tolist() == rows
        assert to_numpy_f64(module.magnitude).tolist() == [100 + row for row in rows]
    replaced = {r.parameter: to_numpy_f64(r.tensor).tolist() for r in adapter.replacements}
    assert replaced["model.layers.0.self_attn.k_proj.bias"] == [200 + r for r in wanted["k"]]
    assert adapter.method == "dora"
    assert adapter.needs_base == "merge"


@pytest.mark.parametrize(
    ("layout", "old", "new"),
    [("phi-l2", "transformer.h.", "h."), ("phi-l4", "model.layers.", "layers.")],
)
def test_headless_saves(make, layout, old, new):
    tensors, dense = make.phi_source(layout)
    tensors = {k.replace(old, new): v for k, v in tensors.items()}
    config = make.lora_config(task_type="FEATURE_EXTRACTION")
    reading = make.read(tensors, config, base_config=make.phi_config())
    assert reading.inspection.architecture.layout == layout
    for module in reading.adapter.modules:
        np.testing.assert_array_equal(
            to_numpy_f64(module.b) @ to_numpy_f64(module.a), dense[module.path]
        )


def mlp_only(make, first, count, tail="layers.{}.mlp.{}"):
    tensors = {}
    for layer in range(first, first + count):
        for name, out, into in (("fc1", 32, 16), ("fc2", 16, 32)):
            key = "base_model.model." + tail.format(layer, name)
            tensors[f"{key}.lora_A.weight"] = np.ones((2, into), np.float32)
            tensors[f"{key}.lora_B.weight"] = np.ones((out, 2), np.float32)
    return tensors


@pytest.mark.parametrize(
    ("first", "count", "more", "layout", "lowest"),
    [
        (1, 3, {"task_type": None}, "phi-l1", 0),  # the last index is the number of layers
        (0, 3, {"task_type": None}, "phi-l4", 0),  # an index of 0
        (1, 1, {"task_type": "CAUSAL_LM"}, "phi-l1", 0),  # not headless
        (1, 1, {"task_type": "FEATURE_EXTRACTION"}, "phi-l4", 1),
        (1, 1, {"task_type": None, "auto_mapping": {"base_model_class": "MixFormerSequentialForCausalLM"}}, "phi-l1", 0),
    ],
)  # fmt: skip
def test_the_ambiguous_case_decided(make, *, first, count, more, layout, lowest):
    config = make.lora_config(target_modules=["fc1", "fc2"], **more)
    reading = make.read(mlp_only(make, first, count), config, base_config=make.phi_config())
    assert reading.inspection.architecture.layout == layout, make.codes(reading)
    assert reading.inspection.layers[0] == lowest


def test_the_ambiguous_case_is_asked(make):
    config = make.lora_config(target_modules=["fc1", "fc2"], task_type=None)
    tensors = mlp_only(make, 1, 2)
    reading = make.read(tensors, config, base_config=make.phi_config())
    assert make.codes(reading) == ["ambiguous_layout", "unused_target"]
    assert reading.inspection.verdict == "INCONCLUSIVE"
    error = refusal(reading)
    assert error.exit_status == 2
    assert "--source-layout" in error.hint
    for layout, first in (("phi-l1", 0), ("phi-l4", 1)):
        answered = make.read(tensors, config, base_config=make.phi_config(), source_layout=layout)
        assert answered.adapter is not None
        assert answered.inspection.layers == (first, first + 1)


def test_interleaved_rows_need_the_number_of_heads(make):
    tensors, _ = make.phi_source("phi-l3")
    config = make.lora_config(base_model_name_or_path="me/my-phi")
    reading = make.read(tensors, config)
    assert "ambiguous_layout" in make.codes(reading)
    assert "--base" in refusal(reading).hint


def test_a_first_block_at_index_0_is_not_the_oldest_layout(make):
    tensors, _ = make.phi_source("phi-l1")
    tensors = {k.replace("layers.1.", "layers.0."): v for k, v in tensors.items()}
    reading = make.read(tensors, make.lora_config(), base_config=make.phi_config())
    assert reading.adapter is None
    assert "unknown_tensors" in make.codes(reading)


@pytest.mark.parametrize(
    ("layout", "names", "wanted"),
    [
        ("phi-l2", ["lm_head.linear", "lm_head.ln", "transformer.embd.wte"], ["lm_head", "model.final_layernorm", "model.embed_tokens"]),
        ("phi-l1", ["layers.4.linear", "layers.4.ln", "layers.0.wte"], ["lm_head", "model.final_layernorm", "model.embed_tokens"]),
    ],
)  # fmt: skip
def test_heads_norms_and_embeddings_of_old_layouts(make, layout, names, wanted):
    tensors, _ = make.phi_source(layout)
    shapes = [(64, 16), (16,), (64, 16)]
    for name, shape in zip(names, shapes, strict=True):
        tensors[f"base_model.model.{name}.weight"] = np.ones(shape, np.float32)
    config = make.lora_config(modules_to_save=["linear", "ln", "wte"])
    reading = make.read(tensors, config, base_config=make.phi_config())
    assert reading.adapter is not None, make.codes(reading)
    assert [r.parameter for r in reading.adapter.replacements] == sorted(
        f"{path}.weight" for path in wanted
    )
    assert "replaces_base_weights" in make.codes(reading)


def test_targets_of_the_configuration_are_rewritten(make):
    tensors, _ = make.phi_source("phi-l2")
    config = make.lora_config(
        target_modules=["Wqkv", "out_proj", "fc1", "fc2"], revision="refs/pr/23"
    )
    adapter = make.read(tensors, config, base_config=make.phi_config()).adapter
    assert adapter.extra["target_modules"] == ["dense", "fc1", "fc2", "k_proj", "q_proj", "v_proj"]
    assert adapter.base_revision == ""


def test_a_known_base_needs_only_its_name(make):
    tensors, dense = make.phi_source("phi-l3", width=2560, heads=32, layers=1, rank=2, only=[0])
    config = make.lora_config(base_model_name_or_path="")
    reading = make.read(tensors, config, base_name="microsoft/phi-2")
    assert reading.inspection.base_model.compatible is True
    for module in reading.adapter.modules:
        np.testing.assert_array_equal(
            to_numpy_f64(module.b) @ to_numpy_f64(module.a), dense[module.path]
        )
    other = make.read(tensors, config, base_name="microsoft/phi-1_5")
    assert "wrong_base" in make.codes(other)


def test_a_headless_task_is_not_kept(make):
    tensors, _ = make.phi_source("phi-l4")
    tensors = {k.replace("model.layers.", "layers."): v for k, v in tensors.items()}
    config = make.lora_config(task_type="FEATURE_EXTRACTION")
    adapter = make.read(tensors, config, base_config=make.phi_config()).adapter
    assert adapter.task_type == "CAUSAL_LM"
    assert adapter.modules[0].path.startswith("model.layers.")
