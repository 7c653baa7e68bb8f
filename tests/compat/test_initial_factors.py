"""PiSSA and OLoRA with their initial factors: as PEFT converts them, on the original base."""

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from adaptrix.convert.reading import ReadOptions, read_adapter
from adaptrix.convert.source import open_path
from adaptrix.convert.writing import write_adapter

SIZES = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
         "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 32}  # fmt: skip
TOKENS = torch.tensor([[1, 2, 3, 4, 5]])
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def base():
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SIZES)).eval()


def trained(folder, init, inside, **more):
    """An adapter with its initial one in a folder; returns its logits."""
    config = LoraConfig(target_modules=["q_proj", "v_proj", "down_proj"], r=4, lora_alpha=6,
                        init_lora_weights=init, **more)  # fmt: skip
    model = get_peft_model(base(), config)
    model.peft_config["default"].init_lora_weights = True
    model.save_pretrained(folder / ("tuned/pissa_init" if inside else "olora-init"))
    model.peft_config["default"].init_lora_weights = init
    torch.manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += torch.randn_like(parameter) / 8
    model.save_pretrained(folder / "tuned")
    with torch.no_grad():
        return model.eval()(TOKENS).logits


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("init", ["pissa", "pissa_niter_4", "olora"])
@pytest.mark.parametrize("rslora", [False, True])
def test_the_update_is_one_of_the_original_base(tmp_path, init, inside, rslora):
    wanted = trained(tmp_path, init, inside, use_rslora=rslora)
    reading = read_adapter(open_path(tmp_path / "tuned" if inside else tmp_path))
    assert reading.adapter is not None, reading.inspection.problems
    assert reading.adapter.needs_base == "none"
    assert {module.rank for module in reading.adapter.modules} == {8}
    codes = [problem.code for problem in reading.inspection.problems]
    assert "initial_subtracted" in codes
    assert "needs_residual_base" not in codes
    account = reading.inspection.tensors
    assert account.total == account.used == 24
    assert reading.inspection.fidelity == "exact"
    (tmp_path / "ours").mkdir()
    for file in write_adapter(reading.adapter, "peft").files:
        (tmp_path / "ours" / file.path).write_bytes(b"".join(bytes(c) for c in file.chunks()))
    again = PeftModel.from_pretrained(base(), tmp_path / "ours").eval()
    with torch.no_grad():
        got = again(TOKENS).logits
    assert float((wanted - got).abs().max()) < 1e-5 * float(wanted.abs().max())
    with torch.no_grad():  # the adapter does something
        assert float((base()(TOKENS).logits - got).abs().max()) > 1e-3


def test_a_checkpoint_in_its_place_is_not_subtracted(tmp_path):
    trained(tmp_path, "pissa", True)
    tuned = tmp_path / "tuned" / "adapter_model.safetensors"
    (tmp_path / "tuned" / "pissa_init" / "adapter_model.safetensors").write_bytes(
        tuned.read_bytes()
    )
    reading = read_adapter(open_path(tmp_path / "tuned"))
    assert reading.adapter.needs_base == "residual"
    problems = {p.code: p.message for p in reading.inspection.problems}
    assert "not orthogonal" in problems["ignored_files"]
    assert "needs_residual_base" in problems


def test_without_initial_factors_it_is_carried_and_marked(tmp_path):
    trained(tmp_path, "pissa", False)
    reading = read_adapter(open_path(tmp_path / "tuned"), ReadOptions())
    assert reading.adapter.needs_base == "residual"
    plain = LoraConfig(target_modules=["q_proj"], r=4)
    get_peft_model(base(), plain).save_pretrained(tmp_path / "plain")
    get_peft_model(base(), plain).save_pretrained(tmp_path / "plain" / "init")
    reading = read_adapter(open_path(tmp_path / "plain"))
    assert {module.rank for module in reading.adapter.modules} == {4}
