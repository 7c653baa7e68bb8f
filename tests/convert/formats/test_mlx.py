"""MLX-LM against its own formula: ``y + scale · (x @ lora_a) @ lora_b``."""

import numpy as np
import pytest

from adaptrix.convert.arrays import to_numpy_f64
from adaptrix.convert.contents import gather
from adaptrix.convert.formats import mlx
from adaptrix.convert.options import ReadOptions
from adaptrix.convert.writing import write_adapter

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
