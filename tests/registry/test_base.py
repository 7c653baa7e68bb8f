"""``inspect --base``: by the catalogue's formulas, else by the model that transformers builds."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from adaptrix import Registry
from adaptrix.schema.errors import FormatError

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
