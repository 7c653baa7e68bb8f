"""The short form of ``make fuzz``: seeds with a few bytes changed, cut, doubled or joined."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

conftest = sys.modules.get("tests.conftest") or sys.modules["conftest"]
targets = conftest.load_helper("fuzz_targets", Path(__file__).parent / "targets.py")
EDGES = (0, 1, 0x7F, 0x80, 0xFF)


@st.composite
def mutations(draw, target):
    """A seed, changed at a few places."""
    found = bytearray(draw(st.sampled_from(targets.seeds(target))))
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, max(len(found) - 1, 0)))
        match draw(st.sampled_from(("byte", "edge", "cut", "double", "insert", "drop"))):
            case "byte":
                found[at : at + 1] = bytes([draw(st.integers(0, 255))])
            case "edge":
                width = draw(st.sampled_from((1, 2, 4, 8)))
                found[at : at + width] = bytes([draw(st.sampled_from(EDGES))]) * width
            case "cut":
                del found[at:]
            case "double":
                found[at:at] = found[at : at + draw(st.integers(1, 64))]
            case "insert":
                found[at:at] = draw(st.binary(max_size=16))
            case "drop":
                del found[at : at + draw(st.integers(1, 16))]
    return bytes(found)


@pytest.mark.parametrize("target", targets.TARGETS)
def test_mutated_files_raise_documented_errors_only(target):
    seen = set()

    @settings(
        max_examples=250, deadline=None, derandomize=True, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(mutations(target))
    def run(data):
        seen.add(targets.attempt(target, data))

    run()
    assert "read" in seen
    assert len(seen) >= 2, seen


@pytest.mark.parametrize("target", targets.TARGETS)
def test_every_seed_is_read(target):
    outcomes = [targets.attempt(target, seed) for seed in targets.seeds(target)]
    assert set(outcomes) <= {"read", "no_tensors"}
    assert "read" in outcomes
