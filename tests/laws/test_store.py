"""Laws of the store: what enters is what was announced, whole, and stays the same."""

import hashlib
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptrix.schema.digest import Digest
from adaptrix.schema.errors import IntegrityError
from adaptrix.store.blobs import MemoryStore
from adaptrix.store.disk import DiskStore


@pytest.fixture(scope="module", params=["memory", "disk"])
def make(request, tmp_path_factory):
    if request.param == "memory":
        return MemoryStore
    return lambda: DiskStore(tmp_path_factory.mktemp("store"))


bodies = st.binary(min_size=1, max_size=400)


@given(body=bodies, cuts=st.lists(st.integers(0, 400), max_size=6))
def test_the_digest_does_not_depend_on_the_chunks(make, body, cuts):
    store = make()
    edges = [0, *sorted(cut for cut in cuts if cut < len(body)), len(body)]
    with store.writer() as sink:
        for start, stop in pairwise(edges):
            sink.write(body[start:stop])
    assert sink.descriptor.digest.hex == hashlib.sha256(body).hexdigest()
    assert store.read(sink.descriptor.digest) == body


@given(body=bodies, data=st.data())
def test_any_flipped_bit_is_refused(make, body, data):
    store = make()
    at = data.draw(st.integers(0, len(body) - 1))
    flipped = bytearray(body)
    flipped[at] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(IntegrityError):
        with store.writer(expected_digest=Digest.of(body), expected_size=len(body)) as sink:
            sink.write(flipped)
    assert list(store.digests()) == []


@given(body=bodies, data=st.data(), announce=st.booleans())
def test_a_truncated_stream_never_enters(make, body, data, announce):
    store = make()
    stop = data.draw(st.integers(0, len(body) - 1))
    size = len(body) if announce else None
    with pytest.raises(IntegrityError):
        with store.writer(expected_digest=Digest.of(body), expected_size=size) as sink:
            sink.write(body[:stop])
    assert list(store.digests()) == []


def cut(store, chunk: bytes) -> None:
    with store.writer(partial="p") as sink:
        sink.write(chunk)
        raise ConnectionError


@given(body=bodies, data=st.data())
def test_a_resumed_stream_is_the_same_stream(make, body, data):
    store = make()
    stop = data.draw(st.integers(0, len(body)))
    with pytest.raises(ConnectionError):
        cut(store, body[:stop])
    with store.writer(partial="p", expected_digest=Digest.of(body)) as sink:
        assert sink.offset == stop
        sink.write(body[sink.offset :])
    assert store.read(Digest.of(body)) == body


@given(body=bodies)
def test_put_is_idempotent_and_get_its_inverse(make, body):
    store = make()
    assert store.put(body) == store.put(body) == Digest.of(body)
    assert store.read(Digest.of(body)) == body
    assert list(store.digests()) == [Digest.of(body)]
