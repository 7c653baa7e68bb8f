import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from store_makers import add, make_manifest, make_record

from adaptrix.schema import media_types
from adaptrix.schema.digest import Digest
from adaptrix.schema.errors import (
    FormatError,
    InvalidReference,
    NotFound,
    StoreError,
    UsageError,
)
from adaptrix.schema.manifest import Manifest
from adaptrix.schema.record import SourceFile, SourceRecord
from adaptrix.store.faults import StoreReadOnly
from adaptrix.store.home import AmbiguousDigest, Home
from adaptrix.store.verifier import MissingBlob


def test_a_new_home_is_an_oci_layout(home):
    assert json.loads((home.path / "oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}
    assert json.loads((home.path / "index.json").read_text())["manifests"] == []
    assert home.notices == []
    assert home.versions() == ()
    assert not home.read_only


def test_open_without_create(tmp_path):
    with pytest.raises(NotFound) as caught:
        Home.open(tmp_path / "none", create=False)
    assert (caught.value.exit_status, caught.value.code) == (5, "no_home")
    assert not (tmp_path / "none").exists()


def test_a_folder_with_something_else_is_left_alone(tmp_path):
    (tmp_path / "letters.txt").write_text("dear")
    with pytest.raises(UsageError, match="something else"):
        Home.open(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["letters.txt"]
    with pytest.raises(UsageError, match="file"):
        Home.open(tmp_path / "letters.txt")


def test_an_empty_folder_with_hidden_files_will_do(tmp_path):
    (tmp_path / ".keep").touch()
    (tmp_path / "lost+found").mkdir()
    with Home.open(tmp_path) as opened:
        assert opened.versions() == ()


def test_a_damaged_marker_is_written_anew(home):
    (home.path / "oci-layout").write_text("{")
    with Home.open(home.path):
        pass
    assert json.loads((home.path / "oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}


def test_a_version_comes_back_as_it_was(home):
    manifest = make_manifest(home.blobs, 1)
    digest = home.add_version(manifest)
    assert digest == manifest.digest
    assert home.manifest(digest) == manifest
    assert home.blobs.read(digest) == manifest.to_bytes()
    assert home.add_version(manifest) == digest
    (entry,) = home.versions()
    assert entry.digest == digest
    assert entry.ranks == (4,)
    assert entry.capabilities == ("sums", "größer")
    assert entry.size_bytes == sum(layer.size_bytes for layer in manifest.layers)
    assert (entry.format, entry.fidelity, entry.verdict) == ("peft", "exact", "PASS")


def test_announced_bytes_are_kept_as_they_are(home):
    manifest = make_manifest(home.blobs, 1)
    spaced = json.dumps(json.loads(manifest.to_bytes()), indent=1).encode()
    digest = home.add_version(manifest, manifest_bytes=spaced)
    assert digest == Digest.of(spaced)
    assert home.manifest(digest) == manifest
    assert home.reindex().problems == ()
    assert [entry.digest for entry in home.versions()] == [digest]
    assert home.fsck().problems == ()


def test_bytes_that_say_something_else_are_refused(home):
    one, two = make_manifest(home.blobs, 1), make_manifest(home.blobs, 2)
    with pytest.raises(FormatError):
        home.add_version(one, manifest_bytes=two.to_bytes(), config_bytes=two.config_bytes())
    assert home.versions() == ()


def test_a_version_needs_its_files(home):
    manifest = make_manifest(home.blobs, 1)
    home.blobs.place(manifest.layers[1].digest).unlink()
    with pytest.raises(MissingBlob):
        home.add_version(manifest)
    assert home.versions() == ()
    assert not home.blobs.has(manifest.digest)
    home.blobs.place(manifest.layers[1].digest).write_bytes(b"short")
    with pytest.raises(StoreError, match="expected"):
        home.add_version(manifest)


def test_unknown_version(home):
    with pytest.raises(NotFound) as caught:
        home.manifest(Digest.of(b"no"))
    assert caught.value.code == "unknown_version"
    with pytest.raises(FormatError):
        home.manifest(home.blobs.put(b"{}"))


def test_lineage(home):
    first, second = add(home, 1), add(home, 2)
    child = add(home, 3, parents=[first, second])
    assert [(e.parent, e.role, e.weight) for e in home.parents(child)] == [
        (first, "composed_from", 0.1),
        (second, "composed_from", 0.2),
    ]
    assert [edge.child for edge in home.children(first)] == [child]
    assert home.parents(first) == ()


def test_find_by_source_and_tensors(home):
    files = tuple(
        SourceFile(path=f"f{n}", digest=Digest.of(b"%d" % n), size_bytes=1) for n in range(2)
    )
    source = SourceRecord(kind="hub", repository="org/news", files=files)
    news = add(home, 1, source=source)
    math = add(home, 2)
    digests = [Digest.of(b"1"), Digest.of(b"0")]
    assert [e.digest for e in home.find_by_source("org/news", digests)] == [news]
    assert home.find_by_source("org/news", digests[:1]) == ()
    assert home.find_by_source("org/other", digests) == ()
    assert [e.digest for e in home.find_by_source("org/math")] == [math]
    tensors = home.manifest(math).record.tensors_digest
    assert [e.digest for e in home.find_by_tensors(tensors)] == [math]


def test_find_by_prefix(home):
    digest = add(home, 1)
    assert home.find(digest.hex[:7]) == digest
    assert home.find(f"sha256:{digest.hex}") == digest
    for bad in (digest.hex[:6], digest.hex.upper()[:9], "zzzzzzz", "%%%%%%%", "0" * 65):
        with pytest.raises(InvalidReference):
            home.find(bad)
    with pytest.raises(NotFound):
        home.find("0" * 20)


def test_an_ambiguous_prefix_lists_what_fits(home):
    manifest = make_manifest(home.blobs, 1)
    config = manifest.config_descriptor()
    twins = [Digest("abcdef0" + digit * 57) for digit in "12"]
    with home.index.writing() as transaction:
        for twin in twins:
            transaction.add(manifest, digest=twin, manifest_bytes=1, config=config)
    with pytest.raises(AmbiguousDigest, match="abcdef011111, abcdef022222") as caught:
        home.find("abcdef0")
    assert caught.value.candidates == tuple(twins)
    assert home.find("abcdef01") == twins[0]


def test_a_composition_has_no_conversion(home):
    digest = add(home, 1, conversion=None, recipe={"method": "linear"})
    (entry,) = home.versions()
    assert (entry.digest, entry.format, entry.verdict) == (digest, "composed", "PASS")


def test_adapters_and_search(home):
    math = add(home, 1, description="Small sums 100%_sure", domain="arithmetic")
    news = add(home, 2, description="headlines", domain="press")
    home.references.set("team/math", "v1", math, expected=None, reason="pull")
    home.references.set("news", "latest", news, expected=None, reason="pull")
    index = home.index

    def names(listings):
        return [str(listing.reference) for listing in listings]

    assert names(index.adapters()) == ["news:latest", "team/math:v1"]
    assert names(index.adapters("team/*")) == ["team/math:v1"]
    assert names(index.adapters("*:latest")) == ["news:latest"]
    assert names(index.adapters("'; drop table versions; --")) == []
    assert names(index.search("SUMS arith")) == ["team/math:v1"]
    assert names(index.search("100%_")) == ["team/math:v1"]
    assert names(index.search("%")) == ["team/math:v1"]
    assert names(index.search("phi")) == ["news:latest", "team/math:v1"]
    assert names(index.search("small press")) == []
    assert index.adapters("news")[0].version.digest == news


@pytest.mark.parametrize("pattern", [None, "team/*", "*:v1", "m?th", "'", "[a-m]*"])
@pytest.mark.parametrize(("limit", "after"), [(0, ""), (2, ""), (2, "math:latest"), (0, "x:y")])
def test_pages_without_the_toolkit_are_those_of_the_index(home, pattern, limit, after):
    for number, name in enumerate(("math", "team/math", "news", "math-e")):
        digest = add(home, number, description=f"{name} é 'x'", capabilities=("a", "b"))
        home.references.set(name, "latest", digest, expected=None, reason="pull")
        home.references.set(name, "v1", digest, expected=None, reason="tag")
    with Home.open(home.path) as closed:
        found = closed.adapters(pattern, limit=limit, after=after)
        assert closed._opened is None
    assert found == home.index.adapters(pattern, limit=limit, after=after)
    assert found == home.adapters(pattern, limit=limit, after=after)


def test_a_name_is_resolved_without_the_toolkit(home):
    digest = add(home, 1)
    home.references.set("math", "latest", digest, expected=None, reason="pull")
    with Home.open(home.path) as closed:
        assert closed.target("math", "latest") == digest
        assert closed._opened is None
        assert closed.target("math", "v1") is None
    home.close()
    (home.path / "adaptrix.sqlite3").unlink()
    with Home.open(home.path) as again:
        assert again.target("math", "latest") == digest


def test_a_lost_manifest_is_listed_the_same(home):
    digest = add(home, 1)
    home.references.set("math", "latest", digest, expected=None, reason="pull")
    with home.index.writing() as transaction:
        transaction.forget(digest)
    with Home.open(home.path) as closed:
        (found,) = closed.adapters()
        assert (closed._opened, found.version) == (None, None)


def test_a_file_that_is_no_index_is_left_to_the_index(home):
    digest = add(home, 1)
    home.references.set("math", "latest", digest, expected=None, reason="pull")
    home.close()
    (home.path / "adaptrix.sqlite3").write_bytes(b"no database" * 100)
    with Home.open(home.path) as again:
        assert [str(row.reference) for row in again.adapters()] == ["math:latest"]


def test_read_only_home(mounted):
    place = mounted(2048)
    with Home.open(place / "home") as home:
        digest = add(home, 1)
        home.references.set("math", "latest", digest, expected=None, reason="pull")
    subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
    for index in ("adaptrix.sqlite3", "missing"):
        with Home.open(place / "home") as home:
            assert home.read_only
            assert home.references.get("math", "latest") == digest
            assert home.manifest(digest).digest == digest
            assert len(home.references.log("math", "latest")) == 1
            assert home.fsck().problems == ()
            assert home.gc(dry_run=True).removed == ()
            assert home.du().versions == 1
            assert bool(home.notices) == (index == "missing")
            writes = (
                lambda home=home: add(home, 2),
                lambda home=home: home.references.delete(
                    "math", "latest", expected=digest, reason="rm"
                ),
                lambda home=home: home.gc(),
                lambda home=home: home.reindex(),
                lambda home=home: home.fsck(repair=True),
            )
            for write in writes:
                with pytest.raises(StoreReadOnly, match=str(place)) as caught:
                    write()
                assert caught.value.exit_status == 4
        if index == "adaptrix.sqlite3":
            subprocess.run(["mount", "-o", "remount,rw", str(place)], check=True)
            (place / "home" / "adaptrix.sqlite3").unlink()
            subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)


def test_a_home_that_cannot_be_made(mounted):
    place = mounted(64)
    subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
    with pytest.raises(StoreReadOnly, match=str(place)):
        Home.open(place / "home")
    with pytest.raises(StoreReadOnly, match=str(place)):
        Home.open(place)


def test_pending_changes_of_a_dead_writer_are_seen_in_a_read_only_home(mounted, python):
    place = mounted(4096)
    program = """
import os, sys
from pathlib import Path
from adaptrix.store.home import Home
from store_makers import add
home = Home.open(Path(sys.argv[1]))
digest = add(home, 1)
home.references.set("math", "latest", digest, expected=None, reason="pull")
print(digest, flush=True)
os._exit(9)
"""
    output, errors = python(program, place / "home").communicate(timeout=60)
    digest = Digest.parse(output.strip())
    assert (place / "home" / "adaptrix.sqlite3-wal").stat().st_size > 0, errors
    (place / "home" / "adaptrix.sqlite3-shm").unlink()
    subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
    with Home.open(place / "home") as home:
        assert home.references.get("math", "latest") == digest
        assert home.notices


def fill_up(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def test_a_full_disk_moves_nothing(mounted):
    place = mounted(1024)
    with Home.open(place / "home") as home:
        first, second = add(home, 1), add(home, 2)
        home.references.set("math", "latest", first, expected=None, reason="pull")
        filler = place / "filler"
        with pytest.raises(OSError, match="space"):
            fill_up(filler)
        with pytest.raises(StoreError) as caught:
            home.references.set("math", "latest", second, expected=first, reason="pull")
        assert caught.value.code == "disk_full"
        with pytest.raises(StoreError, match="disk full"):
            add(home, 3)
        filler.unlink()
        assert home.references.get("math", "latest") == first
        assert len(home.references.log("math", "latest")) == 1
        assert home.fsck().problems == ()
        assert home.references.set("math", "latest", second, expected=first, reason="again")
        home.reindex()
        assert home.references.get("math", "latest") == second


def test_opening_a_home_imports_no_sql(tmp_path):
    program = (
        "import sys; from pathlib import Path; from adaptrix.store.home import Home;"
        "Home.open(Path(sys.argv[1])).blobs.put(b'1');"
        "bad = {'sqlmodel', 'sqlalchemy', 'torch', 'numpy', 'transformers'} & set(sys.modules);"
        "print(sorted(bad))"
    )
    package = Path(__file__).parent.parent.parent / "src"
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "home")],
        env={**os.environ, "PYTHONPATH": str(package)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "[]\n"


def test_the_clock_is_in_no_version(home, tmp_path):
    clock = datetime(2001, 1, 1, tzinfo=UTC)
    with Home.open(tmp_path / "other", clock=lambda: clock) as other:
        assert add(home, 1) == add(other, 1)


def test_a_manifest_is_read_by_other_tools(home):
    digest = add(home, 1)
    home.references.set("math", "v1", digest, expected=None, reason="pull")
    listed = json.loads((home.path / "index.json").read_text())
    assert listed["schemaVersion"] == 2
    (entry,) = listed["manifests"]
    assert entry["digest"] == str(digest)
    assert entry["size"] == len(home.blobs.read(digest))
    assert entry["mediaType"] == media_types.MANIFEST
    assert entry["annotations"] == {"org.opencontainers.image.ref.name": "math:v1"}
    document = json.loads(home.blobs.read(digest))
    assert Digest.parse(document["config"]["digest"]) in set(home.blobs.digests())
    assert Manifest.parse(
        home.blobs.read(digest), home.blobs.read(Digest.parse(document["config"]["digest"]))
    ).record == make_record(1)


def test_thousands_of_names_are_not_listed_in_the_file(home):
    from adaptrix.store.layout import MAX_LISTED_REFERENCES, index_bytes

    digest = add(home, 1)
    with home.index.writing() as transaction:
        from adaptrix.store.entries import ReflogEntry

        for number in range(MAX_LISTED_REFERENCES + 1):
            record = Digest.of(b"%d" % number)
            transaction.move(
                f"n{number}",
                "latest",
                ReflogEntry(old=None, new=digest, reason="", time=datetime.now(UTC), record=record),
            )
        home.references.relist(transaction)
    listed = json.loads((home.path / "index.json").read_text())
    assert listed["manifests"] == []
    assert "adaptrix ls" in listed["annotations"]["dev.adaptrix.references-omitted"]
    before = (home.path / "index.json").stat().st_ino
    home.references.set("one-more", "latest", digest, expected=None, reason="")
    assert (home.path / "index.json").stat().st_ino == before
    assert len(index_bytes(home.references.all()[:256], {digest: 1})) > 25_000
