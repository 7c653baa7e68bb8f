"""Our safetensors reader and writer against the library and against broken files."""

import json
from contextlib import suppress

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adaptrix.convert.arrays import from_array, take_rows
from adaptrix.convert.container import open_container
from adaptrix.convert.safetensors_file import MAX_HEADER_BYTES, open_safetensors, safetensors_bytes
from adaptrix.convert.source import MemorySource
from adaptrix.schema.errors import FormatError
from adaptrix.schema.tensor import DType, LazyTensor

TORCH_DTYPES = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn,
    torch.float8_e5m2, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint64,
    torch.uint32, torch.uint16, torch.uint8, torch.bool,
]  # fmt: skip


def sample():
    """One tensor of every dtype, with odd sizes, a scalar and an empty tensor."""
    torch.manual_seed(0)
    tensors = {f"t.{i}": torch.randint(0, 2, (3, 5)).to(d) for i, d in enumerate(TORCH_DTYPES)}
    tensors["noise"] = torch.randn(7, 3, dtype=torch.bfloat16)
    tensors["scalar"] = torch.tensor(2.5)
    tensors["empty"] = torch.zeros(0, 4)
    return tensors


def encoded(header, body=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def read(content):
    return open_safetensors(MemorySource("x.safetensors", content))


def code_of(content):
    with pytest.raises(FormatError) as caught:
        read(content)
    assert str(caught.value).isprintable()
    return caught.value.code


def whole(tensors, metadata=None):
    header, chunks, size_bytes = safetensors_bytes(tensors, metadata)
    content = header + b"".join(chunks)
    assert len(content) == size_bytes
    return content


def test_reads_what_the_library_writes():
    tensors = sample()
    file = read(safetensors.torch.save(tensors, {"format": "pt"}))
    assert file.metadata == {"format": "pt"}
    assert file.tensors.keys() == tensors.keys()
    for name, expected in tensors.items():
        found = file.tensors[name]
        assert found.shape == tuple(expected.shape)
        assert found.dtype.long_name == str(expected.dtype).removeprefix("torch.")
        assert bytes(found.load()) == expected.reshape(-1).view(torch.uint8).numpy().tobytes()
        assert found.source == f"x.safetensors:{name}"


def test_the_library_reads_what_we_write():
    tensors = sample()
    ours = whole(read(safetensors.torch.save(tensors)).tensors, {"b": "2", "a": "1"})
    again = safetensors.torch.load(ours)
    assert again.keys() == tensors.keys()
    for name, expected in tensors.items():
        assert again[name].dtype is expected.dtype
        raw = again[name].reshape(-1).view(torch.uint8)
        assert torch.equal(raw, expected.reshape(-1).view(torch.uint8))


def test_the_same_tensors_give_the_same_bytes_in_any_order():
    tensors = read(safetensors.torch.save(sample())).tensors
    backwards = dict(reversed(tensors.items()))
    content = whole(tensors, {"b": "2", "a": "1"})
    assert content == whole(backwards, {"a": "1", "b": "2"})
    length = int.from_bytes(content[:8], "little")
    assert (8 + length) % 8 == 0
    names = list(json.loads(content[8 : 8 + length]))
    assert names == ["__metadata__", *sorted(tensors)]


def test_the_writer_streams_in_pieces_and_checks_lengths():
    big = from_array(np.zeros((3000, 1000), np.float32), DType.F32, "big")
    _, chunks, _ = safetensors_bytes({"big": big})
    assert [len(c) for c in chunks] == [8 << 20, 12_000_000 - (8 << 20)]
    liar = LazyTensor(dtype=DType.F32, shape=(2,), source="liar", load=lambda: b"1234567")
    with pytest.raises(FormatError):
        list(safetensors_bytes({"liar": liar})[1])
    with pytest.raises(FormatError):
        safetensors_bytes({"../x": take_rows(big, slice(0, 1))})


BROKEN = {
    "seven bytes": (b"1234567", "truncated"),
    "length 0": (bytes(8), "bad_header"),
    "length 2^63": ((1 << 63).to_bytes(8, "little") + b"{}", "header_too_large"),
    "length 2^64-1": (b"\xff" * 8 + b"{}", "header_too_large"),
    "length over the limit": ((MAX_HEADER_BYTES + 1).to_bytes(8, "little"), "header_too_large"),
    "length over the file": ((100).to_bytes(8, "little") + b"{}", "truncated"),
    "not UTF-8": (encoded(b'{"\xff": 1}'), "bad_header"),
    "not JSON": (encoded(b"{nothing}"), "bad_header"),
    "array": (encoded(b"[]"), "bad_header"),
    "null": (encoded(b"null"), "bad_header"),
    "leading blank": (encoded(b" {}"), "bad_header"),
    "nested": (encoded(b'{"a":' + b"[" * 100_000), "bad_header"),
    "nested objects": (encoded(b'{"a":' * 60_000), "bad_header"),
    "huge number": (encoded(b'{"a": ' + b"9" * 5000 + b"}"), "bad_header"),
    "NaN": (encoded(b'{"a": NaN}'), "bad_header"),
    "duplicate names": (
        encoded(
            b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},'
            b'"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}',
            bytes(8),
        ),
        "duplicate_tensor",
    ),
    "duplicate fields": (
        encoded(b'{"a":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}}', bytes(8)),
        "duplicate_tensor",
    ),
    "metadata twice": (encoded(b'{"__metadata__":{},"__metadata__":{}}'), "duplicate_tensor"),
    "metadata of numbers": (
        encoded({"__metadata__": {"a": 1}, "t": entry()}, bytes(8)),
        "bad_header",
    ),
    "metadata of half characters": (encoded(b'{"__metadata__":{"a":"\\ud800"}}'), "bad_header"),
    "unknown dtype": (encoded({"t": entry("F7")}, bytes(8)), "unknown_dtype"),
    "lower-case dtype": (encoded({"t": entry("f32")}, bytes(8)), "unknown_dtype"),
    "dtype list": (encoded({"t": entry(["F32"])}, bytes(8)), "unknown_dtype"),
    "extra field": (encoded({"t": {**entry(), "x": 1}}, bytes(8)), "bad_header"),
    "missing field": (encoded({"t": {"dtype": "F32", "shape": []}}), "bad_header"),
    "entry is a list": (encoded({"t": [1]}), "bad_header"),
    "negative dimension": (encoded({"t": entry(shape=(-2,))}, bytes(8)), "bad_shape"),
    "float dimension": (encoded({"t": entry(shape=(2.0,))}, bytes(8)), "bad_header"),
    "true dimension": (encoded({"t": entry(shape=(True, 2))}, bytes(8)), "bad_header"),
    "2^64 dimension": (encoded({"t": entry(shape=(1 << 64,))}, bytes(8)), "bad_shape"),
    "product overflow": (encoded({"t": entry(shape=(1 << 33, 1 << 33))}, bytes(8)), "bad_shape"),
    "empty with 2^41": (encoded({"t": entry(shape=(0, 1 << 41), offsets=(0, 0))}), "bad_shape"),
    "nine dimensions": (encoded({"t": entry(shape=(1,) * 8 + (2,))}, bytes(8)), "bad_shape"),
    "size is not shape": (encoded({"t": entry(shape=(3,))}, bytes(8)), "size_mismatch"),
    "reversed": (encoded({"t": entry(offsets=(8, 0))}, bytes(8)), "bad_header"),
    "negative offset": (encoded({"t": entry(offsets=(-8, 0))}, bytes(8)), "bad_header"),
    "three offsets": (encoded({"t": entry(offsets=(0, 8, 8))}, bytes(8)), "bad_header"),
    "overlap": (
        encoded({"a": entry(), "b": entry(offsets=(4, 12))}, bytes(12)),
        "overlapping_offsets",
    ),
    "shared": (encoded({"a": entry(), "b": entry()}, bytes(8)), "overlapping_offsets"),
    "hole": (encoded({"a": entry(), "b": entry(offsets=(12, 20))}, bytes(20)), "hole"),
    "first hole": (encoded({"a": entry(offsets=(4, 12))}, bytes(12)), "hole"),
    "trailing bytes": (encoded({"a": entry()}, bytes(9)), "trailing_bytes"),
    "truncated": (encoded({"a": entry()}, bytes(7)), "truncated"),
    "no name": (encoded({"": entry()}, bytes(8)), "bad_name"),
    "NUL in name": (encoded({"a\0b": entry()}, bytes(8)), "bad_name"),
    "ANSI in name": (encoded({"a\x1b[31mb": entry()}, bytes(8)), "bad_name"),
    "bidi in name": (encoded({"a\u202eb": entry()}, bytes(8)), "bad_name"),
    "half a character in name": (encoded(b'{"\\ud800":1}'), "bad_name"),
    "long name": (encoded({"a" * 1025: entry()}, bytes(8)), "bad_name"),
    "long wide name": (encoded({"é" * 513: entry()}, bytes(8)), "bad_name"),
    "climbing name": (encoded({"a/../../b": entry()}, bytes(8)), "bad_name"),
    "no tensors": (encoded({}), "no_tensors"),
    "only metadata": (encoded({"__metadata__": {"a": "b"}}), "no_tensors"),
    "too many": (
        encoded({str(i): entry(shape=(0,), offsets=(0, 0)) for i in range(65_537)}),
        "too_many_tensors",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_files_are_refused_with_their_reason(case):
    content, expected = BROKEN[case]
    assert code_of(content) == expected


def test_a_truncated_file_is_reported_with_both_sizes():
    content = safetensors.torch.save({"a": torch.zeros(1000)})
    with pytest.raises(FormatError) as caught:
        read(content[:2000])
    assert str(len(content)) in caught.value.message
    assert "2000" in caught.value.message


def test_a_huge_declared_header_is_not_read():
    class Unread(MemorySource):
        def read(self, start, stop):
            assert stop - start <= 512
            return super().read(start, stop)

    content = (99_000_000).to_bytes(8, "little") + b"{" + b" " * 99_000_000
    with pytest.raises(FormatError) as caught:
        open_container(Unread("x", content))
    assert caught.value.code == "header_too_large"


def test_null_metadata_is_none_as_mlx_writes_it():
    file = read(encoded({"__metadata__": None, "a": entry()}, bytes(8)))
    assert file.metadata == {}


def test_names_with_dots_and_slashes_and_other_scripts_are_names():
    names = ["a..b", "x/y.z", "слой.0", "<s1>", "text_encoder:0:up"]
    assert read(whole({n: only_tensor(n) for n in names})).tensors.keys() == set(names)


def only_tensor(name):
    return from_array(np.arange(3, dtype=np.float32), DType.F32, name)


VALID = safetensors.torch.save(sample(), {"format": "pt"})


def opens_or_refuses(content, name="x.safetensors"):
    try:
        file = open_container(MemorySource(name, content))
    except FormatError:
        return
    if file is not None:
        for tensor in file.tensors.values():
            assert len(tensor.load()) == tensor.size_bytes


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_arbitrary_bytes_never_raise_anything_else(content):
    with suppress(FormatError):
        read(content)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(VALID) - 1), st.integers(0, 255)), max_size=4))
def test_mutated_files_never_raise_anything_else(changes):
    content = bytearray(VALID)
    for position, value in changes:
        content[position] = value
    opens_or_refuses(bytes(content))


@settings(max_examples=200, deadline=None)
@given(
    st.dictionaries(
        st.text(max_size=5),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3)
            | st.sampled_from([entry(), entry(shape=(0,), offsets=(0, 0))]),
            lambda inner: st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["dtype", "shape", "data_offsets", "x"]), inner, max_size=4
            ),
            max_leaves=6,
        ),
        max_size=4,
    ),
    st.binary(max_size=20),
)  # fmt: skip
def test_arbitrary_headers_never_raise_anything_else(header, body):
    opens_or_refuses(encoded(header, body))


@settings(max_examples=100, deadline=None)
@given(st.integers(0, len(VALID) - 1))
def test_every_prefix_is_refused(length):
    with pytest.raises(FormatError):
        open_container(MemorySource("x.safetensors", VALID[:length]))
