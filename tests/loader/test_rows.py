"""One batch, another set of adapters in every row: each row is what it would be alone."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from adaptrix.convert.reading import read_adapter
from adaptrix.convert.source import open_path
from adaptrix.loader.base import BaseModel, load_base
from adaptrix.loader.generate import GenerateOptions
from adaptrix.loader.plan import WeightedAdapter
from adaptrix.loader.session import Session
from adaptrix.loader.structure import structure_of
from adaptrix.samples import ADAPTERS, BASE_NAME
from adaptrix.samples.tasks import read_heldout
from adaptrix.schema.digest import Digest
from adaptrix.schema.errors import IncompatibleAdapter, NotFound, UsageError

conftest = sys.modules.get("tests.conftest") or sys.modules["conftest"]
cases = conftest.load_helper("peft_cases", Path(__file__).parent / "peft_cases.py")
NAMES = sorted(cases.CASES)


def base_of(model, dtype=torch.float32):
    return BaseModel(
        name="tiny", model=model, tokenizer=None, structure=structure_of(model, "tiny"),
        config_digest=Digest.of(b""), dtype=dtype, compute_dtype=dtype,
        device=torch.device("cpu"),
    )  # fmt: skip


def read(folder, name):
    reading = read_adapter(open_path(folder))
    assert reading.adapter is not None, reading.inspection.problems
    return WeightedAdapter(name=name, adapter=reading.adapter)


@pytest.fixture(scope="module")
def adapters(tmp_path_factory):
    """Every PEFT case, with PEFT's own logits."""
    folder = tmp_path_factory.mktemp("cases")
    wanted, found = {}, []
    for number, name in enumerate(NAMES):
        ids, wanted[name] = cases.save_case(name, folder / name, seed=number + 1)
        found.append(read(folder / name, name))
    return found, ids, wanted


def in_rows(session, ids, sets):
    plans = [session.plan_for(weights) for weights in sets]
    with session.rows(plans, range(len(sets))), torch.no_grad():
        return session.base.model(input_ids=ids).logits


def test_every_row_of_a_mixed_batch_is_pefts_own(adapters):
    found, ids, wanted = adapters
    session = Session(base_of(cases.tiny_phi()), found, mode="attached")
    with torch.no_grad():
        plain = session.base.model(input_ids=ids).logits
    sets = [{name: 1.0} for name in NAMES] + [{}]
    got = in_rows(session, ids[:1].expand(len(sets), -1), sets)
    for row, name in enumerate(NAMES):
        scale = wanted[name].abs().max()
        assert (got[row] - wanted[name][0]).abs().max() <= 1e-5 * scale, name
        assert (got[row] - plain[0]).abs().max() > 1e-2 * scale, name
    assert (got[-1] - plain[0]).abs().max() <= 1e-5 * plain.abs().max()
    with torch.no_grad():
        assert torch.equal(session.base.model(input_ids=ids).logits, plain)
    assert not any("forward" in module.__dict__ for module in session.base.model.modules())


def test_rows_have_their_own_weights(adapters):
    found, ids, _ = adapters
    names = ("lora", "rslora", "patterns", "lora_bias")
    sets = [{"lora": 0.7, "rslora": -1.3}, {"lora": 0.2}, {"patterns": 2.0, "lora_bias": 0.5}, {}]
    chosen = [entry for entry in found if entry.name in names]
    mixed = Session(base_of(cases.tiny_phi()), chosen, mode="attached")
    got = in_rows(mixed, ids[:1].expand(4, -1), sets)
    merged = Session(base_of(cases.tiny_phi()), chosen, mode="merged")
    for row, weights in enumerate(sets):
        merged.use(weights)
        with torch.no_grad():
            wanted = merged.base.model(input_ids=ids[:1]).logits[0]
        assert (got[row] - wanted).abs().max() <= 1e-5 * wanted.abs().max()


