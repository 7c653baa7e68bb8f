import errno
import os
import stat
import subprocess
import threading
import time
from pathlib import Path

import pytest

from adaptrix.schema.digest import Digest
from adaptrix.schema.errors import AdaptrixError, PolicyRefused, StoreError
from adaptrix.store.disk import DiskStore
from adaptrix.store.faults import DiskFull, PlantedLink, StoreReadOnly, translate
from adaptrix.store.verifier import DigestMismatch


@pytest.fixture
def store(tmp_path: Path) -> DiskStore:
    made = DiskStore(tmp_path / "home")
    made.prepare()
    return made


def cut(store: DiskStore, chunk: bytes, partial: str | None) -> None:
    """An attempt that gets so far and then fails."""
    with store.writer(partial=partial) as sink:
        sink.write(chunk)
        raise ConnectionError


def fill_up(store: DiskStore) -> None:
    with store.writer(partial="big") as sink:
        for _ in range(100):
            sink.write(bytes(8192))


def attempts(store: DiskStore) -> list[str]:
    return sorted(path.name for path in store.temporary.iterdir())


def test_layout_on_disk(store):
    digest = store.put(b"abc")
    path = store.path(digest)
    assert path == store.root / "blobs" / "sha256" / digest.hex
    assert stat.S_IMODE(path.stat().st_mode) == 0o444
    assert path.read_bytes() == b"abc"
    assert attempts(store) == []


def test_an_existing_blob_is_kept_and_freshened(store):
    digest = store.put(b"abc")
    path = store.path(digest)
    os.utime(path, (1, 1))
    before = path.stat()
    store.put(b"abc")
    assert path.stat().st_ino == before.st_ino
    assert path.stat().st_mtime > time.time() - 100
    os.utime(path, (1, 1))
    with store.writer(expected_digest=digest) as sink:
        sink.write(b"abc")
    assert path.stat().st_ino == before.st_ino
    assert path.stat().st_mtime > time.time() - 100
    assert attempts(store) == []


def test_a_damaged_blob_of_another_size_is_healed(store):
    digest = store.put(b"abc")
    damage(store, digest, b"ab")
    store.put(b"abc")
    assert store.read(digest) == b"abc"


def test_read_verifies(store):
    digest = store.put(b"abc")
    damage(store, digest, b"abd")
    with pytest.raises(DigestMismatch, match=str(Digest.of(b"abd"))):
        store.read(digest)


def damage(store: DiskStore, digest: Digest, content: bytes) -> None:
    path = store.place(digest)
    path.chmod(0o644)
    path.write_bytes(content)


def test_failed_attempt_leaves_a_part_only_under_its_key(store):
    for partial in (None, "key-1"):
        with pytest.raises(ConnectionError):
            cut(store, b"some", partial)
    assert attempts(store) == ["partial-key-1"]
    assert (store.temporary / "partial-key-1").read_bytes() == b"some"


def test_an_odd_key_is_no_path(store):
    for key in ("../../evil", "a/b", "", "x" * 300, "\udcff", ".."):
        with pytest.raises(ConnectionError):
            cut(store, b"1", key)
    assert len(attempts(store)) == 6
    assert not (store.root.parent / "evil").exists()


def test_a_poisoned_part_is_noticed_and_dropped(store):
    (store.temporary / "partial-k").write_bytes(b"poison")
    wanted = Digest.of(b"abcdefghi")
    with pytest.raises(DigestMismatch):
        with store.writer(expected_digest=wanted, expected_size=9, partial="k") as sink:
            sink.write(b"abcdefghi"[sink.offset :])
    assert attempts(store) == []
    with store.writer(expected_digest=wanted, expected_size=9, partial="k") as sink:
        sink.write(b"abcdefghi")
    assert store.read(wanted) == b"abcdefghi"


