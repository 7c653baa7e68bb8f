"""diff against dense float64 arithmetic, and what it says of settings and cards."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from adaptrix.cli.heat_map import diff_lines, heat_map
from adaptrix.registry.registry import Registry
from adaptrix.samples.deltas import sample_deltas

SAMPLES = Path(__file__).resolve().parents[2] / "samples" / "adapters"


@pytest.fixture
def registry(tmp_path):
    with Registry(tmp_path / "home") as found:
        for name in ("math", "code"):
            found.pull(str(SAMPLES / name), name=name, description=f"does {name}")
        found.compose([("math", 1.0), ("code", 0.5)], output="mix")
        yield found


def test_every_module_equals_the_dense_arithmetic(registry):
    a, b = sample_deltas("math"), sample_deltas("code")
    mixed = {
        path: a.get(path, 0) + 0.5 * b.get(path, 0) for path in {*a, *b}
    }  # the dense composition
    report = registry.diff("math", "mix")
    assert {module.path for module in report.modules} == mixed.keys()
    for module in report.modules:
        one, other = a.get(module.path), mixed[module.path]
        assert module.norm_b == pytest.approx(float(other.norm()), rel=1e-9)
        if one is None:
            assert (module.status, module.cosine, module.share) == ("only_b", None, 1.0)
            continue
        assert module.norm_a == pytest.approx(float(one.norm()), rel=1e-9)
        cosine = float((one * other).sum() / (one.norm() * other.norm()))
        assert module.cosine == pytest.approx(cosine, abs=1e-9)
        share = float((one - other).norm() / (one.norm() + other.norm()))
        assert module.share == pytest.approx(share, abs=1e-7)
        assert module.status == ("same" if module.path not in b else "changed")


def test_the_whole_equals_the_dense_arithmetic(registry):
    a, b = sample_deltas("math"), sample_deltas("code")
    paths = sorted({*a, *b})
    shape = {path: (a.get(path) if path in a else b[path]).shape for path in paths}
    zero = {path: torch.zeros(shape[path], dtype=torch.float64) for path in paths}
    one = torch.cat([a.get(path, zero[path]).flatten() for path in paths])
    other = torch.cat([b.get(path, zero[path]).flatten() for path in paths])
    report = registry.diff("math", "code")
    wanted = float(one @ other / (one.norm() * other.norm()))
    assert report.cosine == pytest.approx(wanted, abs=1e-9)
    share = float((one - other).norm() / (one.norm() + other.norm()))
    assert report.share == pytest.approx(share, rel=1e-9)


def test_a_tiny_change_is_not_lost_in_cancellation(registry):
    registry.compose([("math", 1.0), ("code", 1e-9)], output="near")
    report = registry.diff("math", "near")
    dense = sample_deltas("code")
    for module in report.modules:
        if module.status == "changed" and module.path in dense:
            change = module.share * (module.norm_a + module.norm_b)
            # float32 factors carry the weight with their own rounding.
            assert change == pytest.approx(1e-9 * float(dense[module.path].norm()), rel=1e-4)


def test_the_same_is_the_same(registry):
    registry.tag("math", "v1")
    report = registry.diff("math", "math:v1")
    assert report.same_tensors
    assert {module.status for module in report.modules} == {"same"}
    assert (report.fields, report.card) == ((), ())
    assert report.share == pytest.approx(0.0, abs=1e-7)


def test_settings_and_card_that_differ_are_said(registry):
    report = registry.diff("math", "code")
    said = {entry.field: (entry.a, entry.b) for entry in report.fields}
    assert said["description"] == ("does math", "does code")
    assert said["format"][0] == "peft/phi-l4"
    assert "licence" not in said
    assert any(line.startswith("+# code") for line in report.card)
    lines = list(diff_lines(report))
    assert any("cosine" in line for line in lines)


def test_heat_map_has_a_row_per_layer_and_a_column_per_kind(registry):
    report = registry.diff("math", "mix")
    lines = list(heat_map(report.modules))
    layers = {module.path.split(".")[2] for module in report.modules}
    kinds = {module.path.rpartition(".")[2] for module in report.modules}
    assert len(lines) == len(layers) + len(kinds) + 1
    assert "██" in "".join(lines[len(kinds) : -1])  # k_proj is in one of them only
