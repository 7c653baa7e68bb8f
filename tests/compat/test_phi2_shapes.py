"""The proof of benchmarks/phi2_proof.py in short, and the same for the bundled samples."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from adaptrix import Registry
from adaptrix.convert.arrays import to_numpy_f64
from adaptrix.samples import SAMPLES_DIR
from adaptrix.samples.adapter_training import load_base
from adaptrix.samples.deltas import sample_deltas
from adaptrix.samples.tasks import TASKS

conftest = sys.modules.get("tests.conftest") or sys.modules["conftest"]
proof = conftest.load_helper(
    "phi2_proof", Path(__file__).parents[2] / "benchmarks" / "phi2_proof.py"
)

# Warnings of PEFT and transformers about each other and about the base's name are not ours.
pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
WHOLE = proof.Configuration(8, 16, proof.FOUR, whole_rows=1024, dtype=np.float16)
WIDEST = proof.Configuration(64, 16, proof.SIX, rslora=True)


@pytest.mark.parametrize("layout", proof.LAYOUTS)
@pytest.mark.parametrize(("case", "count"), [(WIDEST, 6), (WHOLE, 4 + 3)], ids=["rslora", "whole"])
def test_full_width_in_every_naming(tmp_path, layout, case, count):
    source, out = tmp_path / "source", tmp_path / "out"
    proof.write_source(source, case, layout, 1)
    with Registry(tmp_path / "home") as registry:
        proof.convert(registry, source, out)
    errors = dict(proof.update_errors(source, out, case, layout, 1))
    assert len(errors) == count
    assert max(errors.values()) == 0
    found = proof.logit_errors(out, proof.base_model(1, 1024))
    assert found["missing"] == found["unexpected"] == found["back"] == 0
    assert max(found["attached"], found["merged"]) <= 1e-5 < found["effect"]


@pytest.mark.parametrize("task", TASKS)
def test_samples_in_peft_equal_ours_and_the_dense_sum(tmp_path, task):
    with Registry(tmp_path / "home") as registry:
        proof.convert(registry, SAMPLES_DIR / "adapters" / task, tmp_path / "out")
    model, _ = load_base()
    untouched = proof.logits(model)
    found = proof.logit_errors(tmp_path / "out", model)
    assert found["missing"] == found["unexpected"] == found["back"] == 0
    assert max(found["attached"], found["merged"]) <= 1e-5 < found["effect"]
    assert torch.equal(proof.logits(model), untouched)


@pytest.mark.parametrize("task", TASKS)
def test_samples_update_equals_the_source_files(tmp_path, task):
    with Registry(tmp_path / "home") as registry:
        registry.pull(str(SAMPLES_DIR / "adapters" / task), name=task)
        adapter = registry.open(task).adapter
        wanted = sample_deltas(task)
        assert {module.path for module in adapter.modules} == set(wanted)
        for module in adapter.modules:
            a, b = (torch.from_numpy(to_numpy_f64(t)) for t in (module.a, module.b))
            got = module.scale.value * (b @ a)
            assert (got - wanted[module.path]).abs().max() <= 1e-15
