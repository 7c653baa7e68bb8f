"""MLX-LM's own loader, on its sample and on what we write: the logits are PEFT's."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model

from adaptrix import Registry
from adaptrix.samples import BASE_DIR
from adaptrix.schema.errors import Refused

mx = pytest.importorskip("mlx.core", reason="make test-engines installs it")
utils = pytest.importorskip("mlx_lm.utils", reason="make test-engines installs it")
lora = pytest.importorskip("mlx_lm.tuner.lora")
dora = pytest.importorskip("mlx_lm.tuner.dora")
mlx_nn = pytest.importorskip("mlx.nn")
mlx_utils = pytest.importorskip("mlx.utils")
tuner = pytest.importorskip("mlx_lm.tuner.utils")
SIZES = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
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


NAMED_OTHERWISE = {
    "gpt2": ({"n_embd": 64, "n_layer": 2, "n_head": 4, "n_ctx": 64}, ["c_attn", "c_proj", "c_fc"]),
    "gpt_neox": (
        {**SIZES, "intermediate_size": 256, "hidden_act": "gelu_pytorch_tanh", "rotary_pct": 0.25, "rotary_emb_base": 10000},
        ["query_key_value", "dense", "dense_h_to_4h"],
    ),
    "gpt_bigcode": ({"n_embd": 64, "n_layer": 2, "n_head": 4, "n_inner": 96, "attention_bias": True,
                     "mlp_bias": True,
            "activation_function": "gelu"}, ["c_attn", "c_fc"]),
    "olmoe": ({**SIZES, "intermediate_size": 48, "num_experts": 4, "num_experts_per_tok": 2}, ["q_proj", "o_proj"]),
    "mixtral": ({**SIZES, "intermediate_size": 48, "num_local_experts": 4, "num_experts_per_tok": 2,
                 "num_key_value_heads": 2}, ["q_proj"]),
    "qwen3_moe": ({**SIZES, "intermediate_size": 96, "moe_intermediate_size": 48, "num_experts": 4, "num_experts_per_tok": 2,
                   "num_key_value_heads": 2, "head_dim": 16, "norm_topk_prob": True, "rope_theta": 10000.0}, ["v_proj"]),
}  # fmt: skip


@pytest.mark.parametrize("family", NAMED_OTHERWISE)
def test_mlx_lms_own_names(agree, family, tmp_path):
    """Classes whose modules have other names than in transformers, or begin otherwise."""
    sizes, targets = NAMED_OTHERWISE[family]
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(family, vocab_size=128, bos_token_id=0, eos_token_id=0, pad_token_id=0, **sizes)  # fmt: skip
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        # MLX-LM reads GPT-2's checkpoints as they were published, without a head's prefix.
        (model.transformer if family == "gpt2" else model).save_pretrained(tmp_path / "base")
        ids = torch.tensor([reference.IDS])
        plain = model(ids).logits[0].numpy()
        experts = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
        settings = LoraConfig(
            task_type="CAUSAL_LM", r=3, lora_alpha=6, target_modules=targets,
            fan_in_fan_out=family == "gpt2",
            target_parameters=experts if "num_experts_per_tok" in sizes else None,
        )  # fmt: skip
        tuned = get_peft_model(model, settings)
        for name, parameter in tuned.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.2)
        tuned.save_pretrained(tmp_path / "made")
        wanted = tuned.eval()(ids).logits[0].numpy()
    base = tmp_path / "base"
    stored = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**stored, **sizes}))
    with Registry(tmp_path / "home") as registry:
        out = tmp_path / "mlx"
        done = registry.convert(str(tmp_path / "made"), to="mlx", output=out, base=str(base))
    assert done.fidelity == "exact"
    loaded, _ = utils.load_model(base)
    without = np.array(loaded(mx.array([reference.IDS])))[0]
    agree(without, plain, None)
    got = np.array(tuner.load_adapters(loaded, str(out))(mx.array([reference.IDS])))[0]
    agree(got, wanted, without)


def test_several_ranks_are_refused_not_lost(tmp_path):
    with pytest.raises(Refused, match="one rank"):
        reference.convert("news", "mlx", tmp_path / "mlx")
