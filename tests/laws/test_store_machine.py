"""Whatever order of storing, naming, removing and collecting: nothing that is reached is lost."""

import os
import shutil
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    rule,
)
from store_makers import make_manifest

from adaptrix.schema.digest import Digest
from adaptrix.schema.errors import NotFound
from adaptrix.schema.report import Verdict
from adaptrix.store.home import Home
from adaptrix.store.references import ReferenceConflict

MEMORY = Path("/dev/shm")  # thousands of syncs; their order is tested elsewhere
NAMES = st.sampled_from(["math", "news", "team/code"])


class StoreMachine(RuleBasedStateMachine):
    """A model in three dictionaries, beside a real home."""

    versions = Bundle("versions")

    @initialize()
    def start(self) -> None:
        self.folder = Path(tempfile.mkdtemp(dir=MEMORY if MEMORY.is_dir() else None))
        self.now = datetime.now(UTC)
        self.home = Home.open(self.folder / "home", clock=lambda: self.now)
        self.files: dict[Digest, set[Digest]] = {}
        self.parents: dict[Digest, list[Digest]] = {}
        self.names: dict[str, Digest] = {}
        self.history: dict[str, list[Digest | None]] = {}

    @rule(target=versions, seed=st.integers(0, 5), parents=st.lists(versions, max_size=2))
    def add(self, seed: int, parents: list[Digest]):
        if not all(self.home.blobs.has(parent) for parent in parents):
            return multiple()
        manifest = make_manifest(self.home.blobs, seed, parents=parents)
        digest = self.home.add_version(manifest)
        config = manifest.config_descriptor().digest
        self.files[digest] = {digest, config, *(layer.digest for layer in manifest.layers)}
        self.parents[digest] = parents
        return digest

    @rule(name=NAMES, version=versions)
    def name(self, name: str, version: Digest) -> None:
        before = self.names.get(name)
        self.now += timedelta(seconds=1)
        try:
            moved = self.home.references.set(name, "latest", version, expected=before, reason="set")
        except NotFound:
            assert not self.home.blobs.has(version)
            return
        assert moved == (before != version)
        if moved:
            self.names[name] = version
            self.history.setdefault(name, []).append(version)

    @rule(name=NAMES, version=versions, wrong=versions)
    def conflict(self, name: str, version: Digest, wrong: Digest) -> None:
        if wrong == self.names.get(name) or not self.home.blobs.has(version):
            return
        with pytest.raises(ReferenceConflict) as caught:
            self.home.references.set(name, "latest", version, expected=wrong, reason="set")
        assert caught.value.got == self.names.get(name)

    @rule(name=NAMES)
    def unname(self, name: str) -> None:
        if name in self.names:
            self.now += timedelta(seconds=1)
            self.home.references.delete(name, "latest", expected=self.names.pop(name), reason="rm")
            self.history[name].append(None)

    @rule()
    def rebuild(self) -> None:
        assert self.home.reindex().problems == ()

    @rule()
    def lose_the_index(self) -> None:
        self.home.close()
        for path in (self.folder / "home").glob("adaptrix.sqlite3*"):
            path.unlink()
        self.home = Home.open(self.folder / "home", clock=lambda: self.now)

    @rule(keep_reflog=st.booleans(), grace=st.booleans())
    def collect(self, keep_reflog: bool, grace: bool) -> None:
        for digest in self.home.blobs.digests():
            os.utime(self.home.blobs.place(digest), (1, 1))
        reflog_s = 1e12 if keep_reflog else -1e12
        self.home.gc(grace_s=1e12 if grace else 0, reflog_s=reflog_s)
        if not grace and not keep_reflog:
            reached = self.reached()
            assert {entry.digest for entry in self.home.versions()} == reached
            log = {name: self.home.references.log(name, "latest") for name in self.history}
            assert all(len(log[name]) <= len(self.history[name]) for name in log)
            self.history = {name: [entry.new for entry in reversed(log[name])] for name in log}

    def reached(self) -> set[Digest]:
        found: set[Digest] = set()
        waiting = list(self.names.values())
        while waiting:
            digest = waiting.pop()
            if digest not in found:
                found.add(digest)
                waiting += self.parents[digest]
        return found

    @invariant()
    def what_is_reached_is_there(self) -> None:
        if not hasattr(self, "home"):
            return
        for digest in self.reached():
            for blob in self.files[digest]:
                assert Digest.of(self.home.blobs.read(blob)) == blob
        rows = {row.name: row.digest for row in self.home.references.all()}
        assert rows == self.names
        for name, history in self.history.items():
            log = self.home.references.log(name, "latest")
            assert [entry.new for entry in reversed(log)] == history
            for digest in filter(None, history):
                if any(entry.new == digest for entry in log) and digest in self.names.values():
                    assert self.home.blobs.has(digest)

    def teardown(self) -> None:
        if hasattr(self, "home"):
            assert self.home.fsck().verdict is Verdict.PASS
            self.home.close()
            shutil.rmtree(self.folder)


TestStoreMachine = StoreMachine.TestCase
TestStoreMachine.settings = settings(
    max_examples=40, stateful_step_count=25, deadline=None, derandomize=True
)
