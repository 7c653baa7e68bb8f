"""MLX-LM's own loader, on its sample and on what we write: the logits are PEFT's."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from adaptrix.samples import BASE_DIR
from adaptrix.schema.errors import Refused

mx = pytest.importorskip("mlx.core", reason="make test-engines installs it")
utils = pytest.importorskip("mlx_lm.utils", reason="make test-engines installs it")
lora = pytest.importorskip("mlx_lm.tuner.lora")
dora = pytest.importorskip("mlx_lm.tuner.dora")
mlx_nn = pytest.importorskip("mlx.nn")
mlx_utils = pytest.importorskip("mlx.utils")
conftest = sys.modules.get("tests.conftest") or sys.modules["conftest"]
reference = conftest.load_helper("engine_reference", Path(__file__).parent / "reference.py")


def mlx_logits(folder: Path) -> np.ndarray:
    model, _ = utils.load(str(BASE_DIR), adapter_path=str(folder))
    model.apply(lambda array: array.astype(mx.float32))
    return np.array(model(mx.array([reference.IDS])))[0]


def test_mlx_lm_reads_its_sample(agree, tmp_path):
    wanted = reference.peft_logits("code", tmp_path)
    agree(mlx_logits(reference.ADAPTERS / "code"), wanted, reference.base_logits())


@pytest.mark.parametrize("task", ["math", "instruct", "code", "qa"])
def test_mlx_lm_reads_what_we_write(agree, task, tmp_path):
    wanted = reference.peft_logits(task, tmp_path)
    folder = reference.convert(task, "mlx", tmp_path / "mlx")
    agree(mlx_logits(folder), wanted, reference.base_logits())


@pytest.mark.parametrize("case", reference.MADE)
def test_mlx_lm_reads_parts_of_a_model(agree, case, tmp_path):
    source = reference.made(case, tmp_path)
    wanted = reference.peft_logits(source, tmp_path)
    folder = reference.convert(source, "mlx", tmp_path / "mlx")
    agree(mlx_logits(folder), wanted, reference.base_logits())


def lora_layers(model, names, parameters):
    """Linear layers of these names as LoRA layers, as MLX-LM's loaders make them."""
    settings = {"r": parameters["rank"], "scale": parameters["scale"], "dropout": 0.0}
    made = [
        (name, lora.LoRALinear.from_base(module, **settings))
        for name, module in model.named_modules()
        if name in names
    ]
    assert len(made) == len(names)
    model.update_modules(mlx_utils.tree_unflatten(made))
    return model


@pytest.mark.parametrize("task", ["math", "instruct", "code", "qa"])
def test_mlx_loads_npz_as_mlx_lm_did(agree, task, tmp_path):
    """The old loader adapted what the file names; its scale is what the settings say."""
    wanted = reference.peft_logits(task, tmp_path)
    folder = reference.convert(task, "mlx-npz", tmp_path / "npz")
    weights = mx.load(str(folder / "adapters.npz"))
    parameters = json.loads((folder / "adapter_config.json").read_text())["lora_parameters"]
    model, _ = utils.load(str(BASE_DIR))
    lora_layers(model, {name.rpartition(".")[0] for name in weights}, parameters)
    model.load_weights(str(folder / "adapters.npz"), strict=False)
    model.apply(lambda array: array.astype(mx.float32))
    got = np.array(model(mx.array([reference.IDS])))[0]
    agree(got, wanted, reference.base_logits())


@pytest.mark.parametrize("case", ["math", "middle layers", "head", "dora"])
def test_mlx_vlms_schema_is_read_as_its_loader_does(agree, case, tmp_path):
    """``_apply_lora_layers``: every key is a whole path from the model, scale and rank are one."""
    source = case if case == "math" else reference.made(case, tmp_path)
    wanted = reference.peft_logits(source, tmp_path)
    folder = reference.convert(source, "mlx-vlm", tmp_path / "vlm")
    said = json.loads((folder / "adapter_config.json").read_text())
    whole = mlx_nn.Module()
    whole.language_model, _ = utils.load(str(BASE_DIR))
    parameters = said["lora_parameters"]
    layer = dora.DoRALinear if said["fine_tune_type"] == "dora" else lora.LoRALinear
    for key in parameters["keys"]:
        *parents, last = key.split(".")
        place = whole
        for part in parents:
            place = place[int(part)] if part.isdigit() else getattr(place, part)
        settings = {"r": parameters["rank"], "scale": parameters["scale"], "dropout": 0.0}
        setattr(place, last, layer.from_base(getattr(place, last), **settings))
    whole.load_weights(str(folder / "adapters.safetensors"), strict=False)
    whole.apply(lambda array: array.astype(mx.float32))
    got = np.array(whole.language_model(mx.array([reference.IDS])))[0]
    agree(got, wanted, reference.base_logits())


def test_several_ranks_are_refused_not_lost(tmp_path):
    with pytest.raises(Refused, match="one rank"):
        reference.convert("news", "mlx", tmp_path / "mlx")
