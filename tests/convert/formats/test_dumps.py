"""Wrappers, dumps of whole models and shards, as training frameworks leave them."""

import json

import numpy as np
import pytest
import torch
from safetensors.numpy import save

from adaptrix.convert.arrays import to_numpy_f64
from adaptrix.convert.keys import parse_key, strip_wrappers
from adaptrix.convert.reading import ReadOptions, read_adapter
from adaptrix.convert.source import AdapterFiles, MemorySource, open_path

PATHS = [f"model.layers.{i}.self_attn.{p}" for i in range(2) for p in ("q_proj", "v_proj")]


def factors(root="base_model.model.", adapter=".default", seed=0):
    rng = np.random.default_rng(seed)
    return {
        f"{root}{path}.lora_{side}{adapter}.weight": rng.standard_normal(
            (2, 8) if side == "A" else (8, 2)
        ).astype("f4")
        for path in PATHS
        for side in "AB"
    }


def config(**more):
    return json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 3, **more}).encode()


def read(files, **options):
    found = {n: MemorySource(n, content) for n, content in files.items()}
    return read_adapter(AdapterFiles(location="mem", files=found), ReadOptions(**options))


def dense(tensors, path, root="base_model.model.", adapter=".default"):
    a, b = (tensors[f"{root}{path}.lora_{s}{adapter}.weight"].astype("f8") for s in "AB")
    return 1.5 * (b @ a)


def check(reading, tensors, **names):
    assert reading.adapter is not None, reading.inspection.problems
    assert [m.path for m in reading.adapter.modules] == PATHS
    for module in reading.adapter.modules:
        got = module.scale.value * (to_numpy_f64(module.b) @ to_numpy_f64(module.a))
        np.testing.assert_allclose(got, dense(tensors, module.path, **names), rtol=1e-12)


@pytest.mark.parametrize(
    "root",
    ["module.base_model.model.", "state_dict.base_model.model.", "_orig_mod.base_model.model.",
     "model.base_model.model.", "app.model.base_model.model.", "base_model.model.base_model.model.",
     "_fsdp_wrapped_module.base_model.model.", "_forward_module.base_model.model.",
     "pretrained_model.base_model.model.", "module._orig_mod.base_model.model.",
     "encoder.base_model.model.", "state_dict.net.llm.base_model.model.", ""],
)  # fmt: skip
def test_wrappers_of_frameworks_come_off(root):
    tensors = factors(root)
    files = {"adapter_model.safetensors": save(tensors), "adapter_config.json": config()}
    check(read(files), tensors, root=root)


def test_adapters_of_two_models_in_one_dump_are_told_apart():
    tensors = factors("encoder.base_model.model.") | factors("llm.base_model.model.")
    files = {"adapter_model.safetensors": save(tensors), "adapter_config.json": config()}
    (problem,) = [p for p in read(files).inspection.problems if p.severity == "error"]
    assert problem.code == "multiple_adapters"
    assert "encoder" in problem.message
    assert "llm" in problem.message


def test_stripping_twice_is_stripping_once():
    for key in ("a.base_model.model.b.base_model.model.c.lora_A.weight", "base_model.model.x.base_model.model.y.lora_A.weight",
                "state_dict.module.base_model.model.model.layers.0.q.lora_A.weight",
                "base_model.model.model._orig_mod.layers.0._checkpoint_wrapped_module.q.weight"):  # fmt: skip
        assert strip_wrappers(strip_wrappers(key)) == strip_wrappers(key)
    key = "base_model.model.model._orig_mod.layers.0._fsdp_wrapped_module.q.lora_A.default.weight"
    assert parse_key(key).path == "model.layers.0.q"


def whole(tensors, infix=".base_layer"):
    found = dict(tensors)
    for path in PATHS:
        found[f"base_model.model.{path}{infix}.weight"] = np.ones((8, 8), "f4")
        found[f"base_model.model.{path}{infix}.weight.absmax"] = np.ones(4, "f4")
    found["base_model.model.model.embed_tokens.weight"] = np.ones((16, 8), "f4")
    found["base_model.model.model.layers.0.input_layernorm.weight"] = np.ones(8, "f4")
    found["base_model.model.model.rotary_emb.inv_freq"] = np.ones(4, "f4")
    return found