@pytest.mark.parametrize(("dtype", "bound"), [(torch.bfloat16, 2e-2), (torch.float64, 1e-12)])
def test_rows_equal_solo_runs_in_other_dtypes(adapters, dtype, bound):
    found, ids, _ = adapters
    names = ("lora", "dora", "saved_head", "embedding")
    session = Session(base_of(cases.tiny_phi().to(dtype), dtype), found, mode="attached")
    got = in_rows(session, ids[:1].expand(4, -1), [{name: 1.0} for name in names])
    for row, name in enumerate(names):
        session.use({name: 1.0})
        with torch.no_grad():
            alone = session.base.model(input_ids=ids[:1]).logits[0]
        assert (got[row] - alone).abs().max() <= bound * alone.abs().max(), name


def test_the_present_set_is_back_after_a_mixed_batch(adapters):
    found, ids, wanted = adapters
    session = Session(base_of(cases.tiny_phi()), found, mode="attached")
    session.use({"dora": 1.0})
    in_rows(session, ids, [{"lora": 1.0}, {"embedding": 1.0}])
    with pytest.raises(IncompatibleAdapter, match="cannot be combined"):
        session.plan_for({"dora": 1.0, "lora": 1.0})
    with torch.no_grad():
        got = session.base.model(input_ids=ids).logits
    assert (got - wanted["dora"]).abs().max() <= 1e-5 * wanted["dora"].abs().max()


def test_what_rows_cannot_do_is_said(adapters):
    found, _, _ = adapters
    session = Session(base_of(cases.tiny_phi()), found, mode="attached")
    with pytest.raises(NotFound, match="no adapter 'other'"):
        session.generate([[1], [2]], adapters=[{"other": 1.0}, {}])
    with pytest.raises(UsageError, match="expected 2 sets"):
        session.generate([[1], [2]], adapters=[{}])


def test_a_batch_whose_rows_cannot_be_told_apart_is_refused(adapters):
    found, ids, _ = adapters
    session = Session(base_of(cases.tiny_phi()), found, mode="attached")
    plans = [session.plan_for({"lora": 1.0}), session.plan_for({})]
    with pytest.raises(IncompatibleAdapter, match="cannot be told apart"):
        with session.rows(plans, [0, 1, 0]):
            session.base.model(input_ids=ids)
    assert not any("forward" in module.__dict__ for module in session.base.model.modules())


def test_a_module_that_the_model_never_calls_is_refused(adapters):
    found, ids, _ = adapters
    model = cases.tiny_phi()
    mlp = model.model.layers[1].mlp
    # Some fast paths read a weight and pass its module by.
    mlp.forward = lambda x: mlp.fc2(mlp.activation_fn(nn.functional.linear(
        x, mlp.fc1.weight, mlp.fc1.bias)))  # fmt: skip
    session = Session(base_of(model), found, mode="attached")
    session.use({"lora": 1.0})
    with pytest.raises(IncompatibleAdapter, match=r"layers\.1\.mlp\.fc1"), torch.no_grad():
        model(input_ids=ids)


@pytest.fixture(scope="module")
def samples():
    known = []
    for sample in ADAPTERS:
        reading = read_adapter(open_path(sample.path))
        assert reading.adapter is not None
        known.append(WeightedAdapter(name=sample.name, adapter=reading.adapter))
    return known


@pytest.mark.parametrize("mode", ["merged", "attached"])
def test_a_mixed_batch_writes_what_each_row_writes_alone(samples, mode):
    session = Session(load_base(BASE_NAME), samples, mode=mode)
    exercises = [read_heldout(sample.name)[7] for sample in ADAPTERS]
    prompts = [exercise.prompt for exercise in exercises] + [exercises[0].prompt] * 2
    sets = [{sample.name: 1.0} for sample in ADAPTERS] + [{}, {"math": 0.6, "code": 0.8}]
    options = GenerateOptions(max_new_tokens=24)
    assert len({len(session.base.tokenizer(prompt).input_ids) for prompt in prompts}) > 2
    mixed = session.generate(prompts, options, adapters=sets)
    for prompt, weights, got in zip(prompts, sets, mixed, strict=True):
        session.use(weights)
        assert got.text == session.generate([prompt], options)[0].text
    assert mixed[0].text.strip() == exercises[0].answer
    assert mixed[0].text != mixed[5].text
