"""In which types a base is held, and what a plan says that loading will take."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig

from adaptrix.loader.base import base_structure
from adaptrix.loader.describe import describe_plans
from adaptrix.loader.placement import forecast, place
from adaptrix.loader.plan import plan
from adaptrix.loader.session import Session
from adaptrix.loader.structure import structure_of_config
from adaptrix.loader.workers import SCRATCH_ELEMENTS
from adaptrix.schema.errors import IncompatibleAdapter

conftest = sys.modules.get("tests.conftest") or sys.modules["conftest"]
half = conftest.load_helper("half_checkpoints", Path(__file__).parent / "half_checkpoints.py")

F16, BF16, F32, F64 = torch.float16, torch.bfloat16, torch.float32, torch.float64
LARGE, SMALL = 2_780_000_000, 1_000_000


@pytest.mark.parametrize(
    ("own", "wanted", "device", "parameters", "stored", "dtype", "compute", "held"),
    [
        (F16, None, "cpu", LARGE, F16, F16, F32, True),
        (F16, None, "cpu", SMALL, F32, F16, F32, False),
        (F16, F32, "cpu", LARGE, F16, F32, F32, True),
        (F16, None, "cuda", LARGE, F16, F16, F16, False),
        (BF16, None, "cpu", LARGE, BF16, BF16, BF16, False),
        (BF16, F32, "cpu", LARGE, BF16, F32, F32, True),
        # bfloat16 values are not float16 values: rounded first, then held.
        (BF16, F16, "cpu", LARGE, F16, F16, F32, True),
        (F32, F16, "cpu", LARGE, F16, F16, F32, True),
        (F32, None, "cpu", LARGE, F32, F32, F32, False),
        (F32, F64, "cpu", LARGE, F32, F64, F64, True),
        (F32, F16, "cuda", LARGE, F16, F16, F16, False),
    ],
)
def test_placement(own, wanted, device, parameters, stored, dtype, compute, held):
    found = place(own, wanted, device=device, parameters=parameters)
    assert (found.stored, found.dtype, found.compute, found.held) == (stored, dtype, compute, held)


def test_float16_of_a_phi_2_is_never_bfloat16_and_never_doubles():
    found = place(F16, None, device="cpu", parameters=LARGE)
    assert found.merged is F16
    assert LARGE * found.stored.itemsize < 5.6e9


def test_a_loaded_base_is_what_its_placement_says(tmp_path):
    folder = half.checkpoint(tmp_path / "base")
    adapter = half.weighted(half.peft_adapter(folder, tmp_path / "a", 1))
    structure = base_structure(str(folder))
    assert structure.dtype is F16
    for dtype in (None, F32, BF16, F64):
        base = half.mapped_base(folder, dtype=dtype)
        found = place(
            structure.dtype, dtype, device="cpu", parameters=structure.parameter_count,
            widen_below=0,
        )  # fmt: skip
        fc1 = base.model.get_parameter("model.layers.0.mlp.fc1.weight")
        assert fc1.dtype is found.stored
        assert (base.dtype, base.compute_dtype) == (found.dtype, found.compute)
        before = fc1.data.clone()
        session = Session.open(base, [adapter])
        assert fc1.dtype is found.merged
        session.detach()
        assert torch.equal(fc1.data, before)
        assert fc1.dtype is found.stored


def test_forecast_counts_every_byte(tmp_path):
    folder = half.checkpoint(tmp_path / "base")
    small = half.peft_adapter(folder, tmp_path / "a", 1, target_modules=["q_proj", "fc1"])
    entry = half.weighted(small)
    structure = base_structure(str(folder))
    planned = plan(structure, [entry])
    held = place(F16, None, device="cpu", parameters=structure.parameter_count, widen_below=0)
    found = forecast(planned, structure, held)
    touched = 2 * (40 * 40 + 96 * 40)
    factors = 4 * sum(module.a.count + module.b.count for module in entry.adapter.modules)
    assert found.base_bytes == 2 * structure.parameter_count
    assert found.read_bytes == 2 * touched + factors
    assert found.written_bytes == 2 * touched
    # Merged weights take the place of those in the file: the base's size and no more.
    assert found.memory_bytes == found.base_bytes + factors + 4 * 4 * SCRATCH_ELEMENTS
    attached = forecast(plan(structure, [entry], mode="attached"), structure, held)
    assert attached.written_bytes == 0
    document, lines = describe_plans([planned], structure, torch.device("cpu"), None)
    assert [row["path"] for row in document["sets"][0]["modules"]] == [
        m.path for m in planned.modules
    ]
    assert document["sets"][0]["modules"][0]["adapters"] == [
        {"adapter": "a", "weight": 1.0, "rank": 4, "scale": 1.5, "dora": False}
    ]
    assert lines[-2].startswith("base ")
    assert lines[-2].endswith("merged in float16, computed in float32")


def test_weight_zero_takes_no_part(tmp_path):
    folder = half.checkpoint(tmp_path / "base")
    entry = half.weighted(half.peft_adapter(folder, tmp_path / "a", 1))
    assert plan(base_structure(str(folder)), [replace(entry, weight=0.0)]).modules == ()


def test_what_does_not_fit_is_refused_before_weights_are_looked_for(tmp_path):
    folder = half.checkpoint(tmp_path / "base")
    entry = half.weighted(half.peft_adapter(folder, tmp_path / "a", 1))
    empty = tmp_path / "empty"
    empty.mkdir()
    text = (folder / "config.json").read_text().replace('"hidden_size": 40', '"hidden_size": 48')
    (empty / "config.json").write_text(text)
    with pytest.raises(IncompatibleAdapter, match="a was made for"):
        Session.open(str(empty), [entry])


def test_replacing_one_end_of_a_tied_embedding_is_refused_where_it_would_change_both(tmp_path):
    folder = half.checkpoint(tmp_path / "base")
    settings = {"target_modules": ["v_proj"], "modules_to_save": ["lm_head"]}
    entry = half.weighted(half.peft_adapter(folder, tmp_path / "a", 1, **settings))
    config = AutoConfig.from_pretrained(folder, tie_word_embeddings=True)
    tied = structure_of_config(config, "tied")
    with pytest.raises(IncompatibleAdapter, match="is tied; replacing it would change both"):
        plan(tied, [entry], mode="merged")
    assert plan(tied, [entry], mode="attached").replacements
    assert plan(base_structure(str(folder)), [entry], mode="merged").replacements
