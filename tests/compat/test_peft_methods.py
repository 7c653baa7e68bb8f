"""PEFT's other methods against PEFT itself: its ``get_delta_weight``, module by module."""

import json

import numpy as np
import pytest
import torch
from peft import (
    AdaLoraConfig,
    DeloraConfig,
    GraloraConfig,
    LoHaConfig,
    LoKrConfig,
    LoraConfig,
    MissConfig,
    PeftModel,
    VBLoRAConfig,
    VeraConfig,
    get_peft_model,
)
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

from adaptrix.convert.arrays import to_numpy_f64
from adaptrix.convert.reading import ReadOptions, read_adapter
from adaptrix.convert.source import open_path
from adaptrix.convert.writing import write_adapter

ALL = ["q_proj", "v_proj", "down_proj", "gate_proj"]
SIZES = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
         "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 32}  # fmt: skip
BASE = {**SIZES, "model_type": "llama"}
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
METHODS = {
    "adalora": AdaLoraConfig(target_modules=ALL, init_r=4, target_r=2, lora_alpha=8, total_step=10,
                             task_type="CAUSAL_LM"),
    "loha": LoHaConfig(target_modules=ALL, r=3, alpha=5, rank_pattern={"v_proj": 2},
                       alpha_pattern={"v_proj": 7}),
    "lokr": LoKrConfig(target_modules=["down_proj"], r=2, alpha=5, decompose_factor=4),
    "lokr-both": LoKrConfig(target_modules=ALL, r=1, alpha=5, decompose_both=True,
                            decompose_factor=4),
    "vera": VeraConfig(target_modules=["q_proj", "v_proj"], r=5),
    "vera-wide": VeraConfig(target_modules=["q_proj", "down_proj"], r=5),
    "miss": MissConfig(target_modules=ALL, r=4),
    "miss-uneven": MissConfig(target_modules=["q_proj"], r=5),
    "vblora": VBLoRAConfig(target_modules=["q_proj", "v_proj"], r=2, num_vectors=6,
                           vector_length=4, topk=2),
    "vblora-topk": VBLoRAConfig(target_modules=["q_proj", "v_proj"], r=2, num_vectors=6,
                                vector_length=4, topk=3, save_only_topk_weights=True),
    "delora": DeloraConfig(target_modules=ALL, r=3, delora_lambda=6),
    "gralora": GraloraConfig(target_modules=ALL, r=6, alpha=9, gralora_k=2),
    "gralora-hybrid": GraloraConfig(target_modules=ALL, r=4, hybrid_r=3, alpha=9, gralora_k=4),
    "vera-drawn": lambda: VeraConfig(target_modules=["q_proj", "down_proj"], r=5,
                                     save_projection=False, projection_prng_key=77),
}  # fmt: skip


def trained(config):
    config = config() if callable(config) else config
    torch.manual_seed(0)
    model = get_peft_model(LlamaForCausalLM(LlamaConfig(**SIZES)), config)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter)
            if "vector_bank" in name:
                parameter.data.mul_(0.5)
    return model


def theirs(model):
    """``ΔW`` of every adapted module by PEFT: merged minus base, or its own method."""
    found = {}
    for name, module in model.base_model.model.named_modules():
        if not hasattr(module, "base_layer") or not hasattr(module, "merge"):
            continue
        if hasattr(module, "get_delta_weight") and "Miss" not in type(module).__name__:
            delta = module.get_delta_weight("default").detach()
        else:
            weight = module.get_base_layer().weight
            before = weight.data.clone()
            weight.data.zero_()
            module.merge()
            delta = weight.data.clone()
            module.unmerge()
            weight.data.copy_(before)
        found[name] = delta.double().numpy()
    return found


def ours(reading):
    assert reading.adapter is not None, reading.inspection.problems
    return {
        str(m.path): m.scale.value * (to_numpy_f64(m.b) @ to_numpy_f64(m.a))
        for m in reading.adapter.modules
    }


def write(reading, folder):
    """Our files for PEFT, in ``folder``."""
    folder.mkdir()
    for file in write_adapter(reading.adapter, "peft").files:
        (folder / file.path).write_bytes(b"".join(bytes(c) for c in file.chunks()))
    return folder


def relative_error(model, folder):
    """Of the logits of PEFT with the adapter in ``folder``, against ``model``'s."""
    torch.manual_seed(0)
    plain = LlamaForCausalLM(LlamaConfig(**SIZES))
    again = PeftModel.from_pretrained(plain, folder).eval()
    tokens = torch.tensor([[1, 2, 3, 4]])
    with torch.no_grad():
        wanted, got = model.eval()(tokens).logits, again(tokens).logits
    return float((wanted - got).abs().max()) / float(wanted.abs().max())


