"""Merged and attached models give PEFT's own logits, and leave the base bit-identical."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import pytest
import torch

from adaptrix.convert.reading import read_adapter
from adaptrix.convert.source import open_path
from adaptrix.loader.base import BaseModel
from adaptrix.loader.plan import WeightedAdapter, plan
from adaptrix.loader.session import Session
from adaptrix.loader.structure import structure_of
from adaptrix.schema.digest import Digest
from adaptrix.schema.errors import IncompatibleAdapter
from adaptrix.schema.report import Verdict

conftest = sys.modules.get("tests.conftest") or sys.modules["conftest"]
cases = conftest.load_helper("peft_cases", Path(__file__).parent / "peft_cases.py")


def base_model(dtype=torch.float32):
    model = cases.tiny_phi().to(dtype).to(torch.float32)
    return BaseModel(
        name="tiny", model=model, tokenizer=None, structure=structure_of(model, "tiny"),
        config_digest=Digest.of(b""), dtype=dtype, compute_dtype=torch.float32,
        device=torch.device("cpu"),
    )  # fmt: skip


def adapter_of(folder, name="a", weight=1.0):
    reading = read_adapter(open_path(folder))
    assert reading.adapter is not None, reading.inspection.problems
    return WeightedAdapter(name=name, adapter=reading.adapter, weight=weight)


def logits(base, ids):
    with torch.no_grad():
        return base.model(input_ids=ids).logits


def state(base):
    return {name: value.clone() for name, value in base.model.state_dict().items()}


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one) and len(one) == len(other)


@pytest.mark.parametrize("mode", ["merged", "attached"])
@pytest.mark.parametrize("name", sorted(cases.CASES))
def test_logits_equal_pefts(tmp_path, name, mode):
    ids, wanted = cases.save_case(name, tmp_path)
    base = base_model()
    before, untouched = state(base), logits(base, ids)
    session = Session.open(base, [adapter_of(tmp_path)], mode=mode)
    got = logits(base, ids)
    scale = wanted.abs().max()
    assert (wanted - untouched).abs().max() > 0.05 * scale
    assert (got - wanted).abs().max() <= 1e-5 * scale
    assert session.check.verdict is Verdict.PASS
    if mode == "attached":
        assert same(before, state(base))
    session.detach()
    assert same(before, state(base))
    assert torch.equal(logits(base, ids), untouched)


def test_base_is_bit_identical_after_any_order(tmp_path):
    adapters = []
    for number, name in enumerate(("lora", "rslora", "patterns")):
        cases.save_case(name, tmp_path / name, seed=number)
        adapters.append(adapter_of(tmp_path / name, name))
    base = base_model(torch.float16)
    before = state(base)
    for mode in ("merged", "attached"):
        session = Session.open(base, adapters, mode=mode)
        for order in itertools.permutations(("lora", "rslora", "patterns")):
            for name in order:
                session.use({name: 0.7})
                session.use({n: 1.0 for n in order if n != name})
        session.detach()
        assert same(before, state(base))


def test_failure_in_the_middle_restores_the_base(tmp_path):
    cases.save_case("lora", tmp_path)
    good = adapter_of(tmp_path)
    base = base_model()
    before = state(base)
    from dataclasses import replace

    def broken():
        raise OSError("disk gone")

    last = good.adapter.modules[-1]
    modules = (*good.adapter.modules[:-1], replace(last, b=replace(last.b, load=broken)))
    bad = replace(good, adapter=replace(good.adapter, modules=modules))
    for mode in ("merged", "attached"):
        session = Session(base, [bad], mode=mode)
        with pytest.raises(OSError, match="disk gone"):
            session.use({"a": 1.0})
        assert same(before, state(base))


def test_merged_is_one_rounding_of_the_float64_sum(tmp_path):
    cases.save_case("lora", tmp_path / "x", seed=1)
    cases.save_case("rslora", tmp_path / "y", seed=2)
    base = base_model(torch.float16)
    before = state(base)
    pair = [adapter_of(tmp_path / "x", "x", 0.6), adapter_of(tmp_path / "y", "y", -1.3)]
    Session.open(base, pair, mode="merged")
    for entry in pair:
        for module in entry.adapter.modules:
            weight = before[f"{module.path}.weight"].double()
            for other in pair:
                for part in other.adapter.modules:
                    if part.path == module.path:
                        a = torch.frombuffer(bytearray(part.a.load()), dtype=torch.float32)
                        b = torch.frombuffer(bytearray(part.b.load()), dtype=torch.float32)
                        b, a = b.reshape(part.b.shape).double(), a.reshape(part.a.shape).double()
                        weight = weight + other.weight * part.scale.value * b @ a
            got = base.model.get_parameter(f"{module.path}.weight").double()
            half_step = torch.finfo(torch.float16).eps / 2 * weight.abs() + 2e-6
            assert bool(((got - weight).abs() <= half_step).all())


def test_wrong_base_lists_who_wants_what(tmp_path):
    cases.save_case("lora", tmp_path)
    entry = adapter_of(tmp_path)
    from transformers import PhiConfig, PhiForCausalLM

    other = PhiForCausalLM(PhiConfig(vocab_size=48, hidden_size=32, intermediate_size=64,
                                     num_hidden_layers=1, num_attention_heads=2))  # fmt: skip
    with pytest.raises(IncompatibleAdapter, match="a was made for") as caught:
        plan(structure_of(other, "other"), [entry])
    assert caught.value.exit_status == 1
    assert "model.layers.0.self_attn.q_proj is 32 -> 32 in the base and 16 -> 16" in str(
        caught.value
    )


def test_zero_update_is_inconclusive_and_lost_update_fails(tmp_path):
    from dataclasses import replace

    cases.save_case("lora", tmp_path)
    entry = adapter_of(tmp_path)
    zeros = tuple(
        replace(m, b=replace(m.b, load=lambda m=m: bytes(m.b.size_bytes)))
        for m in entry.adapter.modules
    )
    zero = replace(entry, adapter=replace(entry.adapter, modules=zeros))
    assert Session.open(base_model(), [zero]).check.verdict is Verdict.INCONCLUSIVE
    tiny = replace(entry, weight=1e-9)
    session = Session.open(base_model(torch.float16), [tiny])
    assert session.check.verdict is Verdict.FAIL
    with pytest.raises(IncompatibleAdapter, match="changed nothing"):
        session.self_check()
