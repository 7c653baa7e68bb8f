"""``inspect --base``: by the catalogue's formulas, else by the model that transformers builds."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from adaptrix import Registry
from adaptrix.schema.errors import FormatError, Refused

LAYER = "base_model.model.model.language_model.layers.{}.self_attn.q_proj.lora_{}.weight"
INNER = {
    "hidden_size": 24, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
    "num_hidden_layers": 2, "intermediate_size": 40, "vocab_size": 50,
}  # fmt: skip
VISION = {
    "hidden_size": 16, "intermediate_size": 20, "num_hidden_layers": 2, "num_attention_heads": 2,
    "image_size": 8, "patch_size": 4, "model_type": "clip_vision_model",
}  # fmt: skip


def adapter(folder, out, into, layers=2, name=LAYER):
    folder.mkdir()
    tensors = {}
    for i in range(layers):
        tensors[name.format(i, "A")] = np.ones((2, into), np.float32)
        tensors[name.format(i, "B")] = np.ones((out, 2), np.float32)
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return str(folder)


def base(folder, **config):
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


@pytest.fixture
def registry(tmp_path):
    with Registry(tmp_path / "home") as opened:
        yield opened


def test_a_model_around_another_type_is_built_and_decides(tmp_path, registry):
    """LLaVA around Qwen3: the catalogue has it around LLaMA only."""
    place = base(
        tmp_path / "base", model_type="llava", text_config={"model_type": "qwen3", **INNER},
        vision_config=VISION, image_token_index=1,
    )  # fmt: skip
    found = registry.inspect(adapter(tmp_path / "fits", 32, 24), base=place)
    assert found.base_model.compatible is True
    assert found.architecture.family == "llava"
    wrong = registry.inspect(adapter(tmp_path / "wide", 40, 24), base=place)
    assert wrong.base_model.compatible is False
    assert "wrong_base" in [p.code for p in wrong.problems]
    deep = registry.inspect(adapter(tmp_path / "deep", 32, 24, layers=3), base=place)
    assert any("layer 2, the base has 2" in p.message for p in deep.problems)


def test_a_known_type_needs_no_model(tmp_path, registry):
    place = base(tmp_path / "base", model_type="mistral", **INNER)
    name = LAYER.replace("model.model.language_model", "model.model")
    fits = registry.inspect(adapter(tmp_path / "fits", 32, 24, name=name), base=place)
    assert (fits.base_model.compatible, fits.architecture.family) == (True, "mistral")
    assert fits.architecture.confidence > 0.99
    wide = registry.inspect(adapter(tmp_path / "wide", 24, 24, name=name), base=place)
    assert wide.base_model.compatible is False
    assert "is 24×24, the base has 32×24" in " ".join(p.message for p in wide.problems)


def test_a_type_that_nobody_knows_is_refused(tmp_path, registry):
    place = base(tmp_path / "base", model_type="no_such_model", hidden_size=8)
    with pytest.raises(FormatError, match="no model can be built"):
        registry.inspect(adapter(tmp_path / "any", 8, 8), base=place)


def test_what_the_formulas_do_not_know_is_asked_of_the_base_itself(tmp_path, registry):
    """DeBERTa with relative positions has ``pos_proj``; its default configuration has none."""
    place = base(
        tmp_path / "base", model_type="deberta", hidden_size=24, num_attention_heads=2,
        num_hidden_layers=2, intermediate_size=40, vocab_size=50, relative_attention=True,
        pos_att_type=["c2p", "p2c"],
    )  # fmt: skip
    name = "base_model.model.deberta.encoder.layer.{}.attention.self.pos_proj.lora_{}.weight"
    found = registry.inspect(adapter(tmp_path / "fits", 24, 24, name=name), base=place)
    assert found.base_model.compatible is True, found.problems
    wrong = registry.inspect(adapter(tmp_path / "wide", 28, 24, name=name), base=place)
    assert wrong.base_model.compatible is False


def test_a_stored_version_keeps_the_family_that_its_base_gave_it(tmp_path, registry):
    """Its modules alone are those of a dozen families."""
    place = base(tmp_path / "base", model_type="mistral", **INNER)
    name = "base_model.model.model.layers.{}.self_attn.q_proj.lora_{}.weight"
    source = adapter(tmp_path / "fits", 32, 24, name=name)
    assert registry.inspect(source).architecture.family == "unknown"
    registry.pull(source, name="team/m", base=place)
    found = registry.inspect("team/m").architecture
    assert found.family == "mistral"
    assert sum(c.probability for c in found.candidates) <= 1
    with pytest.raises(Refused) as asked:
        registry.convert("team/m", to="gguf", output=tmp_path / "asked")
    assert "--base" in asked.value.hint
    report = registry.convert("team/m", to="gguf", output=tmp_path / "gguf", base=place)
    assert report.fidelity == "exact"
