"""MLX-LM against its own formula: ``y + scale · (x @ lora_a) @ lora_b``."""

import numpy as np
import pytest

from adaptrix.convert.arrays import to_numpy_f64
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
    assert 0.6 <= known.confidence < 0.95
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


def test_dora_experts_and_whole_weights(make):
    magnitudes = {f"{path}.m": np.ones(16, np.float32) for path in source()[1]}
    tensors, _ = source(**magnitudes)
    dora = make.read(tensors, {**config(), "fine_tune_type": "dora"}, name=NAME)
    assert dora.adapter.method == "dora"
    assert dora.adapter.needs_base == "merge"
    lacking = make.read(source()[0], {**config(), "fine_tune_type": "dora"}, name=NAME)
    assert "unpaired_factor" in make.codes(lacking)
    experts = {"model.layers.0.mlp.switch_mlp.up_proj.lora_a": np.ones((2, 3, 16), np.float32),
               "model.layers.0.mlp.switch_mlp.up_proj.lora_b": np.ones((2, 16, 3), np.float32)}  # fmt: skip
    assert "unsupported_method" in make.codes(make.read(experts, config(), name=NAME))
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
