"""What every blob store promises, asked of each of them."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from adaptrix.schema import media_types
from adaptrix.schema.canonical import canonical_json
from adaptrix.schema.digest import Digest
from adaptrix.schema.errors import PolicyRefused, StoreError
from adaptrix.store.blobs import BlobStore, MemoryStore
from adaptrix.store.disk import DiskStore
from adaptrix.store.verifier import DigestMismatch, MissingBlob, SizeMismatch

BODY = bytes(range(256)) * 40
SHA = "sha256:" + hashlib.sha256(BODY).hexdigest()


def cut(store: BlobStore, chunk: bytes, error: type[BaseException], **options: object) -> None:
    """An attempt that gets so far and then fails."""
    with store.writer(**options) as sink:
        sink.write(chunk)
        raise error


def bytewise(store: BlobStore, data: bytes, **options: object) -> None:
    with store.writer(**options) as sink:
        for at in range(len(data)):
            sink.write(data[at : at + 1])


@pytest.fixture(params=["memory", "disk"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> BlobStore:
    makers: dict[str, Callable[[], BlobStore]] = {
        "memory": MemoryStore,
        "disk": lambda: DiskStore(tmp_path / "home"),
    }
    return makers[request.param]()


def test_get_after_put_is_identity(store):
    digest = store.put(BODY)
    assert str(digest) == SHA
    assert store.has(digest)
    assert store.size(digest) == len(BODY)
    assert store.read(digest) == BODY
    with store.open(digest) as stream:
        assert stream.read(7) == BODY[:7]
    assert list(store.digests()) == [digest]


def test_empty_blob(store):
    assert store.read(store.put(b"")) == b""


def test_put_is_idempotent(store):
    assert store.put(BODY) == store.put(bytearray(BODY)) == store.put(memoryview(BODY))
    assert len(list(store.digests())) == 1


def test_missing(store):
    digest = Digest.of(b"nothing")
    assert not store.has(digest)
    assert store.path(digest) is None
    for ask in (store.size, store.read, store.open):
        with pytest.raises(MissingBlob, match=str(digest)) as caught:
            ask(digest)
        assert caught.value.exit_status == 1


def test_writer_describes_what_it_published(store):
    with store.writer(
        expected_digest=Digest.parse(SHA), expected_size=len(BODY), media_type="a/b"
    ) as sink:
        assert sink.write(BODY[:100]) == 100
        assert sink.offset == 100
        sink.write(memoryview(BODY)[100:])
        with pytest.raises(StoreError):
            _ = sink.descriptor
    assert (sink.descriptor.media_type, sink.descriptor.size_bytes) == ("a/b", len(BODY))
    assert str(sink.descriptor.digest) == SHA


def test_wide_elements_count_as_bytes(store):
    wide = memoryview(BODY).cast("d")
    with store.writer(expected_size=len(BODY)) as sink:
        assert sink.write(wide) == len(BODY)
    assert str(sink.descriptor.digest) == SHA


def test_wrong_digest_never_enters(store):
    with pytest.raises(DigestMismatch) as caught:
        with store.writer(expected_digest=Digest.of(b"else"), partial="p") as sink:
            sink.write(BODY)
    assert str(caught.value.actual) == SHA
    assert caught.value.expected == Digest.of(b"else")
    assert SHA in str(caught.value)
    assert list(store.digests()) == []
    with store.writer(partial="p") as again:
        assert again.offset == 0


@pytest.mark.parametrize(("size", "word"), [(len(BODY) + 1, "truncated"), (5, "too long")])
def test_wrong_size_never_enters(store, size, word):
    with pytest.raises(SizeMismatch, match=word):
        with store.writer(expected_size=size) as sink:
            sink.write(BODY)
    assert list(store.digests()) == []


def test_error_in_the_block_passes_through_and_leaves_nothing(store):
    with pytest.raises(KeyboardInterrupt):
        cut(store, BODY, KeyboardInterrupt)
    assert list(store.digests()) == []


def test_resume_continues_and_hashes_what_was_there(store):
    with pytest.raises(ConnectionError):
        cut(store, BODY[:1000], ConnectionError, partial="org-math")
    with store.writer(expected_digest=Digest.parse(SHA), partial="org-math") as sink:
        assert sink.offset == 1000
        sink.write(BODY[1000:])
    assert store.read(Digest.parse(SHA)) == BODY
    with store.writer(partial="org-math") as sink:
        assert sink.offset == 0


def test_truncated_attempt_can_be_resumed(store):
    with pytest.raises(SizeMismatch):
        with store.writer(expected_size=len(BODY), partial="p") as sink:
            sink.write(BODY[:10])
    with store.writer(expected_size=len(BODY), partial="p") as sink:
        assert sink.offset == 10
        sink.write(BODY[10:])
    assert str(sink.descriptor.digest) == SHA


def test_restart_forgets_the_earlier_attempt(store):
    with pytest.raises(ConnectionError):
        cut(store, b"something else entirely", ConnectionError, partial="p")
    with store.writer(expected_digest=Digest.parse(SHA), partial="p") as sink:
        assert sink.offset == 23
        sink.restart()
        assert sink.offset == 0
        sink.write(BODY)
    assert store.read(Digest.parse(SHA)) == BODY


def test_too_long_attempt_is_not_resumed(store):
    with pytest.raises(ConnectionError):
        cut(store, BODY, ConnectionError, partial="p")
    with store.writer(expected_size=3, partial="p") as sink:
        assert sink.offset == 0
        sink.write(b"abc")
    assert sink.descriptor.digest == Digest.of(b"abc")


def test_nothing_may_pose_as_a_reference_record(store):
    spoof = canonical_json({"mediaType": media_types.REFERENCE_RECORD, "name": "math"})
    for data in (spoof, b"{ " + spoof[1:]):
        with pytest.raises(PolicyRefused) as caught:
            store.put(data)
        assert caught.value.exit_status == 7
        with pytest.raises(PolicyRefused):
            bytewise(store, data, partial="p")
    assert list(store.digests()) == []


def test_bytes_that_only_look_like_json_are_fine(store):
    for data in (b"{", b"{" * 9000, b"[]", b"{}", b'{"mediaType":"x"}', b"{" + b" " * 20_000):
        assert store.read(store.put(data)) == data
