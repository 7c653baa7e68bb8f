"""Writers: scales bit by bit, fusing as the inverse of splitting, digests of tensors."""

import hashlib
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load

from adaptrix.convert.arrays import from_array, to_numpy_f64
from adaptrix.convert.writers.scales import alphas_of
from adaptrix.convert.writing import TARGETS, tensors_digest, write_adapter
from adaptrix.schema.adapter import AdaptedModule, Adapter, ModuleKind, Scale
from adaptrix.schema.errors import Refused, UsageError
from adaptrix.schema.tensor import DType


def tensor(*shape, value=1.0):
    return from_array(np.full(shape, value, "<f4").view("<u4"), DType.F32, "t")


def module(path, scale, rank=2, width=4, **more):
    return AdaptedModule(
        path=path, kind=ModuleKind.LINEAR, source=path, a=tensor(rank, width),
        b=tensor(width, rank), scale=scale, **more,
    )  # fmt: skip


def adapter(*modules, **more):
    return Adapter(modules=modules, format="peft", layout="transformers", **more)


def config_of(written):
    return json.loads(b"".join(written.files[1].chunks()))


@given(st.floats(1e-3, 1e3), st.integers(1, 256), st.booleans())
def test_a_scale_survives_as_alpha(alpha, rank, rslora):
    scales = [Scale.from_alpha(alpha, rank, rslora=rslora), Scale.absolute(alpha, rank)]
    for scale in scales:
        found = alphas_of([module("q", scale, rank=rank)])
        got = found.values["q"] / (math.sqrt(rank) if found.rslora else rank)
        if found.max_error == 0.0:
            assert got == scale.value
        assert abs(got - scale.value) <= math.ulp(scale.value)


def test_mixed_rules_and_ranks_become_patterns_with_full_paths():
    modules = (
        module("m.0.q", Scale.from_alpha(16, 2, rslora=True)),
        module("m.0.v", Scale.from_alpha(16, 2)),
        module("m.1.v", Scale.from_alpha(16, 2)),
        module("m.1.q", Scale.absolute(20.0, 4), rank=4),
    )
    written = write_adapter(adapter(*modules), "peft")
    config = config_of(written)
    assert (config["r"], config["lora_alpha"]) == (2, 16)
    assert "use_rslora" not in config
    assert config["rank_pattern"] == {"m.1.q": 4}
    assert config["alpha_pattern"]["m.1.q"] == 80
    assert config["alpha_pattern"]["m.0.q"] / 2 == 16 / math.sqrt(2)
    assert written.fidelity == "exact"


def test_what_peft_cannot_say_is_refused():
    one = module("q", Scale.from_alpha(2, 2), magnitude=tensor(4))
    two = module("v", Scale.from_alpha(2, 2))
    with pytest.raises(Refused, match="magnitude"):
        write_adapter(adapter(one, two), "peft")
    with pytest.raises(Refused, match="without modules"):
        write_adapter(adapter(), "peft")
    with pytest.raises(UsageError, match="no writer"):
        write_adapter(adapter(two), "onnx")
    for target in ("kohya", "diffusers"):
        with pytest.raises(Refused, match="v is no module of a diffusion pipeline"):
            write_adapter(adapter(two), target)
    assert {"peft", "mlx", "gguf", "phi-l2"} <= set(TARGETS)


def test_the_same_adapter_gives_the_same_bytes():
    made = adapter(module("q", Scale.from_alpha(2, 2)))
    first, second = (
        [b"".join(bytes(c) for c in f.chunks()) for f in write_adapter(made, "peft").files]
        for _ in range(2)
    )
    assert first == second


def test_the_digest_is_of_names_types_shapes_and_bytes():
    made = adapter(module("q", Scale.from_alpha(2, 2), rank=1, width=2))
    ones = np.ones(2, "<f4").tobytes()
    text = b"q.lora_A.weight\0F32\x001,2\0" + ones + b"q.lora_B.weight\0F32\x002,1\0" + ones
    assert tensors_digest(made).hex == hashlib.sha256(text).hexdigest()


