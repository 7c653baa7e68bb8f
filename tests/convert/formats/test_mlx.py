"""MLX-LM against its own formula: ``y + scale · (x @ lora_a) @ lora_b``."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.numpy import load
from safetensors.torch import save as save_torch

from adaptrix.convert.arrays import take_columns, take_rows, to_numpy_f64
from adaptrix.convert.contents import gather
from adaptrix.convert.formats import mlx
from adaptrix.convert.options import ReadOptions
from adaptrix.convert.writing import tensors_digest, write_adapter
from adaptrix.schema.adapter import Scale
from adaptrix.schema.errors import Refused

NAME = "adapters.safetensors"


def source(rank=3, layers=(0, 1), dtype=np.float32, **extra):
    rng = np.random.default_rng(3)
    tensors, dense = {}, {}
    for layer in layers:
        for part, out in (("q_proj", 16), ("k_proj", 16), ("v_proj", 16)):
            path = f"model.layers.{layer}.self_attn.{part}"
            a = rng.standard_normal((16, rank)).astype(dtype)
            b = rng.standard_normal((rank, out)).astype(dtype)
            tensors |= {f"{path}.lora_a": a, f"{path}.lora_b": b}
            dense[path] = (a.astype(np.float64) @ b.astype(np.float64)).T
    return {**tensors, **extra}, dense


def config(**parameters):
    lora = {"rank": 3, "scale": 20.0, "dropout": 0.0, **parameters}
    return {"fine_tune_type": "lora", "num_layers": -1, "lora_parameters": lora, "model": "me/phi"}


def test_factors_are_transposed_and_the_scale_is_absolute(make):
    tensors, dense = source()
    reading = make.read(tensors, config(), name=NAME)
    assert reading.inspection.verdict == "PASS", reading.inspection.problems
    assert reading.inspection.format.name == "mlx"
    for module in reading.adapter.modules:
        assert module.scale.value == 20.0
        assert module.a.shape == (3, 16)
        np.testing.assert_allclose(make.delta_of(module), 20.0 * dense[module.path], rtol=1e-13)


def test_a_small_phi_is_named_from_three_modules_with_an_honest_probability(make):
    tensors, _ = source()
    known = make.read(tensors, config(), name=NAME).inspection.architecture
    assert known.family == "phi"
    assert 0.6 <= known.confidence < 0.99
    unnamed = make.read(tensors, {**config(), "model": "me/x"}, name=NAME).inspection
    assert unnamed.architecture.family == "unknown"
    assert unnamed.verdict == "INCONCLUSIVE"
    assert "phi" in {c.family for c in unnamed.architecture.candidates}
    given = make.read(tensors, config(), name=NAME, base_config=make.phi_config())
    assert given.inspection.architecture.confidence > 0.99


@pytest.mark.parametrize(
    ("settings", "code"),
    [
        ({"scale": None}, "missing_alpha"),
        ({"scale": "20"}, "invalid_config"),
        ({"scale": float("nan")}, "invalid_config"),
        ({"rank": 4}, "rank_mismatch"),
        ({"rank": 0}, "invalid_rank"),
    ],
)
def test_what_the_configuration_must_say(make, settings, code):
    tensors, _ = source()
    reading = make.read(tensors, config(**settings), name=NAME)
    assert code in make.codes(reading)
    assert reading.adapter is None


def test_old_npz_files_ask_for_alpha(make, tmp_path):
    tensors, _ = source()
    np.savez(tmp_path / "adapters.npz", **tensors)
    data = (tmp_path / "adapters.npz").read_bytes()
    reading = make.read(data, name="adapters.npz")
    assert "missing_alpha" in make.codes(reading)
    answered = make.read(data, name="adapters.npz", alpha=60.0)
    assert {m.scale.value for m in answered.adapter.modules} == {20.0}


@pytest.mark.parametrize(
    ("more", "scale", "doubted"),
    [
        ({}, 10.0, True),  # from April to September 2024 alpha was written, and applied until June
        ({"lora_layers": 16, "use_dora": False}, 10.0, True),
        ({"num_layers": 16}, 10.0, False),
        ({"fine_tune_type": "lora"}, 10.0, False),
    ],
)
def test_alpha_beside_the_scale_was_applied_before_june_2024(make, more, scale, doubted):
    tensors, _ = source()
    parameters = {"rank": 3, "alpha": 6, "dropout": 0.0, "scale": 10.0}
    said = {"lora_parameters": parameters, "model": "me/phi", **more}
    reading = make.read(tensors, said, name=NAME)
    assert {m.scale.value for m in reading.adapter.modules} == {scale}
    rules = [p for p in reading.inspection.problems if p.code == "alpha_rule"]
    assert [("20" in p.message, "--alpha 60" in p.hint) for p in rules] == [(True, True)] * doubted
    answered = make.read(tensors, said, name=NAME, alpha=60)
    wanted = 20.0 if doubted else scale
    assert {m.scale.value for m in answered.adapter.modules} == {wanted}


def test_dora_and_whole_weights(make):
    magnitudes = {f"{path}.m": np.ones(16, np.float32) for path in source()[1]}
    tensors, _ = source(**magnitudes)
    dora = make.read(tensors, {**config(), "fine_tune_type": "dora"}, name=NAME)
    assert dora.adapter.method == "dora"
    assert dora.adapter.needs_base == "merge"
    lacking = make.read(source()[0], {**config(), "fine_tune_type": "dora"}, name=NAME)
    assert "unpaired_factor" in make.codes(lacking)
    whole = {"model.layers.0.mlp.up_proj.weight": np.ones((4, 4), np.float32)}
    full = make.read(whole, {**config(), "fine_tune_type": "full"}, name=NAME)
    assert make.codes(full) == ["full_checkpoint"]
    extra, _ = source(**{"model.norm.weight": np.ones(16, np.float32)})
    assert "unknown_tensors" in make.codes(make.read(extra, config(), name=NAME))


def test_the_last_layers_only(make):
    tensors, _ = source(layers=(6, 7))
    reading = make.read(tensors, config(), name=NAME)
    assert reading.inspection.layers == (6, 7)
    assert "target_modules" not in reading.adapter.extra
    whole, _ = source()
    assert make.read(whole, config(), name=NAME).adapter.extra["target_modules"] == [
        "k_proj", "q_proj", "v_proj",
    ]  # fmt: skip


def test_written_files_are_mlx_lms(make):
    tensors, dense = source()
    adapter = make.read(tensors, config(), name=NAME).adapter
    written = write_adapter(adapter, "mlx")
    stored = {f.path: b"".join(bytes(c) for c in f.chunks()) for f in written.files}
    again = make.read(stored["adapters.safetensors"], stored["adapter_config.json"], name=NAME)
    for module in again.adapter.modules:
        np.testing.assert_allclose(make.delta_of(module), 20.0 * dense[module.path], rtol=1e-13)
        assert to_numpy_f64(module.a).shape == (3, 16)


def written_npz(make, tensors, said, **options):
    adapter = make.read(tensors, said, name=NAME, **options).adapter
    written = write_adapter(adapter, "mlx-npz")
    return written, {f.path: b"".join(bytes(c) for c in f.chunks()) for f in written.files}


def test_npz_is_numpys_and_the_same_bytes_each_time(make):
    tensors, _ = source()
    written, stored = written_npz(make, tensors, config())
    assert (written.fidelity, written.problems) == ("exact", ())
    assert stored == written_npz(make, tensors, config())[1]
    assert {f.path: f.size_bytes for f in written.files} == {k: len(v) for k, v in stored.items()}
    arrays = np.load(io.BytesIO(stored["adapters.npz"]), allow_pickle=False)
    assert sorted(arrays.files) == sorted(tensors)
    for name, expected in tensors.items():
        assert arrays[name].dtype == expected.dtype
        np.testing.assert_array_equal(arrays[name], expected)
    said = json.loads(stored["adapter_config.json"])
    assert said["lora_layers"] == 2
    assert said["lora_parameters"] == {
        "rank": 3, "alpha": 3, "scale": 20.0, "dropout": 0.0,
        "keys": ["self_attn.k_proj", "self_attn.q_proj", "self_attn.v_proj"],
    }  # fmt: skip
    again = make.read(stored["adapters.npz"], stored["adapter_config.json"], name="adapters.npz")
    assert tensors_digest(again.adapter) == tensors_digest(make.read(tensors, config()).adapter)
    assert {m.scale.value for m in again.adapter.modules} == {20.0}


def test_npz_has_no_bfloat16_and_says_what_it_has_instead(make):
    rng = np.random.default_rng(0)
    path = "model.layers.0.self_attn.q_proj"
    made = {f"{path}.lora_a": torch.tensor(rng.standard_normal((16, 2))).bfloat16(),
            f"{path}.lora_b": torch.tensor(rng.standard_normal((2, 16))).bfloat16()}  # fmt: skip
    said = config(rank=2, scale=4.0)
    written, stored = written_npz(make, save_torch(made), said)
    codes = {p.code: p for p in written.problems}
    assert "2 bfloat16 tensors are float32" in codes["wide_dtype"].message
    assert "the scale 4; without one MLX-LM applies 20" in codes["reader_settings"].message
    arrays = np.load(io.BytesIO(stored["adapters.npz"]), allow_pickle=False)
    for name, tensor in made.items():
        assert arrays[name].dtype == np.float32
        np.testing.assert_array_equal(arrays[name], tensor.float().numpy())


def test_npz_refuses_by_name_what_mlx_lm_did_not_have(make):
    tensors, _ = source(**{f"{path}.m": np.ones(16, "f4") for path in source()[1]})
    with pytest.raises(Refused, match=r"DoRA .* model\.layers\.0\.self_attn\.k_proj"):
        written_npz(make, tensors, {**config(), "fine_tune_type": "dora"})
    head = {"lm_head.lora_a": np.ones((16, 3), "f4"), "lm_head.lora_b": np.ones((3, 64), "f4")}
    with pytest.raises(Refused, match=r"outside of the layers .*lm_head"):
        written_npz(make, source(**head)[0], config(), base_config=make.phi_config())
    for change, other in ((1.5, 3), (1.0, 2)):
        adapter = make.read(source()[0], config(), name=NAME).adapter
        last = adapter.modules[-1]
        odd = replace(
            last, scale=Scale.absolute(20.0 * change, other),
            a=take_rows(last.a, slice(other)), b=take_columns(last.b, slice(other)),
        )  # fmt: skip
        for target in ("mlx", "mlx-npz", "mlx-vlm"):
            with pytest.raises(
                Refused, match=r"one scale and one rank.*layers\.1\.self_attn\.v_proj"
            ):
                write_adapter(replace(adapter, modules=(*adapter.modules[:-1], odd)), target)


def test_npz_counts_layers_from_the_last_one_of_a_known_base(make):
    tensors, _ = source(layers=(6, 7))
    written, stored = written_npz(make, tensors, {**config(), "model": "me/x"})
    assert json.loads(stored["adapter_config.json"])["lora_layers"] == 8
    assert [p.code for p in written.problems] == ["reader_settings"]
    written, stored = written_npz(make, tensors, {**config(), "model": "microsoft/phi-2"})
    assert json.loads(stored["adapter_config.json"])["lora_layers"] == 26
    assert not written.problems


LLAVA = {"model_type": "llava", "vision_config": {"model_type": "clip_vision_model"},
         "text_config": {"model_type": "llama", "hidden_size": 16, "intermediate_size": 32,
                         "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 64}}  # fmt: skip


@pytest.mark.parametrize("dora", [False, True])
def test_mlx_vlm_has_language_models_below_one_name(make, dora):
    tensors, dense = source(**{f"{p}.m": np.ones(16, "f4") for p in source()[1]} if dora else {})
    said = {**config(), **({"fine_tune_type": "dora"} if dora else {})}
    for base, mine in ((make.phi_config(), "model."), (LLAVA, "model.language_model.")):
        named = {k.replace("model.", mine, 1): v for k, v in tensors.items()}
        adapter = make.read(named, said, name=NAME, base_config=base).adapter
        written = write_adapter(adapter, "mlx-vlm")
        stored = {f.path: b"".join(bytes(c) for c in f.chunks()) for f in written.files}
        keys = json.loads(stored["adapter_config.json"])["lora_parameters"]["keys"]
        assert keys == sorted(f"language_model.{path}" for path in dense)
        assert load(stored[NAME]).keys() == {f"language_model.{name}" for name in tensors}
        again = make.read(stored[NAME], stored["adapter_config.json"], name=NAME, base_config=base)
        assert again.inspection.format.name == "mlx-vlm"
        assert tensors_digest(again.adapter) == tensors_digest(adapter)
        assert [m.scale for m in again.adapter.modules] == [m.scale for m in adapter.modules]


def test_mlx_vlms_towers_are_refused_by_name(make):
    path = "model.vision_tower.vision_model.encoder.layers.0.self_attn.q_proj"
    made = {f"{path}.lora_a": np.ones((1024, 3), "f4"), f"{path}.lora_b": np.ones((3, 1024), "f4")}
    adapter = make.read(made, config(), name=NAME).adapter
    with pytest.raises(Refused, match="vision_tower"):
        write_adapter(adapter, "mlx-vlm")


def test_mlx_vlms_alpha_has_two_meanings_and_is_asked_for(make):
    rng = np.random.default_rng(3)
    name = "language_model.model.layers.0.self_attn.q_proj"
    tensors = {f"{name}.A": rng.standard_normal((16, 4)).astype("f4"),
               f"{name}.B": rng.standard_normal((4, 8)).astype("f4")}  # fmt: skip
    config = {"rank": 4, "alpha": 16, "dropout": 0.0}
    asked = make.read(tensors, config)
    (problem,) = [p for p in asked.inspection.problems if p.code == "missing_alpha"]
    assert "--alpha 64" in problem.hint
    assert "--alpha 16" in problem.hint
    dense = tensors[f"{name}.B"].astype("f8").T @ tensors[f"{name}.A"].astype("f8").T
    for alpha, scale in ((64.0, 16.0), (16.0, 4.0)):
        (module,) = make.read(tensors, config, alpha=alpha).adapter.modules
        np.testing.assert_allclose(make.delta_of(module), scale * dense, rtol=1e-12)
    wrong = make.read(tensors, {**config, "rank": 8}, alpha=16)
    assert "rank_mismatch" in make.codes(wrong)
    one = {name: t[:, :1] if name.endswith("A") else t[:1] for name, t in tensors.items()}
    (module,) = make.read(one, {"rank": 1, "alpha": 3}).adapter.modules
    assert module.scale.value == 3  # at rank 1 both rules say the same


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("family", ["qwen2_moe", "mixtral"])
def test_experts_become_one_pair_each(make, family, flat):
    rng = np.random.default_rng(4)
    experts, rank, into, out = 3, 2, 16, 24
    a = rng.standard_normal((experts, rank, into)).astype("f4")
    b = rng.standard_normal((experts, out, rank)).astype("f4")
    block = {"qwen2_moe": "mlp", "mixtral": "block_sparse_moe"}[family]
    stack = f"model.layers.0.{block}.switch_mlp.up_proj"
    stored = {f"{stack}.lora_a": a.reshape(-1, into) if flat else a, f"{stack}.lora_b": b}
    config = {"lora_parameters": {"rank": rank, "scale": 2.5}, "fine_tune_type": "lora"}
    draft = mlx.read(make_contents(make, stored, config), ReadOptions())
    part = {"qwen2_moe": "up_proj", "mixtral": "w3"}[family]
    found = {f.path: f for f in draft.factors}
    assert list(found) == [f"model.layers.0.{block}.experts.{n}.{part}" for n in range(experts)]
    for number, pair in enumerate(found.values()):
        delta = pair.scale.value * to_numpy_f64(pair.b) @ to_numpy_f64(pair.a)
        np.testing.assert_allclose(delta, 2.5 * b[number].astype("f8") @ a[number].astype("f8"))
    assert not draft.problems
    assert not draft.unknown


def test_experts_that_are_no_pairs_are_refused(make):
    stack = "model.layers.0.mlp.switch_mlp.up_proj"
    stored = {f"{stack}.lora_a": np.ones((3, 2, 16), "f4"), f"{stack}.lora_b": np.ones((4, 24, 2), "f4")}  # fmt: skip
    reading = make.read(stored, {"lora_parameters": {"rank": 2, "scale": 1.0}})
    assert "shape_mismatch" in make.codes(reading)


def make_contents(make, tensors, config):
    return gather(make.files_of(tensors, config))
