"""GGUF against the ``gguf`` package, both ways, and against broken files."""

import struct
from contextlib import suppress

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adaptrix.convert.arrays import from_array, is_finite
from adaptrix.convert.container import open_container
from adaptrix.convert.gguf_file import DEQUANTIZED, gguf_bytes, open_gguf
from adaptrix.convert.source import MemorySource
from adaptrix.schema.errors import FormatError
from adaptrix.schema.tensor import DType, LazyTensor

RNG = np.random.default_rng(0)


def written(path, tensors, *, quantised=(), fill=None):
    """A file by the package's own writer."""
    writer = gguf.GGUFWriter(path, "phi2")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 16.0)
    if fill:
        fill(writer)
    for name, array in tensors.items():
        writer.add_tensor(name, array)
    for name, array in quantised:
        raw = gguf.quants.quantize(array, gguf.GGMLQuantizationType.Q8_0)
        writer.add_tensor(name, raw, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


def read(content):
    return open_gguf(MemorySource("a.gguf", content))


ARRAYS = {
    "blk.0.attn_q.weight.lora_a": RNG.normal(size=(4, 33)).astype(np.float32),
    "blk.0.attn_q.weight.lora_b": RNG.normal(size=(35, 4)).astype(np.float16),
    "f64": RNG.normal(size=(3,)),
    "i8": np.arange(-3, 4, dtype=np.int8),
    "i16": np.arange(5, dtype=np.int16),
    "i32": np.arange(6, dtype=np.int32).reshape(1, 2, 3),
    "i64": np.arange(16, dtype=np.int64).reshape(2, 2, 2, 2),
}


def test_reads_what_the_package_writes(tmp_path):
    def fill(writer):
        writer.add_uint8("n.u8", 200)
        writer.add_int8("n.i8", -100)
        writer.add_uint16("n.u16", 60_000)
        writer.add_int16("n.i16", -30_000)
        writer.add_int32("n.i32", -5)
        writer.add_uint64("n.u64", 2**63)
        writer.add_int64("n.i64", -(2**62))
        writer.add_float64("n.f64", 0.1)
        writer.add_bool("n.bool", True)
        writer.add_array("n.words", ["a", "слово", ""])
        writer.add_array("n.numbers", [1, 2, 3])
        writer.add_array("n.flags", [True, False])

    file = read(written(tmp_path / "a.gguf", ARRAYS, fill=fill))
    assert file.metadata == {
        "general.architecture": "phi2",
        "general.type": "adapter",
        "adapter.type": "lora",
        "adapter.lora.alpha": 16.0,
        "n.u8": 200,
        "n.i8": -100,
        "n.u16": 60_000,
        "n.i16": -30_000,
        "n.i32": -5,
        "n.u64": 2**63,
        "n.i64": -(2**62),
        "n.f64": 0.1,
        "n.bool": True,
        "n.words": ["a", "слово", ""],
        "n.numbers": [1, 2, 3],
        "n.flags": [True, False],
    }
    assert list(file.tensors) == list(ARRAYS)
    for name, expected in ARRAYS.items():
        found = file.tensors[name]
        assert found.shape == expected.shape
        assert found.dtype.long_name == expected.dtype.name
        assert bytes(found.load()) == expected.tobytes()


def test_q8_0_is_widened_as_the_package_widens_it(tmp_path):
    array = RNG.normal(size=(5, 96)).astype(np.float32)
    file = read(written(tmp_path / "a.gguf", {}, quantised=[("q", array)]))
    assert file.metadata[DEQUANTIZED] == {"q": "Q8_0"}
    raw = gguf.quants.quantize(array, gguf.GGMLQuantizationType.Q8_0)
    expected = gguf.quants.dequantize(raw, gguf.GGMLQuantizationType.Q8_0)
    assert file.tensors["q"].dtype is DType.F32
    assert file.tensors["q"].shape == (5, 96)
    assert bytes(file.tensors["q"].load()) == expected.astype(np.float32).tobytes()


def test_q8_0_with_an_infinite_scale_is_read_and_not_finite():
    body = struct.pack("<H32b", 0x7C00, *range(32)) + bytes(30)
    file = read(made((tensor(shape=(32,), kind=8),), body=body))
    assert not is_finite(file.tensors["t"])


def test_other_quantised_types_are_refused_by_name(tmp_path):
    array = RNG.normal(size=(2, 32)).astype(np.float32)
    raw = gguf.quants.quantize(array, gguf.GGMLQuantizationType.Q4_0)
    writer = gguf.GGUFWriter(tmp_path / "a.gguf", "phi2")
    writer.add_tensor("t", raw, raw_dtype=gguf.GGMLQuantizationType.Q4_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(FormatError, match="Q4_0") as caught:
        read((tmp_path / "a.gguf").read_bytes())
    assert caught.value.code == "unknown_dtype"


def lazy(arrays):
    return {n: from_array(a, DType.from_long_name(a.dtype.name), n) for n, a in arrays.items()}


def whole(fields, tensors):
    header, chunks, size_bytes = gguf_bytes(fields, tensors)
    content = header + b"".join(chunks)
    assert len(content) == size_bytes
    return content


def test_the_package_reads_what_we_write(tmp_path):
    bits = RNG.integers(0, 1 << 16, (3, 5), dtype=np.uint16)
    tensors = {**lazy(ARRAYS), "bf16": from_array(bits, DType.BF16, "bf16")}
    fields = {
        "general.architecture": "phi2",
        "adapter.lora.alpha": 16.0,
        "exact": 0.1,
        "count": 7,
        "negative": -7,
        "flag": False,
        "words": ["a", "слово"],
        "numbers": [1, 2],
    }
    path = tmp_path / "ours.gguf"
    path.write_bytes(whole(fields, tensors))
    reader = gguf.GGUFReader(path)
    for key, value in fields.items():
        assert reader.fields[key].contents() == value
    alpha = reader.fields["adapter.lora.alpha"]
    assert alpha.types == [gguf.GGUFValueType.FLOAT32]
    found = {t.name: t for t in reader.tensors}
    assert list(found) == sorted(tensors)
    for name, tensor in tensors.items():
        assert tuple(found[name].shape.tolist()) == tensor.shape[::-1]
        assert found[name].data.tobytes() == bytes(tensor.load())
    ours = read(path.read_bytes())
    assert ours.metadata == fields
    for name, tensor in tensors.items():
        assert ours.tensors[name].shape == tensor.shape
        assert bytes(ours.tensors[name].load()) == bytes(tensor.load())


def test_the_same_input_gives_the_same_bytes():
    fields = {"a": 1, "general.alignment": 64}
    tensors = lazy(ARRAYS)
    assert whole(fields, tensors) == whole(fields, dict(reversed(tensors.items())))


@pytest.mark.parametrize("value", [None, {}, [], [1, "a"], [[1], [2]], 2**64])
def test_values_that_gguf_has_no_type_for_are_refused(value):
    with pytest.raises(FormatError):
        gguf_bytes({"a": value}, lazy(ARRAYS))


def test_tensors_that_gguf_cannot_hold_are_refused():
    with pytest.raises(FormatError):
        gguf_bytes({}, lazy({"a": np.zeros((1, 1, 1, 1, 1), np.float32)}))
    with pytest.raises(FormatError):
        gguf_bytes({}, {"a": LazyTensor(dtype=DType.F8_E4M3, shape=(1,), source="a", load=bytes)})
    with pytest.raises(FormatError):
        gguf_bytes({"general.alignment": 5}, lazy(ARRAYS))


def text(value):
    return struct.pack("<Q", len(value)) + value


def tensor(name=b"t", shape=(2,), kind=0, offset=0):
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


ONE_TENSOR = (tensor(),)


def made(tensors=ONE_TENSOR, fields=(), body=bytes(32), version=3):
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(fields))
    head += b"".join(fields) + b"".join(tensors)
    return head + bytes(-len(head) % 32) + body


def field(key, kind, value):
    return text(key) + struct.pack("<I", kind) + value


BROKEN = {
    "version 1": (made(version=1), "bad_version"),
    "version 4": (made(version=4), "bad_version"),
    "big-endian": (made(version=3 << 24), "big_endian"),
    "cut in the head": (made()[:30], "truncated"),
    "10^18 tensors": (b"GGUF" + struct.pack("<IQQ", 3, 10**18, 0), "too_many_tensors"),
    "10^18 fields": (b"GGUF" + struct.pack("<IQQ", 3, 0, 10**18), "bad_header"),
    "no tensors": (made((), body=b""), "no_tensors"),
    "same tensor twice": (
        made((tensor(), tensor(offset=32)), body=bytes(64)),
        "duplicate_tensor",
    ),
    "same field twice": (made(fields=[field(b"a", 0, b"1")] * 2), "duplicate_field"),
    "unknown value type": (made(fields=[field(b"a", 13, b"")]), "bad_header"),
    "truth value 2": (made(fields=[field(b"a", 7, b"\x02")]), "bad_header"),
    "text of 2^60 bytes": (made(fields=[field(b"a", 8, struct.pack("<Q", 1 << 60))]), "bad_header"),
    "text over the end": (made(fields=[field(b"a", 8, struct.pack("<Q", 9999))]), "truncated"),
    "array of 2^60": (made(fields=[field(b"a", 9, struct.pack("<IQ", 4, 1 << 60))]), "truncated"),
    "nested arrays": (
        made(fields=[field(b"a", 9, struct.pack("<IQ", 9, 1) * 9)]),
        "bad_header",
    ),
    "empty key": (made(fields=[field(b"", 0, b"1")]), "bad_header"),
    "ANSI in key": (made(fields=[field(b"\x1b[1m", 0, b"1")]), "bad_header"),
    "key not UTF-8": (made(fields=[field(b"\xff", 0, b"1")]), "bad_header"),
    "alignment 0": (made(fields=[field(b"general.alignment", 4, bytes(4))]), "bad_alignment"),
    "alignment as text": (made(fields=[field(b"general.alignment", 8, text(b"32"))]), "bad_alignment"),
    "five dimensions": (made((tensor(shape=(1,) * 5),)), "bad_shape"),
    "2^64 elements": (made((tensor(shape=(1 << 32, 1 << 32)),)), "bad_shape"),
    "unknown type": (made((tensor(kind=99),)), "unknown_dtype"),
    "Q4_K": (made((tensor(kind=12),)), "unknown_dtype"),
    "odd Q8_0": (made((tensor(shape=(31,), kind=8),)), "bad_shape"),
    "scalar Q8_0": (made((tensor(shape=(), kind=8),)), "bad_shape"),
    "climbing name": (made((tensor(b"../t"),)), "bad_name"),
    "offset not aligned": (made((tensor(offset=4),)), "hole"),
    "overlap": (made((tensor(b"a"), tensor(b"b"))), "overlapping_offsets"),
    "hole": (made((tensor(b"a"), tensor(b"b", offset=64)), body=bytes(96)), "hole"),
    "truncated body": (made(body=bytes(7)), "truncated"),
    "trailing": (made(body=bytes(33)), "trailing_bytes"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_broken_files_are_refused_with_their_reason(case):
    content, expected = BROKEN[case]
    with pytest.raises(FormatError) as caught:
        read(content)
    assert caught.value.code == expected
    assert str(caught.value).isprintable()


def test_a_tensor_may_be_empty_and_the_last_padding_may_be_absent():
    content = made((tensor(b"a", (0,)), tensor(b"b")), body=bytes(8))
    file = read(content)
    assert [len(t.load()) for t in file.tensors.values()] == [0, 8]
    empty = read(made((tensor(b"q", (0,), 8),), body=b""))
    assert len(empty.tensors["q"].load()) == 0


@pytest.mark.parametrize("magic", [b"ggla", b"algg", b"tjgg"])
def test_files_before_gguf_are_refused_as_such(magic):
    with pytest.raises(FormatError) as caught:
        open_container(MemorySource("ggml-adapter-model.bin", magic + bytes(100)))
    assert caught.value.code == "old_ggml"


VALID = whole({"a": 1, "b": "text", "c": [1, 2], "d": ["x"]}, lazy(ARRAYS))


@settings(max_examples=400, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, len(VALID) - 1), st.integers(0, 255)), max_size=4),
    st.integers(0, len(VALID)),
)
def test_mutated_files_never_raise_anything_else(changes, length):
    content = bytearray(VALID)
    for position, value in changes:
        content[position] = value
    for kept in (content, content[:length]):
        with suppress(FormatError):
            for found in read(bytes(kept)).tensors.values():
                assert len(found.load()) == found.size_bytes


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=120))
def test_arbitrary_bytes_never_raise_anything_else(content):
    with suppress(FormatError):
        read(b"GGUF\x03\0\0\0" + content)
