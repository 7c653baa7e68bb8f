"""Faults around the store: locks that lie, readers of a file that is rewritten, masks, names."""

from __future__ import annotations

import json
import os
import stat
import threading

import pytest
from store_makers import add

from adaptrix.registry.registry import Registry
from adaptrix.schema.errors import InvalidReference
from adaptrix.store.home import Home

LIES = """
import fcntl
fcntl.flock = lambda *_: None  # as on a file system that grants every lock
import sys
from pathlib import Path
from store_makers import add
from adaptrix.store.home import Home
from adaptrix.store.references import ReferenceConflict
role, path = sys.argv[1], Path(sys.argv[2])
with Home.open(path) as home:
    for seed in range(20):
        if role == "collector":
            home.gc()
            continue
        digest = add(home, seed)
        before = home.references.get("math", "latest")
        try:
            home.references.set("math", "latest", digest, expected=before, reason="pull")
        except ReferenceConflict:
            pass
"""


def test_locks_that_are_granted_to_everybody_lose_nothing(python, tmp_path):
    path = tmp_path / "home"
    with Home.open(path) as home:
        named = add(home, 99)
        home.references.set("other", "latest", named, expected=None, reason="pull")
    running = [python(LIES, role, path) for role in ("writer",) * 4 + ("collector",) * 2]
    results = [process.communicate(timeout=120) for process in running]
    assert [errors for _, errors in results] == [""] * 6
    with Home.open(path) as home:
        report = home.fsck()
        assert report.problems == ()
        assert report.versions == 21
        moves = home.references.log("math", "latest")
        assert [move.old for move in moves[:-1]] == [move.new for move in moves[1:]]


def test_the_list_of_names_is_whole_at_every_moment(home):
    """``index.json`` is replaced, never written into: other tools may read it at any time."""
    digests = [add(home, seed) for seed in range(2)]
    home.references.set("m0", "latest", digests[0], expected=None, reason="")
    read, stop, broken = [], threading.Event(), []

    def look():
        while not stop.is_set():
            try:
                read.append(len(json.loads((home.path / "index.json").read_bytes())["manifests"]))
            except (OSError, ValueError, KeyError) as error:
                broken.append(error)

    reader = threading.Thread(target=look)
    reader.start()
    try:
        for number in range(1, 60):
            home.references.set(
                f"m{number}", "latest", digests[number % 2], expected=None, reason=""
            )
    finally:
        stop.set()
        reader.join()
    assert broken == []
    assert read == sorted(read)
    assert len(json.loads((home.path / "index.json").read_bytes())["manifests"]) == 60


def test_a_strict_mask_keeps_others_out_and_the_owner_in(tmp_path):
    before = os.umask(0o077)
    try:
        with Home.open(tmp_path / "home") as home:
            digest = add(home, 1)
            home.references.set("math", "latest", digest, expected=None, reason="")
    finally:
        os.umask(before)
    for path in [tmp_path / "home", *(tmp_path / "home").rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0 or path.parent.name == "sha256", path
    with Home.open(tmp_path / "home") as home:
        assert home.fsck().problems == ()


@pytest.mark.parametrize(
    "name",
    ["../x", "/abs", "C:\\x", "\\\\host\\share", "a/./b", "a//b", "a.", " a", "a\0", "a\nb", "A", "тeam",
     "a" * 300, "a--b", "-x", "%2e%2e%2fx", "..", "x:../../y", "x:a/b", "x:" + "t" * 200, "e\u0301", "é"],
)  # fmt: skip
def test_a_name_from_outside_never_forms_a_path(tmp_path, name):
    with Home.open(tmp_path / "home") as home:
        digest = add(home, 1)
        home.references.set("math", "latest", digest, expected=None, reason="")
    before = sorted(
        path.relative_to(tmp_path) for path in tmp_path.rglob("*") if "tmp" not in path.parts
    )
    with Registry(tmp_path / "home") as registry:
        for act in (
            lambda: registry.pull("./nothing", name=name),
            lambda: registry.compose(["math"], output=name),
            lambda: registry.rm(name),
            lambda: registry.show(name),
        ):
            with pytest.raises(InvalidReference) as caught:
                act()
            assert "\n" not in str(caught.value)
    after = sorted(
        path.relative_to(tmp_path) for path in tmp_path.rglob("*") if "tmp" not in path.parts
    )
    assert after == before


@pytest.mark.parametrize(
    "name", ["con", "nul", "head", "v2", "api", "x.git", "blobs", "index.json", "tmp"]
)
def test_names_that_mean_something_elsewhere_are_names_here(home, name):
    """They stand in SQLite and in records, so that no file system can take them amiss."""
    digest = add(home, 1)
    for tag in ("HEAD", "a" * 40, "sha256-" + "0" * 64):
        home.references.set(name, tag, digest, expected=None, reason="")
        assert home.references.get(name, tag) == digest
    assert home.fsck().problems == ()
    with Registry(home.path) as registry:
        assert registry.digest(f"{name}:HEAD") == digest