def test_two_at_the_same_part_do_not_mix(store):
    with store.writer(partial="k") as first:
        first.write(b"fir")
        with store.writer(partial="k") as second:
            assert second.offset == 0
            second.write(b"second")
        first.write(b"st")
    assert store.read(first.descriptor.digest) == b"first"
    assert store.read(second.descriptor.digest) == b"second"
    assert attempts(store) == []


@pytest.mark.parametrize("folder", ["blobs", "blobs/sha256", "tmp"])
def test_a_planted_folder_link_is_refused(tmp_path, folder):
    root = tmp_path / "home"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (root / folder).parent.mkdir(parents=True)
    (root / folder).symlink_to(elsewhere)
    with pytest.raises(PlantedLink) as caught:
        DiskStore(root).put(b"abc")
    assert caught.value.exit_status == 7
    assert list(elsewhere.iterdir()) == []


def test_a_planted_blob_link_is_refused(store, tmp_path):
    target = tmp_path / "secret"
    target.write_bytes(b"abc")
    store.place(Digest.of(b"abc")).symlink_to(target)
    for ask in (store.read, store.open, store.has, store.size):
        with pytest.raises(PolicyRefused):
            ask(Digest.of(b"abc"))
    with pytest.raises(PlantedLink):
        store.put(b"abc")
    assert target.read_bytes() == b"abc"


def test_a_planted_part_is_refused(store, tmp_path):
    (tmp_path / "secret").write_bytes(b"secret")
    (store.temporary / "partial-k").symlink_to(tmp_path / "secret")
    with pytest.raises(PlantedLink):
        with store.writer(partial="k"):
            pass
    assert (tmp_path / "secret").read_bytes() == b"secret"
    (store.temporary / "partial-f").unlink(missing_ok=True)
    os.mkfifo(store.temporary / "partial-f")
    with pytest.raises(PlantedLink):
        with store.writer(partial="f"):
            pass


def test_a_fifo_in_place_of_a_blob_does_not_block(store):
    os.mkfifo(store.place(Digest.of(b"abc")))
    with pytest.raises(PlantedLink):
        store.open(Digest.of(b"abc"))


def test_foreign_names_are_no_blobs(store):
    store.put(b"abc")
    (store.folder / "README").write_text("hi")
    (store.folder / ("A" * 64)).write_text("hi")
    assert list(store.digests()) == [Digest.of(b"abc")]


def test_sweep_takes_what_the_dead_left(store):
    for name, age_days in (("write-1", 2), ("write-2", 0), ("partial-a", 2), ("partial-b", 8)):
        path = store.temporary / name
        path.write_bytes(b"x")
        old = time.time() - age_days * 86_400
        os.utime(path, (old, old))
    (store.temporary / "folder").mkdir()
    os.utime(store.temporary / "folder", (1, 1))
    assert [path.name for path in store.sweep()] == ["partial-b", "write-1"]


def test_sweep_spares_the_living(store):
    with store.writer() as sink:
        sink.write(b"slow")
        (held,) = store.temporary.iterdir()
        os.utime(held, (1, 1))
        assert store.sweep() == []
    assert store.read(sink.descriptor.digest) == b"slow"


def test_sweep_removes_a_planted_link_not_its_target(store, tmp_path):
    (tmp_path / "target").write_text("mine")
    link = store.temporary / "link"
    link.symlink_to(tmp_path / "target")
    os.utime(link, (1, 1), follow_symlinks=False)
    assert store.sweep() == [link]
    assert (tmp_path / "target").read_text() == "mine"