def test_the_digest_is_the_same_in_every_naming(make):
    digests = set()
    for prefix in ("base_model.model.", "", "module.", "base_model.model.base_model.model."):
        tensors, _ = make.phi_source("phi-l4", prefix=prefix)
        reading = make.read(tensors, make.lora_config(), base_config=make.phi_config())
        digests.add(tensors_digest(reading.adapter))
    wrapped = {k.replace("layers.", "_orig_mod.layers."): v for k, v in tensors.items()}
    named = {k.replace("lora_A.", "lora_A.default."): v for k, v in wrapped.items()}
    reading = make.read(named, make.lora_config(), base_config=make.phi_config())
    digests.add(tensors_digest(reading.adapter))
    assert len(digests) == 1


def test_splitting_and_fusing_gives_the_file_back(make):
    tensors, _ = make.phi_source("phi-l2")
    config = make.lora_config(target_modules=["Wqkv", "out_proj", "fc1", "fc2"])
    adapter = make.read(tensors, config, base_config=make.phi_config()).adapter
    written = write_adapter(adapter, "phi-l2")
    stored = b"".join(bytes(c) for c in written.files[0].chunks())
    again = make.read(stored, config_of(written), base_config=make.phi_config())
    assert again.inspection.architecture.layout == "phi-l2"
    assert tensors_digest(again.adapter) == tensors_digest(adapter)
    back = load(stored)
    assert back.keys() == tensors.keys()
    assert all((back[name] == tensors[name]).all() for name in tensors)
    assert config_of(written)["target_modules"] == ["Wqkv", "fc1", "fc2", "out_proj"]


@pytest.mark.parametrize("missing", ["", "k_proj"])
def test_unrelated_factors_are_fused_block_by_block(make, missing):
    tensors, dense = make.phi_source("phi-l4")
    tensors = {k: v for k, v in tensors.items() if not missing or missing not in k}
    adapter = make.read(tensors, make.lora_config(), base_config=make.phi_config()).adapter
    written = write_adapter(adapter, "phi-l2")
    stored = b"".join(bytes(c) for c in written.files[0].chunks())
    again = make.read(stored, config_of(written), base_config=make.phi_config()).adapter
    for found in again.modules:
        if missing and found.path.endswith(missing):
            assert not to_numpy_f64(found.b).any()
        else:
            np.testing.assert_allclose(make.delta_of(found), 1.5 * dense[found.path], rtol=1e-12)


def test_parts_with_different_scales_are_not_fused(make):
    tensors, _ = make.phi_source("phi-l4")
    config = make.lora_config(alpha_pattern={"q_proj": 7})
    adapter = make.read(tensors, config, base_config=make.phi_config()).adapter
    with pytest.raises(Refused, match="different scales"):
        write_adapter(adapter, "phi-l2")


def test_short_names_only_where_they_select_what_is_there(make):
    tensors, _ = make.phi_source("phi-l4")
    every = ["q_proj", "k_proj", "v_proj", "dense", "fc1", "fc2"]
    base = make.phi_config()
    whole = make.read(tensors, make.lora_config(target_modules=every), base_config=base).adapter
    assert config_of(write_adapter(whole, "peft"))["target_modules"] == sorted(every)
    some = {k: v for k, v in tensors.items() if "layers.1.self_attn.k" not in k}
    part = make.read(some, make.lora_config(target_modules=every), base_config=base).adapter
    names = config_of(write_adapter(part, "peft"))["target_modules"]
    assert "model.layers.0.self_attn.k_proj" in names
    assert "model.layers.1.self_attn.k_proj" not in names
    regex = make.lora_config(target_modules=r".*\.(q_proj|fc1)")
    unknown = make.read(tensors, regex, base_config=base).adapter
    assert len(config_of(write_adapter(unknown, "peft"))["target_modules"]) == 18


def test_mlx_lm_is_told_every_place_that_the_file_fills():
    # MLX-LM counts layers from the last one, and has names outside the layers whole; what is
    # left over it refuses (``linear_to_lora_layers``, ``load_adapters``).
    scale = Scale.from_alpha(4, 2)
    whole = adapter(module("model.layers.1.self_attn.q_proj", scale), module("lm_head", scale))
    written = config_of(write_adapter(whole, "mlx"))
    assert written["num_layers"] == -1
    assert written["lora_parameters"]["keys"] == ["lm_head", "self_attn.q_proj"]