@pytest.mark.parametrize("name", METHODS)
def test_the_pair_is_the_method(name, tmp_path):
    model = trained(METHODS[name])
    model.save_pretrained(tmp_path)
    reading = read_adapter(open_path(tmp_path), ReadOptions(base_config=BASE))
    assert reading.inspection.format.method == name.partition("-")[0]
    wanted, found = theirs(model), ours(reading)
    assert found.keys() == wanted.keys()
    for path, delta in wanted.items():
        np.testing.assert_allclose(found[path], delta, rtol=2e-5, atol=2e-5 * abs(delta).max())
    copies = name.startswith(("miss", "gralora"))
    assert reading.inspection.fidelity == ("exact" if copies else "rounding")
    account = reading.inspection.tensors
    assert account.total == account.used
    assert reading.inspection.architecture.family == "llama"


@pytest.mark.parametrize(
    "name", ["loha", "lokr", "adalora", "miss", "delora", "vblora", "gralora-hybrid"]
)
def test_peft_runs_what_is_written(name, tmp_path):
    model = trained(METHODS[name])
    model.save_pretrained(tmp_path / "theirs")
    reading = read_adapter(open_path(tmp_path / "theirs"), ReadOptions(base_config=BASE))
    assert relative_error(model, write(reading, tmp_path / "ours")) < 1e-4


def test_full_factors_of_lokr_are_a_pair_when_their_values_are_of_low_rank(tmp_path):
    config = LoKrConfig(target_modules=["q_proj"], r=8, alpha=5, decompose_factor=4)
    model = trained(config)
    for name, parameter in model.named_parameters():
        if "lokr_w2" in name:
            parameter.data = torch.outer(parameter.data[:, 0], parameter.data[0])
    model.save_pretrained(tmp_path)
    reading = read_adapter(open_path(tmp_path), ReadOptions(base_config=BASE))
    found = ours(reading)
    assert {m.rank for m in reading.adapter.modules} == {4}
    for path, delta in theirs(model).items():
        np.testing.assert_allclose(found[path], delta, rtol=0, atol=2e-6 * abs(delta).max())
    headers = ReadOptions(base_config=BASE, check_values=False)
    unread = read_adapter(open_path(tmp_path), headers).inspection
    assert [p.code for p in unread.problems if p.severity == "error"] == ["unread_values"]
    assert unread.verdict == "INCONCLUSIVE"


def test_projections_are_drawn_as_torch_draws_them():
    from peft.tuners.vera.model import _kaiming_init

    from adaptrix.convert.formats.peft_projections import drawn_projections

    for key, rank, width, height in ((0, 4, 96, 40), (2**33 + 5, 256, 320, 1280)):
        generator = torch.Generator(device="cpu").manual_seed(key)
        wanted = [_kaiming_init(s, generator).numpy() for s in ((rank, width), (height, rank))]
        for one, other in zip(wanted, drawn_projections(key, rank, width, height), strict=True):
            # The same to the last bit where the processor has a fused multiply-add.
            np.testing.assert_allclose(to_numpy_f64(other), one, rtol=0, atol=2**-23 * one.max())


@pytest.mark.parametrize("method", ["miss", "vera-drawn"])
def test_a_width_that_is_not_in_the_file_is_asked_for(tmp_path, method):
    trained(METHODS[method]).save_pretrained(tmp_path)
    found = read_adapter(open_path(tmp_path)).inspection
    assert [p.code for p in found.problems if p.severity == "error"] == ["ambiguous_layout"]
    assert found.verdict == "INCONCLUSIVE"


def test_what_is_no_pair_is_refused_by_name(tmp_path):
    for name, config in {
        "full": LoKrConfig(target_modules=["q_proj"], r=8, alpha=5, decompose_factor=4),
        "bat": MissConfig(target_modules=["q_proj"], r=4, init_weights="bat"),
    }.items():
        trained(config).save_pretrained(tmp_path / name)
        found = read_adapter(open_path(tmp_path / name), ReadOptions(base_config=BASE)).inspection
        assert [p.code for p in found.problems if p.severity == "error"] == ["unsupported_method"]
        assert len(found.tensors.ignored) == found.tensors.total


def block_diagonal():
    blocks = {"target_modules_bd_a": ["down_proj"], "target_modules_bd_b": ["q_proj", "v_proj"],
              "nblocks": 2, "match_strict": True}  # fmt: skip
    return LoraConfig(target_modules=ALL[:3], r=4, lora_alpha=6, use_bdlora=blocks)


