"""With the base weights at hand: HRA, PiSSA, OLoRA and KaSA as a LoRA of the original base."""

import peft
import pytest
import torch
from peft import HRAConfig, LoraConfig, PeftModel, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from adaptrix.registry.registry import Registry
from adaptrix.schema.errors import Refused

SIZES = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
         "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 32}  # fmt: skip
TOKENS = torch.tensor([[1, 2, 3, 4, 5]])
ALL = ["q_proj", "v_proj", "down_proj"]
LORA = {"target_modules": ALL, "r": 4, "lora_alpha": 6}
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
METHODS = {
    "hra": (lambda: HRAConfig(target_modules=ALL, r=4), 4),
    "pissa": (lambda: LoraConfig(**LORA, init_lora_weights="pissa"), 8),
    "olora": (lambda: LoraConfig(**LORA, init_lora_weights="olora", use_rslora=True), 8),
    "kasa": (lambda: LoraConfig(**LORA, kasa_config=peft.KasaConfig()), 8),
}


def base():
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SIZES)).eval()


@pytest.fixture(scope="module")
def base_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    base().save_pretrained(folder)
    return folder


def trained(method, folder):
    model = get_peft_model(base(), METHODS[method][0]())
    torch.manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += torch.randn_like(parameter) / 8
    model.save_pretrained(folder)
    with torch.no_grad():
        return model.eval()(TOKENS).logits


@pytest.mark.parametrize("method", METHODS)
def test_it_is_a_lora_of_the_original_base(method, tmp_path, base_folder):
    if method == "kasa" and not hasattr(peft, "KasaConfig"):
        pytest.skip("this PEFT has no KaSA")
    wanted = trained(method, tmp_path / "theirs")
    with Registry(tmp_path / "home") as registry:
        report = registry.pull(str(tmp_path / "theirs"), name="plain", base=str(base_folder))
        assert report.verdict == "PASS"
        assert report.fidelity == "rounding"
        adapter = registry.open("plain").adapter
        assert adapter.needs_base == "none"
        assert {module.rank for module in adapter.modules} == {METHODS[method][1]}
        assert registry.verify("plain", base=str(base_folder)).verdict == "PASS"
        registry.convert("plain", to="peft", output=tmp_path / "ours")
    again = PeftModel.from_pretrained(base(), tmp_path / "ours").eval()
    with torch.no_grad():
        got, without = again(TOKENS).logits, base()(TOKENS).logits
    assert float((wanted - got).abs().max()) < 2e-5 * float(wanted.abs().max())
    assert float((without - got).abs().max()) > 1e-3


def test_what_the_weights_cannot_settle_stays_as_it_was(tmp_path, base_folder):
    (tmp_path / "bare").mkdir()
    config = (base_folder / "config.json").read_bytes()
    (tmp_path / "bare" / "config.json").write_bytes(config)
    trained("hra", tmp_path / "hra")
    trained("pissa", tmp_path / "pissa")
    model = get_peft_model(base(), LoraConfig(**LORA, init_lora_weights="pissa_niter_2"))
    model.save_pretrained(tmp_path / "niter")
    with Registry(tmp_path / "home") as registry:
        with pytest.raises(Refused) as error:
            registry.pull(str(tmp_path / "hra"), name="a", base=str(tmp_path / "bare"))
        assert error.value.code == "needs_base_weights"
        for name, place in (("pissa", tmp_path / "bare"), ("niter", base_folder)):
            report = registry.pull(str(tmp_path / name), name=name, base=str(place))
            assert report.verdict == "INCONCLUSIVE"
            assert registry.open(name).adapter.needs_base == "residual"
