"""The catalogue and its formulas against models that transformers builds itself."""

import random

import pytest
import torch
from transformers import CONFIG_MAPPING
from transformers.models.auto import modeling_auto
from transformers.pytorch_utils import Conv1D

from adaptrix.convert.architecture.catalogue import catalogue
from adaptrix.convert.architecture.consistent import consistent
from adaptrix.convert.architecture.families import family_named, family_names
from adaptrix.convert.architecture.family import first_number
from adaptrix.convert.architecture.formula import evaluate, fields_of
from adaptrix.convert.architecture.shape import Shape
from adaptrix.convert.architecture.shapes import BaseShapes, BuiltModules

SMALL = {
    "llama": {"hidden_size": 96, "num_attention_heads": 6, "num_key_value_heads": 2, "num_hidden_layers": 3, "intermediate_size": 200, "vocab_size": 300},
    "phi": {"hidden_size": 96, "num_attention_heads": 6, "num_hidden_layers": 2, "intermediate_size": 200, "vocab_size": 300},
    "gpt2": {"n_embd": 48, "n_head": 4, "n_layer": 2, "vocab_size": 100, "n_positions": 64},
    "falcon": {"hidden_size": 64, "num_attention_heads": 8, "num_kv_heads": 2, "new_decoder_architecture": True, "num_hidden_layers": 2, "vocab_size": 90},
    "gpt_bigcode": {"n_embd": 48, "n_head": 4, "n_layer": 2, "vocab_size": 100, "multi_query": False},
    "t5": {"d_model": 40, "d_kv": 6, "num_heads": 3, "d_ff": 70, "num_layers": 3, "num_decoder_layers": 2, "vocab_size": 80, "feed_forward_proj": "gated-gelu"},
    "whisper": {"d_model": 32, "encoder_layers": 2, "decoder_layers": 3, "encoder_ffn_dim": 50, "decoder_ffn_dim": 60, "encoder_attention_heads": 4, "decoder_attention_heads": 4, "vocab_size": 99, "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0, "decoder_start_token_id": 0},
    "mixtral": {"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 2, "intermediate_size": 96, "num_local_experts": 3, "vocab_size": 70},
    "bert": {"hidden_size": 48, "num_attention_heads": 4, "num_hidden_layers": 2, "intermediate_size": 80, "vocab_size": 60},
    "distilbert": {"dim": 48, "n_heads": 4, "n_layers": 2, "hidden_dim": 80, "vocab_size": 60},
}  # fmt: skip
_CLASSES = {**modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, "t5": "T5ForConditionalGeneration",
            "whisper": "WhisperForConditionalGeneration", "bert": "BertForMaskedLM",
            "distilbert": "DistilBertForMaskedLM"}  # fmt: skip


@pytest.mark.parametrize("model_type", list(SMALL))
def test_every_linear_has_the_shape_of_its_formula(model_type):
    import transformers

    config = CONFIG_MAPPING[model_type](**SMALL[model_type])
    with torch.device("meta"):
        model = getattr(transformers, _CLASSES[model_type])(config)
    base = BaseShapes.of({"model_type": model_type, **SMALL[model_type]})
    checked = 0
    for path, module in model.named_modules():
        if isinstance(module, (torch.nn.Linear, Conv1D)):
            found = base.sides(path)
            wanted = tuple(module.weight.shape)
            wanted = wanted[::-1] if isinstance(module, Conv1D) else wanted
            assert wanted in [m.sides for m in found], path
            checked += 1
            count = base.repetitions(path)
            span = first_number(path)
            assert count is None or span is None or int(path[slice(*span)]) < count
    assert checked > 3


def test_most_of_transformers_is_there():
    found = catalogue()
    assert len(found.types) >= 350
    assert set(modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES) & set(found.types) > {
        "llama",
        "phi",
    }
    causal = set(modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    assert len(causal & set(found.types)) / len(causal) > 0.85
    assert len(family_names()) > len(found.types)


def test_formulas_have_their_fields():
    found = catalogue()
    for name in random.Random(1).sample(found.types, 40):
        family = found.family(name)
        for _, shapes in family.names():
            for shape in shapes:
                for size in shape.sizes:
                    assert set(fields_of(size)) <= set(family.defaults), (name, size)


def test_evaluating():
    fields = {"a": 6, "b": 4, "c": 2, "r": 1.5}.get
    assert evaluate("a*b/c", fields) == 12
    assert evaluate("a*b+2*c*b+-1", fields) == 39
    assert evaluate("a*r", fields) == 9
    assert evaluate("a/b", fields) is None
    assert evaluate("a*missing", fields) is None
    assert evaluate("?", fields) is None


def test_shapes_of_one_configuration_agree():
    q = (Shape(sizes=("heads*size", "hidden")),)
    o = (Shape(sizes=("hidden", "heads*size")),)
    fused = (Shape(sizes=("heads*size+2*kv*size", "hidden")),)
    assert consistent([(q, [(8, 16)]), (o, [(16, 8)]), (fused, [(12, 16)])])
    assert not consistent([(q, [(8, 16)]), (o, [(8, 16)])])
    assert not consistent([(q, [(8, 16)]), (fused, [(8, 16)])])


def test_a_configuration_lacks_what_its_family_defaults():
    base = BaseShapes.of({"model_type": "llama", "hidden_size": 64, "num_attention_heads": 4})
    (k,) = base.sides("model.layers.0.self_attn.k_proj")
    assert k.sides == (64, 64)
    (gate,) = base.sides("model.layers.0.mlp.gate_proj")
    assert gate.sides == (11008, 64)
    assert BaseShapes.of({"model_type": "no_such_model"}) is None
    other = {"model_type": "llava", "text_config": {"model_type": "no_such_model"}}
    assert BaseShapes.of(other) is None


def test_built_modules_answer_like_formulas():
    base = BuiltModules(
        family_name="mine", modules={f"blocks.{i}.lin": ("linear", 4, 8) for i in range(3)}
    )
    assert base.sides("blocks.1.lin")[0].sides == (4, 8)
    assert base.sides("blocks.3.lin") == ()
    assert base.repetitions("blocks.0.lin") == 3
    assert family_named("phi-msft").name == "phi"
