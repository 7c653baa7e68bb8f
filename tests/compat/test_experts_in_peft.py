"""Experts of MoE models: PEFT's own conversion and forward against ours, number by number."""

import json

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora.layer import ParamWrapper
from safetensors.torch import load_file, save_file
from transformers import (
    GptOssConfig,
    GptOssForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    PhimoeConfig,
    PhimoeForCausalLM,
    Qwen2MoeConfig,
    Qwen2MoeForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from adaptrix.convert.reading import ReadOptions, read_adapter
from adaptrix.convert.source import open_path
from adaptrix.convert.writing import tensors_digest, write_adapter

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    # PEFT 0.21 looks for patterns among modules only, and uses them for parameters all the same.
    pytest.mark.filterwarnings("ignore:The following .*_pattern keys:RuntimeWarning"),
]
IDS = torch.arange(12).reshape(2, 6)
SIZES = {
    "vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "tie_word_embeddings": False,
}  # fmt: skip
EXPERTS = 4


def model(kind, seed=0):
    torch.manual_seed(seed)
    if kind == "mixtral":
        config = MixtralConfig(**SIZES, intermediate_size=24, num_local_experts=EXPERTS)
        return MixtralForCausalLM(config).eval()
    if kind == "phimoe":
        config = PhimoeConfig(**SIZES, intermediate_size=24, num_local_experts=EXPERTS)
        return PhimoeForCausalLM(config).eval()
    if kind == "gpt_oss":
        config = GptOssConfig(
            **SIZES, intermediate_size=24, num_local_experts=EXPERTS, head_dim=8,
            num_experts_per_tok=2,
        )  # fmt: skip
        return GptOssForCausalLM(config).eval()
    qwen3 = kind == "qwen3_moe"
    config = (Qwen3MoeConfig if qwen3 else Qwen2MoeConfig)(
        **SIZES, intermediate_size=40, moe_intermediate_size=24, num_experts=EXPERTS,
        num_experts_per_tok=2, **({"head_dim": 8} if qwen3 else {"shared_expert_intermediate_size": 40}),
    )  # fmt: skip
    return (Qwen3MoeForCausalLM if qwen3 else Qwen2MoeForCausalLM)(config).eval()


NAMES = {
    "mixtral": ("block_sparse_moe.experts", ("w1", "w3", "w2")),
    "phimoe": ("block_sparse_moe.experts", ("w1", "w3", "w2")),
    "qwen2_moe": ("mlp.experts", ("gate_proj", "up_proj", "down_proj")),
    "qwen3_moe": ("mlp.experts", ("gate_proj", "up_proj", "down_proj")),
}


def old_file(kind, folder, *, leaves=3, rslora=False, r=4, dropout=0.05):
    """Factors of every expert under the names of transformers 4, as PEFT saved them there."""
    torch.manual_seed(1)
    place, names = NAMES[kind]
    names = names[:leaves] if leaves > 0 else names[1:2]
    tensors = {}
    for layer in range(2):
        for expert in range(EXPERTS):
            for name in names:
                into, out = (24, 32) if name in ("w2", "down_proj") else (32, 24)
                key = f"base_model.model.model.layers.{layer}.{place}.{expert}.{name}"
                tensors[f"{key}.lora_A.weight"] = torch.randn(r, into)
                tensors[f"{key}.lora_B.weight"] = torch.randn(out, r) * 0.3
        key = f"base_model.model.model.layers.{layer}.self_attn.q_proj"
        tensors[f"{key}.lora_A.weight"] = torch.randn(r, 32)
        tensors[f"{key}.lora_B.weight"] = torch.randn(32, r)
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {
        "peft_type": "LORA", "r": r, "lora_alpha": 6, "target_modules": [*names, "q_proj"],
        "task_type": "CAUSAL_LM", "use_rslora": rslora, "lora_dropout": dropout,
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return tensors


def read(folder, kind="", **options):
    config = json.loads(model(kind).config.to_json_string()) if kind else None
    reading = read_adapter(open_path(folder), ReadOptions(base_config=config, **options))
    assert reading.adapter is not None, reading.inspection.problems
    return reading


def written(adapter, folder):
    result = write_adapter(adapter, "peft")
    folder.mkdir()
    for file in result.files:
        (folder / file.path).write_bytes(b"".join(bytes(chunk) for chunk in file.chunks()))
    return json.loads((folder / "adapter_config.json").read_text())


def deltas(peft_model):
    """ΔW of every wrapped parameter or module by the name of its weight."""
    found = {}
    for name, module in peft_model.base_model.model.named_modules():
        if isinstance(module, ParamWrapper):
            place = name.replace(".base_layer", "")
            found[f"{place}.{module.parameter_name}"] = module.get_delta_weight("default")
        elif hasattr(module, "get_delta_weight"):
            found[f"{name}.weight"] = module.get_delta_weight("default")
    return {name: value.detach().double() for name, value in found.items()}


def logits(peft_model):
    with torch.no_grad():
        return peft_model(IDS).logits


def load(kind, folder):
    loaded = PeftModel.from_pretrained(model(kind), folder).eval()
    assert all(float(value.norm()) > 0 for value in deltas(loaded).values())
    return loaded


@pytest.mark.parametrize("kind", ["mixtral", "qwen3_moe"])
def test_old_experts_are_what_peft_makes_of_them(kind, tmp_path):
    # With a dropout PEFT refuses to load what it converts; ours loses it when it writes.
    old_file(kind, tmp_path / "old", dropout=0.0)
    theirs = load(kind, tmp_path / "old")
    theirs.save_pretrained(tmp_path / "saved")
    reading = read(tmp_path / "old", kind)
    assert "renamed_modules" in [p.code for p in reading.inspection.problems]
    config = written(reading.adapter, tmp_path / "ours")
    assert config["lora_dropout"] == 0.0
    ours = load(kind, tmp_path / "ours")
    assert ours(IDS).logits.shape == theirs(IDS).logits.shape
    expected, got = deltas(theirs), deltas(ours)
    assert expected.keys() == got.keys()
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value, rtol=0, atol=1e-6)
    torch.testing.assert_close(logits(ours), logits(theirs), rtol=1e-5, atol=1e-5)
    # What PEFT saves of it is the same adapter, and so is what we wrote.
    digest = tensors_digest(reading.adapter)
    assert tensors_digest(read(tmp_path / "saved", kind).adapter) == digest
    assert tensors_digest(read(tmp_path / "ours", kind).adapter) == digest


