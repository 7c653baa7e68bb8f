"""Compares with an engine, and prints the figures of docs/other-tools.md after the tests."""

from __future__ import annotations

import numpy as np
import pytest

TOLERANCE = 1e-4


def difference(got: np.ndarray, wanted: np.ndarray) -> float:
    """Greatest difference over the greatest magnitude."""
    return float(np.abs(got - wanted).max() / np.abs(wanted).max())


@pytest.fixture
def agree(record_property):
    """Asserts that an engine's output is the wanted one, and is not the base's."""

    def compare(got: np.ndarray, wanted: np.ndarray, base: np.ndarray | None) -> None:
        record_property("difference", difference(got, wanted))
        assert difference(got, wanted) <= TOLERANCE
        if base is not None:
            record_property("without the adapter", difference(base, wanted))
            assert difference(base, wanted) > 0.01

    return compare


def pytest_terminal_summary(terminalreporter):
    reports = terminalreporter.stats.get("passed", []) + terminalreporter.stats.get("failed", [])
    rows = [report for report in reports if "difference" in dict(report.user_properties)]
    for report in rows:
        figures = ", ".join(f"{name} {value:.2g}" for name, value in report.user_properties)
        terminalreporter.write_line(f"{report.nodeid.rpartition('::')[2]}: {figures}")
