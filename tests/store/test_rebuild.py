import json
import os
import sqlite3
import threading
from datetime import UTC, datetime, timedelta

import pytest
from store_makers import add, make_manifest

from adaptrix.schema import media_types
from adaptrix.schema.digest import Digest
from adaptrix.schema.errors import AdaptrixError
from adaptrix.schema.manifest import Manifest, file_descriptor
from adaptrix.schema.report import Verdict
from adaptrix.store.home import INDEX_FILE, Home
from adaptrix.store.rebuild import chains
from adaptrix.store.references import ReferenceRecord


def fill(home: Home) -> dict[str, Digest]:
    first, second = add(home, 1), add(home, 2)
    child = add(home, 3, parents=[first, second])
    refs = home.references
    refs.set("math", "latest", first, expected=None, reason="pull")
    refs.set("math", "latest", second, expected=first, reason="pull")
    refs.set("math", "v1", first, expected=None, reason="tag")
    refs.set("both", "latest", child, expected=None, reason="compose")
    refs.set("gone", "latest", second, expected=None, reason="tag")
    refs.delete("gone", "latest", expected=second, reason="rm")
    return {"first": first, "second": second, "child": child}


def everything(home: Home) -> dict[str, object]:
    names = [("math", "latest"), ("math", "v1"), ("both", "latest"), ("gone", "latest")]
    return {
        "references": home.references.all(),
        "reflog": {name: home.references.log(*name) for name in names},
        "lineage": home.index.lineage(),
        "versions": [entry.digest for entry in home.versions()],
        "entries": {e.digest: (e.description, e.ranks, e.size_bytes) for e in home.versions()},
        "index.json": (home.path / "index.json").read_bytes(),
    }


def test_a_deleted_index_comes_back(home):
    fill(home)
    before = everything(home)
    home.close()
    for suffix in ("", "-wal", "-shm"):
        (home.path / (INDEX_FILE + suffix)).unlink(missing_ok=True)
    with Home.open(home.path) as again:
        assert everything(again) == before
        assert again.notices == ["the index was rebuilt from the blobs"]
        assert again.fsck().verdict is Verdict.PASS
    with Home.open(home.path) as third:
        assert third.versions()
        assert third.notices == []


def test_reindex_in_place(home):
    fill(home)
    before = everything(home)
    report = home.reindex()
    assert (report.versions, report.references, report.moves) == (3, 3, 6)
    assert report.problems == ()
    assert everything(home) == before


def test_moves_go_on_after_a_rebuild(home):
    versions = fill(home)
    home.reindex()
    refs = home.references
    refs.set("math", "latest", versions["child"], expected=versions["second"], reason="on")
    refs.set("gone", "latest", versions["first"], expected=None, reason="back")
    before = everything(home)
    home.reindex()
    assert everything(home) == before
    assert len(home.references.log("gone", "latest")) == 3


@pytest.mark.parametrize("content", [b"", b"garbage" * 1000, b"SQLite format 3\0" + b"\0" * 4000])
def test_a_damaged_index_is_set_aside(home, content):
    fill(home)
    before = everything(home)
    home.close()
    (home.path / INDEX_FILE).write_bytes(content)
    with Home.open(home.path) as again:
        assert everything(again) == before
        assert again.notices
    aside = list(home.path.glob(f"{INDEX_FILE}.corrupt-*"))
    assert [path.read_bytes() for path in aside] == ([content] if content else [])


def after_sql(home, statement):
    """Fill the home, close it, change its index; what was in it before."""
    fill(home)
    before = everything(home)
    home.close()
    with sqlite3.connect(home.path / INDEX_FILE) as connection:
        connection.execute(statement)
    connection.close()
    return before


def test_an_index_of_another_schema_is_rebuilt(home):
    before = after_sql(home, "PRAGMA user_version = 77")
    with Home.open(home.path) as again:
        assert everything(again) == before
        assert "schema 77, expected 2" in again.notices[0]


def test_an_index_without_its_tables_is_rebuilt(home):
    before = after_sql(home, "DROP TABLE reflog")
    with Home.open(home.path) as again:
        assert everything(again) == before


def test_damage_in_the_middle_is_an_error_with_a_way_out(home):
    from adaptrix.schema.errors import StoreError

    for seed in range(60):
        add(home, seed, description="x" * 2000)
    home.close()
    path = home.path / INDEX_FILE
    content = bytearray(path.read_bytes())
    content[-8 * 4096 :] = os.urandom(8 * 4096)
    path.write_bytes(content)
    with Home.open(home.path) as again:
        with pytest.raises(StoreError, match="malformed") as caught:
            again.versions()
        assert caught.value.code == "corrupt_index"
        assert "reindex" in caught.value.hint
        assert again.reindex().versions == 60
        assert len(again.versions()) == 60
        assert again.index.database.integrity(quick=False) == []


def test_without_wal_everything_works(home, tmp_path, monkeypatch):
    """A file system without shared memory refuses WAL: the journal does as well."""
    from adaptrix.store import database

    connect = database._connect

    class Stubborn(sqlite3.Connection):
        def execute(self, sql, *rest):
            return super().execute(sql.replace("= WAL", "= DELETE"), *rest)

    def stubborn(target):
        connect(target).close()
        return sqlite3.connect(target, uri=True, check_same_thread=False, factory=Stubborn)

    monkeypatch.setattr(database, "_connect", stubborn)
    with Home.open(tmp_path / "nfs") as other:
        fill(other)
        assert other.fsck().verdict is Verdict.PASS
        with other.index.database.reading() as session:
            mode = session.connection().exec_driver_sql("PRAGMA journal_mode").scalar_one()
        assert mode == "delete"