def test_threads_store_the_same_thing(store):
    errors: list[AdaptrixError] = []

    def put() -> None:
        try:
            for number in range(20):
                store.put(b"%d" % number)
        except AdaptrixError as error:
            errors.append(error)

    threads = [threading.Thread(target=put) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(list(store.digests())) == 20
    assert attempts(store) == []


def test_disk_full_before_and_while_writing(mounted):
    store = DiskStore(mounted(256))
    with pytest.raises(DiskFull) as early:
        with store.writer(expected_size=10_000_000):
            pass
    assert early.value.needed_bytes == 10_000_000
    assert 0 < early.value.free_bytes <= 256 * 1024
    assert early.value.exit_status == 1
    assert early.value.code == "disk_full"
    with pytest.raises(DiskFull, match="disk full"):
        fill_up(store)
    assert attempts(store) == []
    assert store.read(store.put(b"still works")) == b"still works"


def test_read_only_file_system(mounted):
    place = mounted(256)
    store = DiskStore(place)
    digest = store.put(b"abc")
    subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
    assert store.read(digest) == b"abc"
    with pytest.raises(StoreReadOnly, match=str(place)) as caught:
        store.put(b"new")
    assert caught.value.exit_status == 4
    assert caught.value.code == "read_only"


@pytest.mark.parametrize(
    ("number", "kind", "code"),
    [
        (errno.ENOSPC, DiskFull, "disk_full"),
        (errno.EDQUOT, DiskFull, "disk_full"),
        (errno.EROFS, StoreReadOnly, "read_only"),
        (errno.EACCES, StoreReadOnly, "read_only"),
        (errno.ELOOP, PlantedLink, "planted_link"),
        (errno.EMFILE, StoreError, "too_many_files"),
        (errno.EIO, StoreError, "io_error"),
    ],
)
def test_what_the_system_says(tmp_path, number, kind, code):
    error = translate(OSError(number, os.strerror(number)), where=tmp_path)
    assert type(error) is kind
    assert error.code == code
    assert str(tmp_path) in str(error)
    assert "\n" not in str(error)


PROGRAM_TOO_MANY = """
import resource, sys
from pathlib import Path
from adaptrix.schema.errors import AdaptrixError
from adaptrix.store.disk import DiskStore
store = DiskStore(Path(sys.argv[1]))
store.put(b"first")
held = []
resource.setrlimit(resource.RLIMIT_NOFILE, (16, 16))
try:
    while True:
        held.append(open("/dev/null"))
except OSError:
    pass
try:
    store.put(b"second")
except AdaptrixError as error:
    print(error.code, error.exit_status)
"""


def test_too_many_open_files(python, tmp_path):
    running = python(PROGRAM_TOO_MANY, tmp_path / "home")
    output, errors = running.communicate(timeout=60)
    assert output == "too_many_files 1\n", errors


PROGRAM_LIMITED = """
import resource, signal, sys
from pathlib import Path
from adaptrix.schema.errors import StoreError
from adaptrix.store.disk import DiskStore
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
store = DiskStore(Path(sys.argv[1]))
store.prepare()
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    store.put(bytes(10_000))
except StoreError as error:
    print(error.code, len(list(store.digests())), len(list(store.temporary.iterdir())))
"""


def test_a_write_that_the_system_refuses_leaves_nothing(python, tmp_path):
    output, errors = python(PROGRAM_LIMITED, tmp_path / "home").communicate(timeout=60)
    assert output == "io_error 0 0\n", errors


@pytest.mark.parametrize("partial", [None, "k"])
def test_a_failed_sync_publishes_nothing_and_is_not_resumed(store, monkeypatch, partial):
    def broken(_descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(StoreError) as caught:
        with store.writer(partial=partial) as sink:
            sink.write(b"abc")
    assert caught.value.code == "io_error"
    assert list(store.digests()) == []
    assert attempts(store) == []


def test_order_of_publication(store, monkeypatch):
    """File synced, then renamed, then the folder synced: else a power cut loses blobs."""
    calls: list[str] = []
    fsync, rename = os.fsync, Path.rename

    def seen_sync(descriptor: int) -> None:
        calls.append("sync folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "sync file")
        fsync(descriptor)

    def seen_rename(path: Path, target: Path) -> Path:
        calls.append("rename")
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", seen_sync)
    monkeypatch.setattr(Path, "rename", seen_rename)
    with store.writer() as sink:
        sink.write(b"abc")
    assert calls == ["sync file", "rename", "sync folder"]
