"""The measurement of composed skills: its settings exist, and a row is what it says."""

from __future__ import annotations

import pytest

from adaptrix.compose.combine import accepted
from adaptrix.compose.methods import METHODS, find
from adaptrix.samples import composed_skills as skills


def test_every_method_is_measured_with_parameters_that_it_has():
    measured = {find(name)[0].name for name in skills.GRIDS if name != "learned"}
    assert {name for name in METHODS if not name.startswith("compat:")} <= measured
    for grid in skills.GRIDS.values():
        for setting in grid:
            if setting.method != "learned":
                known = {parameter.name for parameter in accepted(*find(setting.method))}
                assert set(setting.parameters) <= known, setting


def test_a_row_is_measured_and_printed(monkeypatch):
    monkeypatch.setattr(skills, "SEEDS", (0,))
    monkeypatch.setattr(skills, "VALIDATION", 4)
    monkeypatch.setattr(skills, "HELD_OUT", 4)
    bench, tasks = skills.Bench(), ("math", "code")
    alone = bench.scores(bench.adapters["math"], tasks, "heldout", 0)
    assert alone == {"math": 1.0, "code": 0.0}
    row = skills.measure(bench, tasks, "tsv_m")
    assert row.mean >= 0.75
    refused = skills.measure(bench, tasks, "compat:peft-linear")
    assert "equal ranks" in refused.refused
    text = list(skills.lines([refused, row], tasks))
    assert text[2].startswith("| tsv_m |")
    assert "refuses:" in text[3]
    base = skills.measure(bench, tasks, "base")
    assert base.mean == pytest.approx(0.0)
