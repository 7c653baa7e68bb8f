"""A short form of benchmarks/detection.py: drawn adapters, and a confidence that is a chance."""

import importlib.util
import sys
from pathlib import Path

import pytest

from adaptrix.convert.architecture.detect import Claims, Observation, detect

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def found():
    sys.path.insert(0, str(BENCHMARKS))
    try:
        spec = importlib.util.spec_from_file_location("detection", BENCHMARKS / "detection.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules["detection"] = module
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(BENCHMARKS))
    import detection_report

    return module.outcomes(module.draw(7, 400)), detection_report


def test_confidence_is_a_probability(found):
    outcomes, measured = found
    rows = measured.rows_of(outcomes, measured_ratios())
    sure = [right for chance, right in rows if chance >= 0.99]
    assert len(sure) > 100
    assert all(sure)
    # 400 cases in 15 bins: sampling alone gives about 0.03.
    assert measured.calibration_error(rows) < 0.06


def test_what_can_be_told_apart_is_told_apart(found):
    outcomes, measured = found
    ratios = measured_ratios()
    alone = [one for one in outcomes if measured.is_identifiable(one)]
    right = [one.ranked(ratios)[0][1] == one.case.family for one in alone]
    assert len(alone) > 150
    assert sum(right) / len(right) > 0.95


def test_families_with_the_same_evidence_share_by_popularity(found):
    outcomes, measured = found
    ratios = measured_ratios()
    groups = 0
    for one in outcomes:
        own = one.counts.get(one.case.family)
        twins = [name for name, counts in one.counts.items() if counts == own and counts]
        if len(twins) > 1:
            groups += 1
            chances = {name: chance for chance, name in one.ranked(ratios)}
            assert all(chances[name] < 1 for name in twins)
    assert groups > 20


def measured_ratios():
    from adaptrix.convert.architecture.weights import RATIOS

    return RATIOS


LLAMA = "model.layers.{}.self_attn.{}_proj"


def seen(names, layers=2, shapes=None):
    shapes = shapes or {}
    return [
        Observation(
            path=name.format(i), out_features=shapes.get(name, (0, 0))[0],
            in_features=shapes.get(name, (0, 0))[1],
        )
        for i in range(layers) for name in names
    ]  # fmt: skip


EXPERTS = {
    "one module each, older class": ["model.layers.{}.block_sparse_moe.experts.0.w1", "model.layers.{}.block_sparse_moe.experts.1.w1"],
    "slices of the parameter": ["model.layers.{}.mlp.experts.gate_up_proj.0", "model.layers.{}.mlp.experts.down_proj.1"],
    "the gate": ["model.layers.{}.block_sparse_moe.gate"],
}  # fmt: skip


@pytest.mark.parametrize("names", EXPERTS.values(), ids=list(EXPERTS))
def test_experts_in_every_naming_are_known(names):
    found = detect(seen(names), Claims(base_name="mistralai/Mixtral-8x7B-v0.1"))
    assert found.family == "mixtral"


def test_a_wrapped_model_is_told_by_what_is_inside():
    names = ["backbone.encoder.layer.{}.attention.self.query", "backbone.encoder.layer.{}.attention.self.value"]  # fmt: skip
    found = detect(seen(names, 12), Claims())
    assert "bert" in [c.family for c in found.candidates]
    assert found.confidence < 0.9


def test_phi2_by_its_dimensions_and_not_stablelm():
    names = ["model.layers.{}.self_attn.dense", "model.layers.{}.mlp.fc1", "model.layers.{}.mlp.fc2"]  # fmt: skip
    shapes = dict(zip(names, [(2560, 2560), (10240, 2560), (2560, 10240)], strict=True))
    found = detect(seen(names, 32, shapes), Claims())
    assert found.family == "phi"
    assert found.confidence > 0.99
    assert [base.name for base in found.matches] == ["microsoft/phi-2"]


def test_a_known_base_comes_before_another_familys_defaults():
    """Two layers of Llama-2's width, which Qwen3's default configuration has as well."""
    seen = [
        Observation(path=f"model.layers.{i}.self_attn.{p}", out_features=4096, in_features=4096)
        for i in range(2)
        for p in ("q_proj", "k_proj")
    ]
    assert detect(seen, Claims()).candidates[0].family == "llama"