@pytest.mark.parametrize("kind", ["mixtral", "phimoe", "qwen2_moe", "qwen3_moe"])
@pytest.mark.parametrize("leaves", [3, 1, -1], ids=["all", "gate alone", "up alone"])
@pytest.mark.parametrize("rslora", [False, True])
def test_every_expert_gets_its_own_update(kind, leaves, rslora, tmp_path):
    tensors = old_file(kind, tmp_path / "old", leaves=leaves, rslora=rslora)
    written(read(tmp_path / "old", kind).adapter, tmp_path / "new")
    got = deltas(load(kind, tmp_path / "new"))
    scale = 6 / 2 if rslora else 6 / 4
    for name, value in dense(kind, tensors, scale, leaves).items():
        np.testing.assert_allclose(got[name].numpy(), value, rtol=0, atol=2e-6)


def dense(kind, tensors, scale, leaves):
    """ΔW of today's stacked parameters in float64, from the old file alone."""
    place, (gate, up, down) = NAMES[kind]

    def delta(layer, expert, name):
        key = f"base_model.model.model.layers.{layer}.{place}.{expert}.{name}"
        if f"{key}.lora_A.weight" not in tensors:
            return np.zeros((24, 32))
        a, b = (tensors[f"{key}.lora_{side}.weight"].double().numpy() for side in "AB")
        return scale * b @ a

    found = {}
    for layer in range(2):
        new = f"model.layers.{layer}.mlp.experts"
        found[f"{new}.gate_up_proj"] = np.stack(
            [np.concatenate([delta(layer, e, gate), delta(layer, e, up)]) for e in range(EXPERTS)]
        )
        if leaves == 3:
            found[f"{new}.down_proj"] = np.stack([delta(layer, e, down) for e in range(EXPERTS)])
    return found


def trained(kind, parameters, **settings):
    torch.manual_seed(2)
    config = LoraConfig(
        r=3, lora_alpha=5, target_modules=["q_proj"], target_parameters=parameters, **settings
    )
    wrapped = get_peft_model(model(kind), config)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn_like(parameter) * 0.3)
    return wrapped.eval()


BOTH = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
PARAMETERS = {
    "both": BOTH, "reversed": BOTH[::-1], "up": BOTH[:1], "down": BOTH[1:],
    "router": [*BOTH, "mlp.gate.weight"],
}  # fmt: skip


