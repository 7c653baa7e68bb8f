"""diffusers' own converters on the rows of ``tests/convert/formats/test_first_names.py``."""

from __future__ import annotations

import re
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers", reason="make test-engines installs it")
conftest = sys.modules.get("tests.conftest") or sys.modules["conftest"]
PLACE = Path(__file__).parents[1] / "convert" / "formats" / "test_first_names.py"
rows = conftest.load_helper("first_names_rows", PLACE)
CONVERTERS = {
    ("flux2", "diffusion_model."): "non_diffusers_flux2_lora",
    ("flux2", "lora_unet_"): "kohya_flux2_lora",
    ("ideogram4", "diffusion_model."): "non_diffusers_ideogram4_lora",
    ("cosmos", "diffusion_model."): "non_diffusers_anima_lora",
    ("krea2", "diffusion_model."): "non_diffusers_krea2_lora",
    ("hunyuan-video", "diffusion_model."): "hunyuan_video_lora",
    ("hidream", "diffusion_model."): "non_diffusers_hidream_lora",
    ("ltx-2", "diffusion_model."): "non_diffusers_ltx2_lora",
    ("wan", "diffusion_model."): "non_diffusers_wan_lora",
    ("qwen-image", "lora_unet_"): "non_diffusers_qwen_lora",
}


@pytest.mark.parametrize(("family", "prefix"), list(CONVERTERS))
def test_updates_are_those_of_diffusers_converter(family, prefix):
    tensors, _ = rows.file_of(family, prefix, alpha=3.0 if prefix == "lora_unet_" else None)
    adapter = rows.read(tensors).adapter
    converter = f"_convert_{CONVERTERS[family, prefix]}_to_diffusers"
    convert = getattr(import_module("diffusers.loaders.lora_conversion_utils"), converter)
    # It drops Flux.2's modulations, and would cut A of HunyuanVideo's refiner as if it were B.
    apart = re.compile("modulation_img|refiner")
    given = {n: torch.from_numpy(v.copy()) for n, v in tensors.items() if not apart.search(n)}
    made = convert(given)
    wanted = {
        name.removesuffix(".lora_A.weight"): (made[name], made[name.replace("lora_A", "lora_B")])
        for name in made
        if name.endswith(".lora_A.weight")
    }
    found = {path: v for path, v in rows.products(adapter).items() if not apart.search(path)}
    assert found.keys() == wanted.keys()
    for path, value in found.items():
        expected = product(*wanted[path])
        np.testing.assert_allclose(value, expected, atol=1e-6 * np.abs(expected).max())


def product(a, b):
    return b.double().numpy() @ (a.double().numpy() @ rows.probe(a.shape[1]))
