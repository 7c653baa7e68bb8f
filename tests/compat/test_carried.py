"""Methods that are no LoRA: refused by name, or kept so that PEFT loads them unchanged."""

import pytest
import torch
from peft import (
    BOFTConfig,
    C3AConfig,
    FourierFTConfig,
    HiraConfig,
    HRAConfig,
    IA3Config,
    LNTuningConfig,
    LoraConfig,
    OFTConfig,
    PeftModel,
    PromptTuningConfig,
    RoadConfig,
    get_peft_model,
)
from transformers import LlamaConfig, LlamaForCausalLM

from adaptrix.convert.reading import ReadOptions, read_adapter, refusal
from adaptrix.convert.source import open_path
from adaptrix.loader.plan import WeightedAdapter, plan
from adaptrix.loader.structure import structure_of
from adaptrix.registry.registry import Registry
from adaptrix.schema.errors import IncompatibleAdapter, Refused

SIZES = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
         "num_attention_heads": 4, "num_key_value_heads": 4, "vocab_size": 32}  # fmt: skip
ALL = ["q_proj", "v_proj", "down_proj"]
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
METHODS = {
    "ia3": (lambda: IA3Config(target_modules=ALL, feedforward_modules=["down_proj"]), "ia3"),
    "oft": (lambda: OFTConfig(target_modules=ALL, oft_block_size=4), "needs_base_weights"),
    "boft": (lambda: BOFTConfig(target_modules=ALL, boft_block_size=4), "needs_base_weights"),
    "hra": (lambda: HRAConfig(target_modules=ALL, r=4), "needs_base_weights"),
    "road": (lambda: RoadConfig(target_modules=["q_proj"], group_size=4), "needs_base_weights"),
    "hira": (lambda: HiraConfig(target_modules=ALL, r=4), "needs_base_weights"),
    "c3a": (lambda: C3AConfig(target_modules=["q_proj"], block_size=4), "not_low_rank"),
    "fourierft": (lambda: FourierFTConfig(target_modules=ALL, n_frequency=9), "not_low_rank"),
    "ln_tuning": (lambda: LNTuningConfig(target_modules=["input_layernorm"]), "not_low_rank"),
    "alora": (lambda: LoraConfig(target_modules=ALL, r=2, alora_invocation_tokens=[3, 4],
                                 task_type="CAUSAL_LM"), "positional_adapter"),
}  # fmt: skip
TOKENS = torch.tensor([[1, 2, 3, 4, 5]])


def base():
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SIZES)).eval()


def trained(method, folder):
    model = get_peft_model(base(), METHODS[method][0]())
    torch.manual_seed(1)
    for _, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameter.data = torch.randn_like(parameter) / 4
    model.save_pretrained(folder)
    with torch.no_grad():
        return model.eval()(TOKENS).logits


@pytest.mark.parametrize("method", METHODS)
def test_refused_by_name_and_kept_unchanged(method, tmp_path):
    code = METHODS[method][1]
    wanted = trained(method, tmp_path / "theirs")
    plain = read_adapter(open_path(tmp_path / "theirs"))
    found = plain.inspection
    assert found.format.method == method
    assert not found.convertible
    assert found.tensors.total == len(found.tensors.ignored)
    error = refusal(plain)
    assert (error.code, error.exit_status) == (code, 1)
    assert "--carry" in error.hint
    assert (found.needs_base == "merge") == (code in {"ia3", "needs_base_weights"})
    with Registry(tmp_path / "home") as registry:
        with pytest.raises(Refused):
            registry.pull(str(tmp_path / "theirs"), name="kept")
        report = registry.pull(str(tmp_path / "theirs"), name="kept", carry=True)
        assert report.verdict == "PASS"
        assert report.modules == {"road": 2, "c3a": 2, "ln_tuning": 2}.get(method, 6)
        assert (
            registry.pull(str(tmp_path / "theirs"), name="kept", carry=True).status == "unchanged"
        )
        assert registry.verify("kept").verdict == "PASS"
        opened = registry.open("kept").adapter
        assert opened.method == method
        assert opened.carried.paths
        registry.convert("kept", to="peft", output=tmp_path / "ours")
        with pytest.raises(Refused):
            registry.convert("kept", to="mlx", output=tmp_path / "mlx")
        with pytest.raises(IncompatibleAdapter):
            registry.compose([("kept", 1.0)], output="composed")
    again = PeftModel.from_pretrained(base(), tmp_path / "ours").eval()
    with torch.no_grad():
        assert torch.equal(again(TOKENS).logits, wanted)
    structure = structure_of(base(), "llama")
    with pytest.raises(IncompatibleAdapter, match="kept as it is"):
        plan(structure, [WeightedAdapter(name="kept", adapter=opened)])


def test_what_is_no_weight_update_is_not_carried(tmp_path):
    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    get_peft_model(base(), config).save_pretrained(tmp_path)
    reading = read_adapter(open_path(tmp_path), ReadOptions(carry=True))
    assert reading.adapter is None
    assert refusal(reading).code == "soft_prompt"
