"""diffusers' former files, which have no scale: it is in the factors, as diffusers loads them."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("diffusers", reason="make test-engines installs it")
conftest = sys.modules.get("tests.conftest") or sys.modules["conftest"]
made = conftest.load_helper("diffusion_models", Path(__file__).parent / "diffusion_models.py")
theirs = conftest.load_helper("engine_diffusers", Path(__file__).parent / "test_diffusers.py")


def test_scales_are_multiplied_into_files_that_have_none(tmp_path):
    pairs = made.factors(made.layers(made.unet(), *theirs.ATTENTION))
    raw = made.save(theirs.kohya(pairs, theirs.flat_unet), tmp_path / "raw" / "x.safetensors")
    adapter = made.converted(raw)
    assert len({m.scale.value for m in adapter.modules}) == len(theirs.ALPHAS)
    path = made.written(adapter, "diffusers-old", tmp_path / "old")
    wanted = made.unet_output(made.with_dense_updates(made.unet(), adapter, "unet"))
    got, base = made.unet_output(theirs.load_unet(path)), made.unet_output(made.unet())
    assert np.abs(got - wanted).max() <= 1e-5 * np.abs(wanted).max()
    assert np.abs(base - wanted).max() > 0.01 * np.abs(wanted).max()