@pytest.mark.parametrize("infix", [".base_layer", ""])
def test_a_dump_of_the_whole_model_is_filtered(infix):
    tensors = factors()
    everything = whole(tensors, infix)
    files = {"pytorch_model.safetensors": save(everything), "adapter_config.json": config()}
    reading = read(files)
    check(reading, tensors)
    account = reading.inspection.tensors
    assert account.total == len(everything)
    assert (account.used, len(account.unknown)) == (8, 0)
    assert "whole_model" in [p.code for p in reading.inspection.problems]
    assert not reading.adapter.replacements


def test_a_dump_keeps_what_was_declared_as_trained():
    everything = whole(factors())
    everything["base_model.model.lm_head.modules_to_save.default.weight"] = np.full(
        (16, 8), 2, "f4"
    )
    everything["base_model.model.lm_head.original_module.weight"] = np.ones((16, 8), "f4")
    files = {"pytorch_model.safetensors": save(everything),
             "adapter_config.json": config(modules_to_save=["lm_head"])}  # fmt: skip
    (kept,) = read(files).adapter.replacements
    assert kept.parameter == "lm_head.weight"
    assert to_numpy_f64(kept.tensor)[0, 0] == 2


def test_base_weights_beside_only_some_modules_are_still_refused():
    tensors = factors()
    tensors[f"base_model.model.{PATHS[0]}.base_layer.weight"] = np.ones((8, 8), "f4")
    files = {"adapter_model.safetensors": save(tensors), "adapter_config.json": config()}
    assert "base_weights_inside" in [p.code for p in read(files).inspection.problems]


def test_a_value_head_is_left_out_with_its_reason():
    tensors = factors() | {"v_head.summary.weight": np.ones((1, 8), "f4")}
    files = {"adapter_model.safetensors": save(tensors), "adapter_config.json": config()}
    reading = read(files)
    check(reading, tensors)
    (ignored,) = reading.inspection.tensors.ignored
    assert "value head" in ignored.reason


def test_shards_by_index_are_one_adapter_and_a_missing_one_is_named():
    tensors = factors()
    names = list(tensors)
    first, second = ({n: tensors[n] for n in names[:4]}, {n: tensors[n] for n in names[4:]})
    index = {
        "weight_map": {n: "one.safetensors" if n in first else "two.safetensors" for n in names}
    }
    files = {"one.safetensors": save(first), "two.safetensors": save(second),
             "adapter_model.safetensors.index.json": json.dumps(index).encode(),
             "adapter_config.json": config()}  # fmt: skip
    check(read(files), tensors)
    del files["two.safetensors"]
    (problem,) = [p for p in read(files).inspection.problems if p.severity == "error"]
    assert problem.code == "sharded_state"
    assert "two.safetensors" in problem.message


def test_shards_by_name_are_one_adapter_and_a_missing_one_is_named():
    tensors = factors()
    names = list(tensors)
    files = {"adapter_model-00001-of-00002.safetensors": save({n: tensors[n] for n in names[:4]}),
             "adapter_model-00002-of-00002.safetensors": save({n: tensors[n] for n in names[4:]}),
             "adapter_config.json": config()}  # fmt: skip
    check(read(files), tensors)
    del files["adapter_model-00002-of-00002.safetensors"]
    (problem,) = [p for p in read(files).inspection.problems if p.severity == "error"]
    assert "adapter_model-00002-of-00002" in problem.message


def test_the_state_of_a_run_in_the_same_pickle_is_left_out(tmp_path):
    """``torch.save({"model": …, "optimizer": …, "epoch": 3})``, as training loops do."""
    weight = torch.nn.Parameter(torch.randn(6, 2))
    optimizer = torch.optim.AdamW([weight])
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"
    model = {name.format("A"): torch.randn(2, 4), name.format("B"): weight.detach()}
    torch.save(
        {"model": model, "optimizer": optimizer.state_dict(), "epoch": 3},
        tmp_path / "adapter_model.bin",
    )
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    found = read_adapter(open_path(tmp_path))
    assert found.adapter is not None, found.inspection.problems
    (module,) = found.adapter.modules
    want = 2.0 * model[name.format("B")].double() @ model[name.format("A")].double()
    np.testing.assert_allclose(
        module.scale.value * to_numpy_f64(module.b) @ to_numpy_f64(module.a), want.numpy()
    )
    account = found.inspection.tensors
    assert account.total == account.used + len(account.ignored) + len(account.unknown)
    assert {entry.name.partition(".")[0] for entry in account.ignored} == {"optimizer"}