def test_block_diagonal_factors_are_spread(tmp_path):
    model = trained(block_diagonal())
    model.save_pretrained(tmp_path)
    reading = read_adapter(open_path(tmp_path), ReadOptions(base_config=BASE))
    found = ours(reading)
    for name, module in model.base_model.model.named_modules():
        if hasattr(module, "lora_A"):
            a, b = (
                part.weight_as_blockdiagonal_matrix() if hasattr(part, "nblocks") else part.weight
                for part in (module.lora_A["default"], module.lora_B["default"])
            )
            delta = (1.5 * b.double() @ a.double()).detach().numpy()
            np.testing.assert_allclose(found.pop(name), delta, rtol=1e-12)
    assert not found
    assert reading.inspection.fidelity == "exact"


def test_kasas_delta_is_carried_and_marked(tmp_path):
    kasa = pytest.importorskip("peft").KasaConfig
    model = trained(LoraConfig(target_modules=ALL, r=4, lora_alpha=6, kasa_config=kasa()))
    model.save_pretrained(tmp_path / "theirs")
    reading = read_adapter(open_path(tmp_path / "theirs"), ReadOptions(base_config=BASE))
    assert reading.adapter.needs_base == "residual"
    assert "needs_residual_base" in [p.code for p in reading.inspection.problems]
    found = ours(reading)
    for name, module in model.base_model.model.named_modules():
        if hasattr(module, "lora_diag"):
            a, b = module.lora_A["default"].weight, module.lora_B["default"].weight
            diagonal = torch.diag(module.lora_diag["default"]).double()
            delta = (1.5 * b.double() @ diagonal @ a.double()).detach().numpy()
            np.testing.assert_allclose(found.pop(name), delta, rtol=1e-6, atol=1e-6)
    assert not found
    folder = write(reading, tmp_path / "ours")
    again = read_adapter(open_path(folder), ReadOptions(base_config=BASE))
    assert again.adapter.needs_base == "residual"
    assert json.loads((folder / "adapter_config.json").read_text())["kasa_config"]
    assert relative_error(model, folder) < 1e-4


@pytest.mark.parametrize("variant", ["VeloraConfig", "MontecloraConfig"])
def test_variants_that_act_in_training_only_are_plain_factors(tmp_path, variant):
    config = getattr(pytest.importorskip("peft"), variant)()
    if variant == "VeloraConfig":
        config.num_groups = 2
    name = f"{variant.removesuffix('Config').lower()}_config"
    model = trained(LoraConfig(target_modules=["q_proj", "v_proj"], r=4, lora_alpha=6,
                               **{name: config}))  # fmt: skip
    model.save_pretrained(tmp_path / "theirs")
    reading = read_adapter(open_path(tmp_path / "theirs"), ReadOptions(base_config=BASE))
    account = reading.inspection.tensors
    assert account.total == account.used + len(account.ignored)
    assert account.ignored
    assert "training_state" in [p.code for p in reading.inspection.problems]
    assert relative_error(model, write(reading, tmp_path / "ours")) < 1e-5


def test_pooled_inputs_are_repeated_columns(tmp_path):
    from types import SimpleNamespace

    from peft.tuners.lora.variants import QALoraLinearVariant

    group, rank, width = 4, 3, 16
    torch.manual_seed(0)
    down, up = (
        torch.nn.Linear(width // group, rank, bias=False),
        torch.nn.Linear(rank, 16, bias=False),
    )
    name = "base_model.model.model.layers.0.self_attn.q_proj"
    save_file({f"{name}.lora_A.weight": down.weight.data, f"{name}.lora_B.weight": up.weight.data},
              tmp_path / "adapter_model.safetensors")  # fmt: skip
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": 6, "target_modules": ["q_proj"],
              "use_qalora": True, "qalora_group_size": group}  # fmt: skip
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    reading = read_adapter(open_path(tmp_path), ReadOptions(base_config=BASE))
    layer = SimpleNamespace(
        lora_A={"default": down}, lora_B={"default": up}, training=False, in_features=width,
        lora_dropout={"default": torch.nn.Identity()}, scaling={"default": 2.0},
        qalora_group_size={"default": group},
    )  # fmt: skip
    x = torch.randn(2, 5, width)
    with torch.no_grad():
        wanted = QALoraLinearVariant.forward(layer, "default", x, torch.zeros(2, 5, 16))
    (delta,) = ours(reading).values()
    np.testing.assert_allclose(x.numpy() @ delta.T, wanted.numpy(), rtol=1e-5, atol=1e-6)
    asked = read_adapter(open_path(tmp_path)).inspection
    assert "ambiguous_layout" in [problem.code for problem in asked.problems]
