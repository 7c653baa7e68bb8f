"""Lineage as a graph, every move of every name, and the way back."""

from __future__ import annotations

from pathlib import Path

import pytest

from adaptrix.cli.graph import log_lines
from adaptrix.registry.registry import Registry
from adaptrix.registry.reports import LogRow
from adaptrix.schema.digest import Digest
from adaptrix.schema.errors import NotFound, UsageError

SAMPLES = Path(__file__).resolve().parents[2] / "samples" / "adapters"


@pytest.fixture
def registry(tmp_path):
    with Registry(tmp_path / "home") as found:
        for name in ("math", "code"):
            found.pull(str(SAMPLES / name), name=name)
        found.compose([("math", 1.0), ("code", 1.0)], output="mix")
        yield found


def row(name, *parents):
    digests = tuple(Digest.of(parent.encode()) for parent in parents)
    return LogRow(
        digest=Digest.of(name.encode()), name=name, role="", depth=0, weight=None,
        source="", description="", parents=digests,
    )  # fmt: skip


def drawn(*rows):
    short = {entry.digest.short: entry.name for entry in rows}
    text = "\n".join(log_lines(rows, graph=True))
    for digest, name in short.items():
        text = text.replace(f"{digest} {name}", name)
    return text.splitlines()


def test_a_diamond_is_drawn_as_git_draws_it():
    rows = (row("d", "b", "c"), row("b", "a"), row("c", "a"), row("a"))
    assert drawn(*rows) == ["* d", "|\\", "* | b", "| * c", "|/", "* a"]


def test_an_octopus_and_a_root_in_between():
    rows = (row("t", "x", "y", "z"), row("x"), row("y", "z"), row("z"))
    assert drawn(*rows) == ["* t", "|\\ \\", "* | | x", " / /", "* | y", "|/", "* z"]


def test_lanes_that_cross_are_drawn_step_by_step():
    rows = (row("t", "a", "b", "c"), row("a", "r"), row("b", "s"), row("c", "r"), row("r", "s"), row("s"))  # fmt: skip
    assert drawn(*rows) == [
        "* t", "|\\ \\", "* | | a", "| * | b", "| | * c", "| |/", "|/|", "* | r", "|/", "* s",
    ]  # fmt: skip


def test_children_come_before_their_parents(registry):
    registry.compose([("mix", 1.0), ("math", 1.0)], output="again")
    rows = registry.log("again")
    assert [r.digest for r in rows] == [
        registry.digest(name) for name in ("again", "mix", "code", "math")
    ] or [r.digest for r in rows] == [
        registry.digest(name) for name in ("again", "mix", "math", "code")
    ]
    place = {r.digest: at for at, r in enumerate(rows)}
    assert all(place[parent] > place[r.digest] for r in rows for parent in r.parents)
    assert {r.digest: r.depth for r in rows}[registry.digest("math")] == 1


def test_a_removed_name_comes_back(registry):
    digest = registry.digest("mix")
    registry.rm("mix")
    with pytest.raises(NotFound):
        registry.digest("mix")
    planned = registry.restore("mix", dry_run=True)
    assert planned.new == digest
    with pytest.raises(NotFound):
        registry.digest("mix")
    assert registry.restore("mix").new == digest
    assert registry.digest("mix") == digest
    assert registry.fsck().verdict == "PASS"


def test_a_moved_tag_goes_back_and_forth(registry):
    old = registry.digest("mix")
    registry.compose([("math", 1.0), ("code", 0.25)], output="mix")
    new = registry.digest("mix")
    assert registry.restore("mix").new == old
    assert registry.restore("mix").new == new
    assert registry.restore("mix", str(old)).new == old
    assert registry.restore("mix", new.hex[:12]).new == new
    reasons = [move.reason for move in registry.reflog("mix")]
    assert reasons[0] == f"restore {new.hex[:12]}"
    assert len(reasons) == 6
    assert registry.verify("mix").verdict == "PASS"


def test_the_reflog_of_all_names_is_newest_first(registry):
    registry.tag("math", "v1")
    moves = registry.reflog()
    assert [move.reference for move in moves] == [
        "math:v1", "mix:latest", "code:latest", "math:latest",
    ]  # fmt: skip
    assert moves[0].old is None
    assert moves[0].time >= moves[-1].time


def test_what_cannot_be_restored_is_refused(registry):
    with pytest.raises(UsageError, match="did not exist"):
        registry.restore("mix")
    with pytest.raises(NotFound):
        registry.restore("never")
    with pytest.raises(NotFound):
        registry.restore("mix", "0" * 12)