@pytest.mark.parametrize("kind", ["mixtral", "qwen3_moe", "gpt_oss"])
@pytest.mark.parametrize("case", PARAMETERS)
def test_target_parameters_come_back(kind, case, tmp_path):
    names = [
        n.replace("gate.weight", "router.weight") if kind == "gpt_oss" else n
        for n in PARAMETERS[case]
    ]
    patterns = {"rank_pattern": {"experts.down_proj": 2}, "alpha_pattern": {"down_proj": 7}}
    peft = trained(kind, names, **(patterns if case == "both" else {}))
    peft.save_pretrained(tmp_path / "theirs")
    config = json.loads((tmp_path / "theirs" / "adapter_config.json").read_text())
    assert config["peft_version"] >= "0.19.1"
    reading = read(tmp_path / "theirs", kind)
    new = written(reading.adapter, tmp_path / "ours")
    ours = load(kind, tmp_path / "ours")
    expected, got = deltas(peft), deltas(ours)
    assert expected.keys() == got.keys()
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value, rtol=0, atol=1e-6)
    torch.testing.assert_close(logits(ours), logits(peft), rtol=1e-5, atol=1e-5)
    old, again = (load_file(tmp_path / f / "adapter_model.safetensors") for f in ("theirs", "ours"))
    assert old.keys() == again.keys()
    assert all(torch.equal(old[name], again[name]) for name in old)
    assert len(new["target_parameters"]) == len(expected) - 2


@pytest.mark.parametrize("version", ["0.17.1", "0.18.2", "0.19.0"])
@pytest.mark.parametrize("kind", ["qwen3_moe", "gpt_oss"])
@pytest.mark.parametrize("told", [True, False], ids=["version in the file", "no version"])
def test_older_orientations_are_turned(version, kind, told, tmp_path):
    peft = trained(kind, BOTH)
    peft.save_pretrained(tmp_path / "new")
    expected = tensors_digest(read(tmp_path / "new", kind).adapter)
    # gpt-oss says is_transposed: 0.17 read its first side as 0.19.1 does, 0.19.0 did not.
    turned = version == "0.19.0" or kind != "gpt_oss"
    tensors = load_file(tmp_path / "new" / "adapter_model.safetensors")
    if turned:
        tensors = {**tensors, **turned_experts(tensors)}
    config = json.loads((tmp_path / "new" / "adapter_config.json").read_text())
    config["peft_version"] = version if told else None
    old = tmp_path / "old"
    old.mkdir()
    save_file(tensors, old / "adapter_model.safetensors", metadata={"format": "pt"})
    (old / "adapter_config.json").write_text(json.dumps(config))
    # Gate-up and down together show which side is read, so that nothing has to be told.
    assert tensors_digest(read(old, kind).adapter) == expected
    assert tensors_digest(read(old).adapter) == expected


def turned_experts(tensors):
    """A'[e, r] = B[:, r, e] and B'[:, r, e] = A[e, r]: the other side of the same update."""
    found = {}
    for name, a in tensors.items():
        if ".experts." in name and name.endswith("lora_A.weight"):
            other = name.replace("lora_A", "lora_B")
            b = tensors[other]
            experts, r = EXPERTS, a.shape[0] // EXPERTS
            found[name] = (
                b.reshape(-1, r, experts).permute(2, 1, 0).reshape(experts * r, -1).contiguous()
            )
            found[other] = (
                a.reshape(experts, r, -1).permute(2, 1, 0).reshape(-1, r * experts).contiguous()
            )
    return found


def test_an_orientation_that_nothing_tells_is_asked_for(tmp_path):
    peft = trained("qwen3_moe", BOTH[1:])
    folder = tmp_path / "square"
    peft.save_pretrained(folder)
    tensors = load_file(folder / "adapter_model.safetensors")
    tensors = {n: t for n, t in tensors.items() if "experts" in n}
    a = next(t for n, t in tensors.items() if "lora_A" in n)
    square = {
        n: torch.randn(a.shape[0], 32) if "lora_A" in n else torch.randn(32, a.shape[0])
        for n in tensors
    }
    save_file(square, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "adapter_config.json").read_text())
    config |= {"peft_version": None, "target_modules": []}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    reading = read_adapter(open_path(folder))
    assert reading.adapter is None
    problem = next(p for p in reading.inspection.problems if p.code == "ambiguous_layout")
    assert "peft-0.18" in problem.hint
    new = read(folder, source_layout="peft-0.19.1").adapter
    old = read(folder, source_layout="peft-0.18").adapter
    first = new.modules[0].path
    assert new.modules[0].a.shape == (3, 32)
    assert bytes(old.tensors()[f"{first}.lora_A.weight"].load()) != bytes(
        new.tensors()[f"{first}.lora_A.weight"].load()
    )


def test_an_expert_without_factors_is_left_alone(tmp_path):
    tensors = old_file("qwen3_moe", tmp_path / "old")
    kept = {n: t for n, t in tensors.items() if ".experts.3." not in n and ".experts.1." not in n}
    save_file(kept, tmp_path / "old" / "adapter_model.safetensors", metadata={"format": "pt"})
    written(read(tmp_path / "old", "qwen3_moe").adapter, tmp_path / "new")
    got = deltas(load("qwen3_moe", tmp_path / "new"))["model.layers.0.mlp.experts.gate_up_proj"]
    assert [bool(got[e].any()) for e in range(EXPERTS)] == [True, False, True, False]
