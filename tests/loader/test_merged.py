"""Merged mode over mapped float16 files: values, checks, and what the files look like after."""

from __future__ import annotations

import hashlib
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from adaptrix.loader.checks import rows_are_exact
from adaptrix.loader.held import HeldEmbedding, HeldLinear
from adaptrix.loader.plan import plan
from adaptrix.loader.session import Session
from adaptrix.schema.errors import IntegrityError
from adaptrix.schema.report import Verdict

conftest = sys.modules.get("tests.conftest") or sys.modules["conftest"]
half = conftest.load_helper("half_checkpoints", Path(__file__).parent / "half_checkpoints.py")
IDS = torch.arange(24).reshape(2, 12)


@pytest.fixture(scope="module")
def base_folder(tmp_path_factory):
    return half.checkpoint(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def adapters(base_folder, tmp_path_factory):
    root = tmp_path_factory.mktemp("adapters")
    return [half.peft_adapter(base_folder, root / f"a{n}", n, r=2 + n) for n in range(3)]


def logits(model):
    with torch.no_grad():
        return model(input_ids=IDS).logits


def pefts_logits(base_folder, folder):
    model = AutoModelForCausalLM.from_pretrained(base_folder, dtype=torch.float32)
    return logits(PeftModel.from_pretrained(model, str(folder)).eval())


def exact_weight(before, entries, path):
    """W + Σ w·s·B·A in float64, from the tensors of the files."""
    total = before.double()
    for entry in entries:
        for module in entry.adapter.modules:
            if module.path == path:
                a, b = (
                    torch.frombuffer(bytearray(t.load()), dtype=torch.float32)
                    .reshape(t.shape)
                    .double()
                    for t in (module.a, module.b)
                )
                total = total + entry.weight * module.scale.value * (b @ a)
    return total


def test_large_base_keeps_float16_views_of_its_files_and_computes_in_float32(base_folder):
    held = half.mapped_base(base_folder)
    small = half.load_base(str(base_folder))
    assert isinstance(held.model.lm_head, HeldLinear)
    assert isinstance(held.model.get_input_embeddings(), HeldEmbedding)
    weight = held.model.lm_head.weight
    assert weight.dtype is torch.float16
    assert any(file.holds(weight.data) for file in held.checkpoint.files)
    assert small.model.lm_head.weight.dtype is torch.float32
    assert (held.dtype, held.compute_dtype) == (small.dtype, small.compute_dtype)
    assert held.config_digest == small.config_digest
    got, wanted = logits(held.model), logits(small.model)
    assert got.dtype is torch.float32
    assert (got - wanted).abs().max() <= 1e-6 * wanted.abs().max()


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_every_merged_weight_is_the_exact_sum_rounded_once(base_folder, adapters, dtype):
    dtype = getattr(torch, dtype)
    base = half.mapped_base(base_folder, dtype=dtype)
    before = {name: value.clone() for name, value in base.model.state_dict().items()}
    entries = [half.weighted(a, w) for a, w in zip(adapters, (0.6, -1.3, 1.0), strict=True)]
    session = Session.open(base, entries)
    assert session.self_check().verdict is Verdict.PASS
    assert len(session.plan.modules) == 12
    for module in session.plan.modules:
        got = base.model.get_parameter(f"{module.path}.weight")
        exact = exact_weight(before[f"{module.path}.weight"], entries, module.path)
        assert got.dtype is dtype
        if dtype is torch.float16:
            # float32 sums may sit on the other side of a tie; never further than that.
            wrong = got != exact.half()
            assert wrong.float().mean() < 1e-3
            step = torch.finfo(dtype).eps * exact.abs() + 2.0**-24
            assert bool(((got.double() - exact).abs() <= 0.5001 * step).all())
        else:
            assert (got.double() - exact).abs().max() <= 1e-7
    session.detach()
    after = base.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_float32_logits_are_pefts(base_folder, adapters):
    base = half.mapped_base(base_folder, dtype=torch.float32)
    plain = logits(base.model)
    for folder in adapters:
        wanted = pefts_logits(base_folder, folder)
        Session.open(base, [half.weighted(folder)])
        got = logits(base.model)
        scale = wanted.abs().max()
        assert (wanted - plain).abs().max() > 1e-2 * scale
        assert (got - wanted).abs().max() <= 1e-5 * scale


@pytest.mark.parametrize(
    "settings",
    [
        {"use_dora": True, "target_modules": ["q_proj", "fc2"]},
        {"target_modules": ["embed_tokens", "lm_head", "v_proj"]},
        {"lora_bias": True, "target_modules": ["dense", "fc1"]},
    ],
    ids=["dora", "embedding", "bias"],
)
def test_other_kinds_of_update_are_pefts_too(base_folder, tmp_path, settings):
    folder = half.peft_adapter(base_folder, tmp_path / "x", 9, **settings)
    base = half.mapped_base(base_folder, dtype=torch.float32)
    session = Session.open(base, [half.weighted(folder)])
    assert session.self_check().verdict is Verdict.PASS
    wanted = pefts_logits(base_folder, folder)
    assert (logits(base.model) - wanted).abs().max() <= 1e-5 * wanted.abs().max()


def test_files_are_never_written(base_folder, adapters):
    def digests():
        return [hashlib.sha256(p.read_bytes()).digest() for p in sorted(base_folder.iterdir())]

    before = digests()
    base = half.mapped_base(base_folder)
    session = Session.open(base, [half.weighted(path) for path in adapters])
    for name in session.known:
        session.use({name: 0.5})
        session.generate(["a"])
    session.detach()
    assert digests() == before


def test_a_base_file_that_changed_is_refused(tmp_path, adapters):
    folder = half.checkpoint(tmp_path)
    base = half.mapped_base(folder)
    session = Session(base, [half.weighted(adapters[0])])
    session.use({"a0": 1.0})
    shard = sorted(folder.glob("*.safetensors"))[0]
    with shard.open("r+b") as stream:
        stream.seek(-2, 2)
        stream.write(b"\1\2")
    with pytest.raises(IntegrityError, match="has changed since it was loaded"):
        session.use({"a0": 0.5})
    assert session.plan.modules == ()


def test_bfloat16_and_float64_bases_round_to_their_own_type(base_folder, adapters):
    entry = half.weighted(adapters[1])
    for dtype in (torch.bfloat16, torch.float64):
        base = half.load_base(str(base_folder), dtype=dtype)
        path = "model.layers.1.mlp.fc1"
        before = base.model.get_parameter(f"{path}.weight").clone()
        session = Session.open(base, [entry])
        assert session.self_check().verdict is Verdict.PASS
        got = base.model.get_parameter(f"{path}.weight")
        exact = exact_weight(before, [entry], path)
        assert got.dtype is dtype
        step = torch.finfo(dtype).eps * exact.abs()
        assert bool(((got.double() - exact).abs() <= step + 1e-18).all())


def test_the_check_sees_a_wrong_row_a_lost_update_and_an_overflow(base_folder, adapters):
    base = half.mapped_base(base_folder)
    entry = half.weighted(adapters[0])
    module = plan(base.structure, [entry]).modules[0]
    before = base.model.get_parameter(f"{module.path}.weight").data
    exact = exact_weight(before, [entry], module.path)
    good = exact.half()
    assert rows_are_exact(before, good, module, torch.float16)
    for row in (0, len(good) - 1):
        bad = good.clone()
        bad[row, 3] += 0.01
        assert not rows_are_exact(before, bad, module, torch.float16)
    # At half of its strength, as a forgotten scale would have it.
    assert not rows_are_exact(before, ((before + exact) / 2).half(), module, torch.float16)
    for weight, code in ((1e-9, "update_lost"), (1e9, "update_overflow")):
        session = Session.open(base, [replace(entry, weight=weight)])
        assert session.check.verdict is Verdict.FAIL
        assert {problem.code for problem in session.check.problems} == {code}
        session.detach()


def test_survival_is_the_projection_of_what_arrived(base_folder, adapters):
    base = half.mapped_base(base_folder)
    entry = half.weighted(adapters[2], 1e-3)
    before = {name: value.double() for name, value in base.model.state_dict().items()}
    session = Session.open(base, [entry])
    for check in session.check.modules:
        name = f"{check.path}.weight"
        wanted = exact_weight(before[name], [entry], check.path) - before[name]
        actual = base.model.get_parameter(name).double() - before[name]
        assert check.survival == pytest.approx(
            float((actual * wanted).sum() / wanted.square().sum()), abs=1e-4
        )
        assert check.error == pytest.approx(float((actual - wanted).norm()), rel=1e-3)
        assert check.expected_norm == pytest.approx(float(wanted.norm()), rel=1e-5)
    assert 0.2 < session.check.survival["worst"] < 0.999


def test_attached_to_a_held_base_is_pefts_too(base_folder, adapters):
    base = half.mapped_base(base_folder)
    before = {name: value.clone() for name, value in base.model.state_dict().items()}
    wanted = pefts_logits(base_folder, adapters[1])
    session = Session.open(base, [half.weighted(adapters[1])], mode="attached")
    assert session.self_check().verdict is Verdict.PASS
    got = logits(base.model)
    assert (got - wanted).abs().max() <= 1e-5 * wanted.abs().max()
    after = base.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert base.model.lm_head.weight.dtype is torch.float16
