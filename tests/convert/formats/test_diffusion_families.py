"""Which published diffusion model an adapter fits: told from names and shapes."""

import numpy as np
import pytest
from safetensors.numpy import save

from adaptrix.convert.diffusion.models import modules, pipelines
from adaptrix.convert.reading import read_adapter
from adaptrix.convert.source import AdapterFiles, MemorySource


def read(tensors, metadata=None):
    file = MemorySource("lora.safetensors", save(tensors, metadata))
    return read_adapter(AdapterFiles(location="mem", files={file.name: file}))


def parts_of(name, words, component=""):
    """An adapter on the modules of a published model whose path has one of ``words``."""
    tensors = {}
    (pipeline,) = [p for p in pipelines() if p.name.endswith(name)]
    for place, network in pipeline.networks.items():
        for path, module in modules(network).items():
            if any(w in path for w in words) and component in ("", place):
                full = f"{place}.{path}"
                tensors[f"{full}.lora_A.weight"] = np.ones((1, module.in_features, *module.kernel), "f2")  # fmt: skip
                tensors[f"{full}.lora_B.weight"] = np.ones((module.out_features, 1, *(1 for _ in module.kernel)), "f2")  # fmt: skip
    return tensors


@pytest.mark.parametrize(
    ("name", "words", "family"),
    [
        ("stable-diffusion-v1-5", ["attn2.to_k"], "stable-diffusion"),
        ("stable-diffusion-2-1", ["attn2.to_k"], "stable-diffusion"),
        ("stable-diffusion-xl-base-1.0", ["attn2.to_k"], "stable-diffusion-xl"),
        ("stable-diffusion-3.5-large", ["attn.to_q"], "stable-diffusion-3"),
        ("FLUX.1-dev", ["attn.to_q"], "flux"),
        ("Qwen-Image", ["attn.to_q", "img_mlp"], "qwen-image"),
        ("Wan2.1-T2V-14B-Diffusers", ["attn1.to_q"], "wan"),
        ("FLUX.2-dev", ["to_qkv_mlp_proj"], "flux2"),
        ("HunyuanVideo", ["attn.to_q"], "hunyuan-video"),
        ("Z-Image", ["attention.to_q"], "z-image"),
    ],
)
def test_the_model_is_told_from_names_and_shapes(name, words, family):
    found = read(parts_of(name, words)).inspection
    assert found.architecture.family == family
    assert found.architecture.confidence > 0.95
    assert any(match.endswith(name) for match in found.base_model.matches)
    assert sum(c.probability for c in found.architecture.candidates) <= 1.0001


def test_width_of_the_context_names_the_base():
    for name, width in (("stable-diffusion-v1-5", 768), ("stable-diffusion-2-1", 1024), ("stable-diffusion-xl-base-1.0", 2048)):  # fmt: skip
        found = read(parts_of(name, ["attn2.to_k"], "unet")).inspection
        assert {m.in_features for m in found.modules} == {width}
        assert [match.endswith(name) for match in found.base_model.matches] == [True]


def test_a_text_encoder_that_many_models_share_shares_the_probability():
    found = read(parts_of("stable-diffusion-v1-5", ["mlp.fc1"], "text_encoder")).inspection
    assert found.verdict == "INCONCLUSIVE"
    assert len(found.architecture.candidates) >= 3
    name = "lora_te1_text_model_encoder_layers_0_mlp_fc1"
    tensors = {
        f"{name}.lora_down.weight": np.ones((4, 768), "f4"),
        f"{name}.lora_up.weight": np.ones((3072, 4), "f4"),
        f"{name}.alpha": np.array(2.0, "f4"),
    }
    stated = read(tensors, {"ss_base_model_version": "sdxl_base_v1-0"}).inspection
    assert stated.architecture.family == "stable-diffusion-xl"
