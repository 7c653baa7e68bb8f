"""What PEFT saves beside the factors, by its own rules, on models built from configurations."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from adaptrix import open_path, read_adapter
from adaptrix.convert.arrays import to_numpy_f64
from adaptrix.convert.writing import write_adapter


def saved(folder, **settings):
    """A trained adapter as PEFT saves it."""
    config = LlamaConfig(
        vocab_size=60, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, tie_word_embeddings=False,
    )  # fmt: skip
    torch.manual_seed(3)
    model = get_peft_model(
        LlamaForCausalLM(config), LoraConfig(r=2, task_type="CAUSAL_LM", **settings)
    )
    for value in model.parameters():
        if value.requires_grad:
            torch.nn.init.normal_(value)
    model.save_pretrained(folder, save_embedding_layers=False)
    return read_adapter(open_path(folder)), load_file(folder / "adapter_model.safetensors")


@pytest.mark.parametrize("names", [["norm"], ["embed_tokens", "norm"], ["model.norm"]])
def test_modules_to_save_match_by_the_end_of_the_path(tmp_path, names):
    """PEFT asks for ``endswith``: ``norm`` covers ``input_layernorm`` (LongLoRA's habit)."""
    reading, tensors = saved(tmp_path, target_modules=["q_proj"], modules_to_save=names)
    assert reading.adapter is not None, reading.inspection.problems
    plain = {n.removeprefix("base_model.model."): t for n, t in tensors.items() if "lora_" not in n}
    found = {r.parameter: r.tensor for r in reading.adapter.replacements}
    assert found.keys() == plain.keys()
    assert len(found) == {"norm": 5, "embed_tokens": 6, "model.norm": 1}[names[0]]
    for name, tensor in found.items():
        assert (to_numpy_f64(tensor) == plain[name].double().numpy()).all()


@pytest.mark.parametrize(
    "settings",
    [{"target_modules": "all-linear", "exclude_modules": ["k_proj"]},
     {"target_modules": ["q_proj", "v_proj"], "exclude_modules": r".*layers\.0\..*"},
     {"target_modules": ["q_proj", "lm_head"], "layers_to_transform": [1]}],
)  # fmt: skip
def test_targets_that_the_configuration_leaves_out_are_not_missed(tmp_path, settings):
    reading, _ = saved(tmp_path, **settings)
    assert "unused_target" not in [p.code for p in reading.inspection.problems]


def resized(*, tied):
    """A small model whose vocabulary was made larger."""
    config = LlamaConfig(
        vocab_size=60, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, tie_word_embeddings=tied,
    )  # fmt: skip
    torch.manual_seed(3)
    model = LlamaForCausalLM(config)
    model.resize_token_embeddings(64)
    return model.eval()


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`:UserWarning")
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("widened", [False, True])
def test_new_tokens_beside_their_whole_embedding(tmp_path, tied, widened):
    """What PEFT saves after a resize is one whole matrix: PEFT itself, given ours, agrees."""
    rows = [3, 60, 61, 63]
    settings = {"target_modules": ["q_proj"], "trainable_token_indices": rows}
    model = get_peft_model(resized(tied=tied), LoraConfig(r=2, task_type="CAUSAL_LM", **settings))
    for value in model.parameters():
        if value.requires_grad:
            torch.nn.init.normal_(value)
    theirs = tmp_path / "theirs"
    model.save_pretrained(theirs, save_embedding_layers=True)
    if widened:  # as over a base in bfloat16
        path = theirs / "adapter_model.safetensors"
        state = load_file(path)
        whole = [name for name in state if name.endswith("token_adapter.base_layer.weight")]
        save_file(state | {n: state[n].bfloat16() for n in whole}, path)
    reading = read_adapter(open_path(theirs))
    assert reading.adapter is not None, reading.inspection.problems
    found = {r.parameter: to_numpy_f64(r.tensor) for r in reading.adapter.replacements}
    assert found.keys() == {"model.embed_tokens.weight", "lm_head.weight"}
    delta = next(v for k, v in load_file(theirs / "adapter_model.safetensors").items() if "embed_tokens.token_adapter.trainable" in k)  # fmt: skip
    assert (found["model.embed_tokens.weight"][rows] == delta.double().numpy()).all()
    if widened:
        return
    ours = tmp_path / "ours"
    ours.mkdir()
    for file in write_adapter(reading.adapter, "peft").files:
        (ours / file.path).write_bytes(b"".join(bytes(chunk) for chunk in file.chunks()))
    again = PeftModel.from_pretrained(resized(tied=tied), ours)
    tokens = torch.tensor([[1, 3, 60, 5, 63]])
    with torch.no_grad():
        wanted, got = model(tokens).logits, again(tokens).logits
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)