def test_pragmas(home):
    with home.index.database.reading() as session:
        connection = session.connection()
        values = [
            connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
            for name in ("journal_mode", "synchronous", "busy_timeout")
        ]
    assert values == ["wal", 2, 30_000]


def test_two_opens_at_once(tmp_path):
    errors: list[AdaptrixError] = []
    barrier = threading.Barrier(6)

    def start() -> None:
        try:
            barrier.wait()
            with Home.open(tmp_path / "home") as opened:
                assert opened.versions() == ()
        except AdaptrixError as error:
            errors.append(error)

    threads = [threading.Thread(target=start) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def test_a_file_of_an_adapter_is_never_a_manifest_or_a_record(home):
    """A pulled README that looks like a record must not rename anything."""
    victim = add(home, 1)
    home.references.set("math", "latest", victim, expected=None, reason="pull")
    spoof = ReferenceRecord(
        name="math",
        tag="latest",
        digest=victim,
        previous=home.references.log("math", "latest")[0].record,
        time=datetime.now(UTC),
        reason="evil",
    ).to_bytes()
    hidden = make_manifest(home.blobs, 5, description="hidden")
    for data in (hidden.to_bytes(), hidden.config_bytes()):
        home.blobs.put(data)
    # Another tool may write into the layout past our own checks.
    place = home.blobs.place(Digest.of(spoof))
    place.write_bytes(spoof)
    good = make_manifest(home.blobs, 6)
    carrier = Manifest(
        record=good.record,
        layers=(
            file_descriptor("README.md", media_types.DOC_RAW, Digest.of(spoof), len(spoof)),
            file_descriptor("a.json", media_types.DOC_RAW, hidden.digest, len(hidden.to_bytes())),
        ),
    )
    home.add_version(carrier)
    report = home.reindex()
    assert report.problems == ()
    assert [e.reason for e in home.references.log("math", "latest")] == ["pull"]
    assert {e.digest for e in home.versions()} == {victim, carrier.digest}


def test_a_version_cannot_be_hidden_by_naming_it_as_a_file(home):
    victim = add(home, 1)
    home.references.set("math", "latest", victim, expected=None, reason="pull")
    size_bytes = home.blobs.size(victim)
    record = make_manifest(home.blobs, 6).record
    layer = file_descriptor("a.json", media_types.DOC_RAW, victim, size_bytes)
    home.add_version(Manifest(record=record, layers=(layer,)))
    home.reindex()
    assert home.index.adapters("math")[0].version.digest == victim


def test_damaged_and_foreign_blobs_are_reported_not_fatal(home):
    versions = fill(home)
    for text in ('{"mediaType":', "[" * 2000, '{"a":1,"a":2}', "{}"):
        home.blobs.put(text.encode())
    manifest = home.blobs.place(versions["child"])
    manifest.chmod(0o644)
    manifest.write_bytes(manifest.read_bytes()[:-1] + b" ")
    broken = home.blobs.put(
        json.dumps(
            {"mediaType": media_types.MANIFEST, "artifactType": media_types.MODEL, "config": 5}
        ).encode()
    )
    report = home.reindex()
    found = {(problem.code, problem.where) for problem in report.problems}
    assert found == {
        ("corrupt_blob", str(versions["child"])),
        ("invalid_manifest", str(broken)),
        ("dangling_reference", "both:latest"),
    }
    assert home.references.get("both", "latest") == versions["child"]
    (listing,) = home.index.adapters("both")
    assert listing.version is None


def record(number: int, previous: Digest | None, *, minute: int = 0) -> ReferenceRecord:
    return ReferenceRecord(
        name="math",
        tag="latest",
        digest=Digest.of(b"%d" % number),
        previous=previous,
        time=datetime(2030, 1, 1, tzinfo=UTC) + timedelta(minutes=minute),
        reason="",
    )


def by_digest(*records: ReferenceRecord) -> dict[Digest, ReferenceRecord]:
    return {Digest.of(r.to_bytes()): r for r in records}


def follow(number: int, before: ReferenceRecord, *, minute: int = 0) -> ReferenceRecord:
    return record(number, Digest.of(before.to_bytes()), minute=minute)


def test_a_move_that_never_happened_loses_to_the_longer_chain():
    start = record(0, None)
    ghost = follow(1, start, minute=50)
    real = follow(2, start, minute=1)
    end = follow(3, real, minute=2)
    chain = chains(by_digest(start, ghost, real, end))["math", "latest"]
    assert [r for _, r in chain] == [start, real, end]


def test_among_equals_the_later_happened():
    start = record(0, None)
    ghost, real = follow(1, start, minute=1), follow(2, start, minute=2)
    chain = chains(by_digest(start, real, ghost))["math", "latest"]
    assert [r for _, r in chain] == [start, real]


def test_a_chain_whose_beginning_was_collected():
    start = record(0, None)
    middle = follow(1, start)
    end = follow(2, middle)
    assert [r for _, r in chains(by_digest(middle, end))["math", "latest"]] == [middle, end]


def test_a_chain_does_not_cross_names():
    other = ReferenceRecord(
        name="news", tag="latest", digest=None, previous=None, reason="",
        time=datetime(2030, 1, 1, tzinfo=UTC),
    )  # fmt: skip
    mine = follow(1, other)
    found = chains(by_digest(other, mine))
    assert [r for _, r in found["math", "latest"]] == [mine]
    assert [r for _, r in found["news", "latest"]] == [other]
