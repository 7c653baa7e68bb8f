"""Which rows of a fused projection are queries, keys and values, asked of the class itself.

In a causal model of one layer the first token's query changes nothing, its key changes
what later tokens see, and its value changes its own output. So an offset on the first
token's fused output tells which rows are which, whatever the class does with them; the
attention probabilities tell which head they belong to.
"""

import pytest
import torch
import transformers

from adaptrix.convert.architecture.dimensions import dimensions_of
from adaptrix.convert.layouts.forms import FORMS
from adaptrix.convert.layouts.heads import heads_of
from adaptrix.convert.layouts.row_orders import Heads, part_rows

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
E, H, SIZE = 32, 4, 8
_COMMON = {"vocab_size": 64, "tie_word_embeddings": False, "attn_implementation": "eager"}
_NEW = {"hidden_size": E, "num_hidden_layers": 1, "num_attention_heads": H, "intermediate_size": 48}
_OLD = {"n_embd": E, "n_layer": 1, "n_head": H, "n_positions": 16}
MODELS = {
    "gpt_neox": ("GPTNeoX", _NEW),
    "gpt_neox_japanese": ("GPTNeoXJapanese", _NEW),
    "bloom": ("Bloom", {"hidden_size": E, "n_layer": 1, "n_head": H}),
    "falcon: one group": ("Falcon", {**_NEW, "multi_query": True, "new_decoder_architecture": False}),
    "falcon: every head": ("Falcon", {**_NEW, "multi_query": False, "new_decoder_architecture": False}),
    "falcon: two groups": ("Falcon", {**_NEW, "new_decoder_architecture": True, "num_kv_heads": 2}),
    "persimmon": ("Persimmon", _NEW),
    "codegen": ("CodeGen", {**_OLD, "rotary_dim": 4}),
    "gpt2": ("GPT2", _OLD),
    "gpt_bigcode: one group": ("GPTBigCode", {**_OLD, "multi_query": True}),
    "gpt_bigcode: every head": ("GPTBigCode", {**_OLD, "multi_query": False}),
    "mpt": ("Mpt", {"d_model": E, "n_layers": 1, "n_heads": H, "max_seq_len": 16}),
    "phi3": ("Phi3", {**_NEW, "num_key_value_heads": 2, "pad_token_id": 0}),
}  # fmt: skip
IDS = torch.tensor([[3, 11]])


def build(case):
    name, settings = MODELS[case]
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**settings, **_COMMON)
    kind = "GPT2LMHeadModel" if name == "GPT2" else f"{name}ForCausalLM"
    model = getattr(transformers, kind)(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3)
    return model


def outcome(model, module, rows, position):
    """Logits and attention with an offset on some rows of the fused output at one position."""
    offset = torch.linspace(1.0, 2.0, len(rows))

    def shift(_module, _inputs, output):
        output = output.clone()
        output[0, position, rows] += offset
        return output

    handle = module.register_forward_hook(shift)
    try:
        with torch.no_grad():
            out = model(IDS, output_attentions=True, use_cache=False)
    finally:
        handle.remove()
    return out.logits[0].double(), out.attentions[0][0].double()


@pytest.mark.parametrize("case", MODELS)
def test_rows_are_what_the_table_says(case):
    family = case.partition(":")[0]
    model, form = build(case), FORMS[family]
    tail, fused = next((t, f) for t, f in form.fused.items() if "q" in f.parts)
    module = model.get_submodule(form.blocks[0].format(0) + tail)
    config = model.config.to_dict()
    heads = heads_of(family, dimensions_of(config), config)
    total = module.weight.shape[1] if family == "gpt2" else module.weight.shape[0]
    rows = part_rows(fused.order, fused.parts, total, heads)
    assert {part: len(rows[part]) for part in "qkv"} == {
        "q": H * SIZE, "k": heads.groups * SIZE, "v": heads.groups * SIZE,
    }  # fmt: skip
    logits, attention = outcome(model, module, torch.tensor([], dtype=torch.long), 0)

    def changed(part, position=0):
        index = torch.as_tensor(rows[part])
        moved, _ = outcome(model, module, index, position)
        return [bool((moved[i] - logits[i]).abs().max() > 1e-6) for i in (0, 1)]

    assert changed("q") == [False, False]
    assert changed("k") == [False, True]
    assert changed("v")[0]
    for part, position, count in (("q", 1, H), ("k", 0, heads.groups)):
        for index in range(count):
            head_rows = torch.as_tensor(rows[part][index * SIZE : (index + 1) * SIZE])
            _, moved = outcome(model, module, head_rows, position)
            seen = [h for h in range(H) if (moved[h] - attention[h]).abs().max() > 1e-6]
            width = H // count
            assert seen == list(range(index * width, (index + 1) * width)), part


def test_gate_comes_first_in_phi3_and_glm():
    """The layer is odd in the half that is multiplied; in the half that is activated it is not."""
    phi3, glm = transformers.models.phi3.modeling_phi3, transformers.models.glm.modeling_glm
    rows = part_rows("blocks", ("gate", "up"), 96, Heads())
    for block in (
        phi3.Phi3MLP(transformers.Phi3Config(**_NEW, pad_token_id=0)),
        glm.GlmMLP(transformers.GlmConfig(**_NEW, head_dim=SIZE, pad_token_id=0)),
    ):
        weight, x = block.gate_up_proj.weight, torch.randn(1, 1, E)
        with torch.no_grad():
            weight.normal_()
            before = block(x)
            weight[torch.as_tensor(rows["up"])] *= -1
            torch.testing.assert_close(block(x), -before)
            weight[torch.as_tensor(rows["gate"])] *= -1
            assert not torch.allclose(block(x), before, rtol=0.1)
