"""docs/reliability.md names tests: each of them is there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "reliability.md").read_text("utf-8")
FOLDERS = [path for path in (ROOT / "tests").rglob("*.py") if "repository" not in path.parts]
DEFINED = {
    name
    for path in FOLDERS
    for name in re.findall(r"^def (test_\w+)", path.read_text("utf-8"), re.M)
}


def test_every_test_that_the_page_names_exists():
    named = set(re.findall(r"`(test_\w+)`", PAGE))
    assert len(named) > 70
    assert named - DEFINED == set()


def test_every_file_that_the_page_names_exists():
    named = set(re.findall(r"`((?:tests|benchmarks)/[\w/]+\.py)`", PAGE))
    assert len(named) > 10
    assert [name for name in sorted(named) if not (ROOT / name).is_file()] == []
    short = set(re.findall(r"`(test_\w+\.py)`", PAGE))
    assert short - {path.name for path in FOLDERS} == set()


def test_every_fault_has_a_row():
    numbers = {int(number) for number in re.findall(r"^\| (\d+) \|", PAGE, re.M)}
    assert numbers == set(range(39, 78))
