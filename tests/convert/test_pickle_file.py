"""Pickles that torch itself wrote, and pickles that want more than tensors."""

import collections
import io
import os
import pickle
import struct
import tarfile
import zipfile
import zlib
from contextlib import suppress

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adaptrix.convert.container import open_container
from adaptrix.convert.source import MemorySource
from adaptrix.schema.errors import AdaptrixError, FormatError, PolicyRefused

DTYPES = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32,
    torch.int16, torch.int8, torch.uint8, torch.bool, torch.uint16, torch.uint32, torch.uint64,
    torch.float8_e4m3fn, torch.float8_e5m2,
]  # fmt: skip
LAYOUTS = ["zip", "stream", "plain"]


def saved(value, layout="zip", protocol=2):
    if layout == "plain":
        return pickle.dumps(value, protocol=protocol)
    out = io.BytesIO()
    torch.save(value, out, pickle_protocol=protocol, _use_new_zipfile_serialization=layout == "zip")
    return out.getvalue()


def read(content, name="adapter_model.bin"):
    file = open_container(MemorySource(name, content))
    assert file is None or file.kind in ("pickle", "npz")
    return file


def same(found, expected):
    assert found.shape == tuple(expected.shape)
    assert found.dtype.long_name == str(expected.dtype).removeprefix("torch.")
    flat = torch.zeros(expected.numel(), dtype=expected.dtype).copy_(expected.detach().reshape(-1))
    assert bytes(found.load()) == flat.view(torch.uint8).numpy().tobytes()


def read_all(content, name):
    file = read(content, name)
    for tensor in file.tensors.values() if file else ():
        tensor.load()


def refusal(content, name="adapter_model.bin"):
    with pytest.raises(AdaptrixError) as caught:
        read_all(content, name)
    assert str(caught.value).isprintable()
    return caught.value


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype_of_every_layout(dtype, layout):
    torch.manual_seed(0)
    tensor = torch.randint(0, 100, (5, 3)).to(dtype)
    file = read(saved(collections.OrderedDict(a=tensor, b=tensor[1]), layout))
    assert file.kind == "pickle"
    assert list(file.tensors) == ["a", "b"]
    same(file.tensors["a"], tensor)
    same(file.tensors["b"], tensor[1])


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_views_of_shared_storages(layout, protocol):
    base = torch.arange(60, dtype=torch.float32).reshape(3, 4, 5)
    tensors = {
        "whole": base,
        "transposed": base[0].T,
        "permuted": base.permute(2, 0, 1),
        "slice": base[1:, 2],
        "stepped": base[::2, ::3, ::2],
        "expanded": base[0, 0, :1].expand(4, 5),
        "scalar": base[2, 3, 4],
        "empty": base[:0],
        "ones": base[:1, :1, :1].transpose(0, 2),
        "parameter": torch.nn.Parameter(base[1]),
    }
    file = read(saved(tensors, layout, protocol))
    for name, expected in tensors.items():
        same(file.tensors[name], expected)


def test_a_module_with_its_metadata_and_parameters():
    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    state = module.state_dict()
    assert state._metadata  # an attribute of the dict: saved by BUILD
    for layout in LAYOUTS:
        file = read(saved(state, layout))
        for name, expected in state.items():
            same(file.tensors[name], expected)
    file = read(saved(dict(module.named_parameters())))
    same(file.tensors["0.weight"], module[0].weight)


def test_nested_containers_become_dotted_names_and_the_rest_metadata():
    t = torch.ones(2)
    value = {
        "model": {"a": t, "layers": [t, {"b": t}]},
        "lora": {"rank": 8, "alpha": 16.5, "targets": ["q", "v"], "on": True, "none": None},
        "size": t.shape,
        "dtype": torch.bfloat16,
        "device": torch.device("cuda:0"),
        "raw": b"\x00\xff",
        "empty": {},
        3: t,
    }
    for layout in LAYOUTS:
        file = read(saved(value, layout))
        assert list(file.tensors) == ["model.a", "model.layers.0", "model.layers.1.b", "3"]
        assert file.metadata == {
            "lora.rank": 8,
            "lora.alpha": 16.5,
            "lora.targets": ["q", "v"],
            "lora.on": True,
            "lora.none": None,
            "size": [2],
            "dtype": "bfloat16",
            "device": "cuda:0",
            "raw": "<2 bytes>",
            "empty": {},
        }
        assert file.tensors["model.a"].source == "adapter_model.bin:model.a"


def test_a_list_of_tensors_and_a_tensor_alone():
    assert list(read(saved([torch.ones(1), torch.ones(2)])).tensors) == ["0", "1"]
    same(read(saved(torch.ones(2))).tensors["0"], torch.ones(2))


def test_a_cuda_tag_is_only_a_tag():
    content = saved({"a": torch.arange(3)}, "stream")
    tagged = content.replace(b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:7")
    assert tagged != content
    same(read(tagged).tensors["a"], torch.arange(3))


def test_a_deflated_archive_is_read(tmp_path):
    out = io.BytesIO()
    tensor = torch.randn(100, 100)
    with zipfile.ZipFile(io.BytesIO(saved({"a": tensor, "b": tensor.T}))) as old:
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as new:
            for entry in old.infolist():
                new.writestr(entry.filename, old.read(entry))
    file = read(out.getvalue())
    same(file.tensors["a"], tensor)
    same(file.tensors["b"], tensor.T)


def test_loading_needs_no_copy_of_a_stored_tensor():
    content = saved({"a": torch.arange(1000)})
    view = read(content).tensors["a"].load()
    assert isinstance(view, memoryview)
    assert view.obj is content


# Hostile files. Every payload would write the canary if anything called it.


class Call:
    """Pickles as a call of ``function(*arguments)``."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.fixture
def canary(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "canary"
    yield path
    assert not path.exists()


PAYLOADS = {
    "os.system": lambda: Call(os.system, "touch canary"),
    "eval": lambda: Call(eval, "open('canary', 'w')"),
    "open": lambda: Call(open, "canary", "w"),
    "getattr": lambda: Call(getattr, "os", "system"),
    "numpy": lambda: np.zeros(3),
    "class": lambda: collections.Counter("abc"),
    "module": lambda: torch.nn.Linear(2, 2),
    "partial": lambda: Call(__import__, "os"),
    "torch.load": lambda: Call(torch.load, "canary"),
    "hub": lambda: Call(torch.hub.load, "a", "b"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("case", PAYLOADS)
@pytest.mark.filterwarnings("ignore")
def test_a_pickle_that_calls_something_is_refused_by_name(canary, case, layout, protocol):
    content = saved({"a": torch.ones(2), "b": PAYLOADS[case]()}, layout, protocol)
    for name in ("adapter_model.bin", "adapter_model.safetensors", "adapter_config.json"):
        error = refusal(content, name)
        assert isinstance(error, PolicyRefused)
        assert (error.exit_status, error.code) == (7, "unsafe_pickle")
    if case == "os.system":
        assert "posix.system" in error.message


@pytest.mark.parametrize("protocol", [0, 1])
@pytest.mark.parametrize("name", ["a.bin", "adapter_config.json", "a.safetensors", "README.md"])
def test_an_old_pickle_without_magic_is_known_by_content(canary, protocol, name):
    content = pickle.dumps(PAYLOADS["os.system"](), protocol=protocol)
    error = refusal(content, name)
    assert (error.exit_status, error.code) == (7, "unsafe_pickle")


OPCODES = {
    "INST": b"(S'touch canary'\nios\nsystem\n.",
    "OBJ": b"\x80\x02(cos\nsystem\nS'touch canary'\no.",
    "NEWOBJ": b"\x80\x02cos\nsystem\nU\x0ctouch canary\x85\x81.",
    "NEWOBJ_EX": b"\x80\x04\x8c\x02os\x8c\x06system\x93)}\x92.",
    "STACK_GLOBAL": b"\x80\x04\x8c\x02os\x8c\x06system\x93.",
    "EXT1": b"\x80\x02\x82\x01.",
    "EXT4": b"\x80\x02\x84\x01\x00\x00\x00.",
    "PERSID": b"\x80\x02Pos.system\n.",
    "BUILD": b"\x80\x02}}b.",
    "BUILD a function": b"\x80\x02ctorch\nSize\n}b.",
    "call text": b"\x80\x02X\x02\x00\x00\x00os)R.",
    "call a type": b"\x80\x02ctorch\nFloatStorage\n)R.",
    "dotted": b"\x80\x04\x8c\x05torch\x8c\x0b_utils.eval\x93.",
    "dotted name": b"\x80\x04\x8c\x00\x8c\x09os.system\x93.",
    "escape": b"\x80\x02c\x1b[31mos\nsystem\n.",
}


@pytest.mark.parametrize("case", OPCODES)
def test_opcodes_that_build_objects_are_refused(canary, case):
    error = refusal(OPCODES[case])
    assert (type(error), error.exit_status) == (PolicyRefused, 7)


BROKEN = {
    "truncated": b"\x80\x02}q\x00(X\x05",
    "empty stack": b"\x80\x02.",
    "two values": b"\x80\x02K\x01K\x02.",
    "no mark": b"\x80\x02t.",
    "tuple of nothing": b"\x80\x02\x87.",
    "unknown memo": b"\x80\x02h\x07.",
    "append to dict": b"\x80\x02}K\x01a.",
    "unhashable key": b"\x80\x02}]K\x01s.",
    "tuple key": b"\x80\x02})K\x01s.",
    "odd items": b"\x80\x02}(K\x01u.",
    "huge integer": b"\x80\x02\x8a\xff" + b"\x7f" * 255 + b".",
    "gigabytes of text": b"\x80\x04\x8d" + struct.pack("<Q", 1 << 62) + b"abc.",
    "gigabytes of bytes": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 40) + b"abc.",
    "memo at 2^32": b"\x80\x02K\x01r\xff\xff\xff\xff.",
    "number alone": b"\x80\x02K\x01.",
    "function alone": b"\x80\x02ctorch\nSize\n.",
    "wrong arguments": b"\x80\x02ctorch\nSize\nK\x01K\x02\x86R.",
    "storage outside of torch": b"\x80\x02(X\x07\x00\x00\x00storagectorch\nFloatStorage\n"
    b"X\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x04tQ.",
    "persistent number": b"\x80\x02K\x01Q.",
    "complex": b"\x80\x02ctorch\nComplexFloatStorage\n.",
    "trailing": b"\x80\x02}.}",
    "unknown escape": b"\x80\x02S'\\q'\n.",
    "set of lists": b"\x80\x04\x8f(]\x90.",
    "bad encoding": b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x05\x00\x00\x00rot13\x86R.",
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_pickles_are_refused_as_such(case):
    assert isinstance(refusal(BROKEN[case]), FormatError)


def rebuilt(offset, size, stride, count=4):
    """A torch zip archive with one float32 storage and one view of it, as given."""
    view = Call(torch._utils._rebuild_tensor_v2, Storage(count), offset, size, stride, False,
                collections.OrderedDict())  # fmt: skip
    main = io.BytesIO()
    StoragePickler(main, protocol=2).dump({"a": view})
    return archive({"data.pkl": main.getvalue(), "data/0": bytes(4 * count), "version": b"3\n"})


class Storage:
    def __init__(self, count):
        self.count = count


class StoragePickler(pickle.Pickler):
    def persistent_id(self, value):
        if isinstance(value, Storage):
            return ("storage", torch.FloatStorage, "0", "cuda:0", value.count)
        return None


def archive(entries, method=zipfile.ZIP_STORED, prefix="archive/"):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as new:
        for name, content in entries.items():
            new.writestr(prefix + name, content)
    return out.getvalue()


def test_a_view_within_its_storage_is_read():
    assert bytes(read(rebuilt(1, (3,), (1,))).tensors["a"].load()) == bytes(12)


@pytest.mark.parametrize(
    ("offset", "size", "stride"),
    [
        (0, (5,), (1,)),
        (1, (4,), (1,)),
        (0, (2, 2), (3, 1)),
        (4, (1,), (1,)),
        (-1, (1,), (1,)),
        (0, (2,), (-1,)),
        (0, (-2,), (1,)),
        (0, (2, 2), (1,)),
        (0, (1 << 60,), (0,)),
        (0, (1,) * 9, (1,) * 9),
        (0, (2.0,), (1,)),
        (True, (1,), (1,)),
        (0, [1], [1]),
        (1 << 80, (1,), (1,)),
    ],
)
def test_a_view_outside_of_its_storage_is_refused(offset, size, stride):
    assert isinstance(refusal(rebuilt(offset, size, stride)), FormatError)


@pytest.mark.parametrize("shape", [(10**6, 10**6), (10**12,), (1 << 25,)])
def test_a_view_of_10_to_the_12_elements_is_refused(shape):
    error = refusal(rebuilt(0, shape, (0,) * len(shape)))
    assert (error.exit_status, error.code) == (7, "limit")


def test_many_views_of_one_storage_are_bounded_together():
    row = torch.zeros(1 << 20)
    error = refusal(saved({str(i): row.expand(3, -1) for i in range(30)}))
    assert (error.exit_status, error.code) == (7, "limit")


def test_a_zip_bomb_is_refused_before_it_is_unpacked():
    bomb = archive({"data.pkl": b"\x80\x02}.", "data/0": bytes(200 << 20)}, zipfile.ZIP_DEFLATED)
    assert len(bomb) < 1 << 20
    error = refusal(bomb)
    assert (error.exit_status, error.code) == (7, "limit")


def test_an_entry_that_unpacks_to_more_than_it_declares_is_refused():
    main = saved({"a": torch.zeros(1000)})
    with zipfile.ZipFile(io.BytesIO(main)) as old:
        entries = {e.filename.partition("/")[2]: old.read(e) for e in old.infolist()}
    packed = archive(entries, zipfile.ZIP_DEFLATED)
    lied = packed.replace(struct.pack("<II", *sizes(packed, "data/0")),
                          struct.pack("<II", sizes(packed, "data/0")[0], 3999))  # fmt: skip
    assert lied != packed
    assert isinstance(refusal(lied), FormatError)


def sizes(content, ending):
    with zipfile.ZipFile(io.BytesIO(content)) as opened:
        (entry,) = [e for e in opened.infolist() if e.filename.endswith(ending)]
        return entry.compress_size, entry.file_size


def test_a_flipped_byte_in_a_stored_tensor_is_found_by_its_checksum():
    content = bytearray(saved({"a": torch.full((1000,), 1.5)}))
    content[content.index(struct.pack("<4f", *[1.5] * 4)) + 100] ^= 1
    assert refusal(bytes(content)).code == "corrupt"


def test_containers_that_repeat_or_contain_themselves_are_refused():
    loop = []
    loop.append(loop)
    doubled = [torch.ones(1)]
    for _ in range(30):
        doubled = [doubled, doubled]
    deep = torch.ones(1)
    for _ in range(40):
        deep = {"a": deep}
    for value in (loop, doubled, deep):
        assert refusal(saved({"a": value})).code == "limit"


def test_names_that_collide_are_refused():
    t = torch.ones(1)
    for value in ({"a": {"b": t}, "a.b": t}, {1: t, "1": t}, {"a": {"b": 1}, "a.b": t}):
        assert refusal(saved(value)).code == "duplicate_tensor"
    assert refusal(saved({"../x": t})).code == "bad_name"
    assert refusal(saved({"a": 1})).code == "no_tensors"


def test_archives_that_bring_code_or_another_byte_order_are_refused():
    main = {"data.pkl": b"\x80\x02}.", "version": b"3"}
    assert refusal(archive({**main, "code/__torch__.py": b""})).code == "unsafe_file"
    assert refusal(archive({**main, "byteorder": b"big"})).code == "big_endian"
    assert refusal(archive({**main, "x/data.pkl": b""})).code == "bad_zip"


def test_a_storage_that_is_missing_or_of_another_size_is_refused():
    with zipfile.ZipFile(io.BytesIO(saved({"a": torch.zeros(4)}))) as old:
        entries = {e.filename.partition("/")[2]: old.read(e) for e in old.infolist()}
    del entries["data/0"]
    assert refusal(archive(entries)).code == "size_mismatch"
    assert refusal(archive({**entries, "data/0": bytes(15)})).code == "size_mismatch"


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_archives_whose_directory_lies_are_refused():
    twice = io.BytesIO()
    with zipfile.ZipFile(twice, "w") as new:
        new.writestr("a/data.pkl", b"\x80\x02}.")
        new.writestr("a/data.pkl", b"\x80\x02].")
    assert refusal(twice.getvalue()).code == "bad_zip"
    content = archive({"data.pkl": b"\x80\x02}."})
    renamed = content.replace(b"archive/data.pkl", b"archivE/data.pkl", 1)
    assert refusal(renamed).code == "bad_zip"


def test_a_tar_is_refused_without_unpacking_it():
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as new:
        entry = tarfile.TarInfo("storages")
        entry.size = 4
        new.addfile(entry, io.BytesIO(b"abcd"))
    error = refusal(out.getvalue())
    assert (error.exit_status, error.code) == (7, "unsafe_file")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_truncated_files_are_refused(layout):
    content = saved({"a": torch.randn(50), "b": torch.ones(3)}, layout)
    for length in [*range(0, len(content), 37), len(content) - 1]:
        assert isinstance(refusal(content[:length]), FormatError)


VALID = {layout: saved({"a": torch.randn(20), "n": {"x": 1}}, layout) for layout in LAYOUTS}


@settings(max_examples=400, deadline=None)
@given(
    st.sampled_from(LAYOUTS),
    st.lists(st.tuples(st.integers(0, 1 << 12), st.integers(0, 255)), min_size=1, max_size=5),
)
def test_mutated_files_never_raise_anything_else(layout, changes):
    content = bytearray(VALID[layout])
    for position, value in changes:
        content[position % len(content)] = value
    with suppress(FormatError, PolicyRefused):
        read_all(bytes(content), "adapter_model.bin")


@settings(max_examples=400, deadline=None)
@given(st.binary(max_size=60))
def test_arbitrary_opcodes_never_raise_anything_else(content):
    with suppress(FormatError, PolicyRefused):
        read(b"\x80\x04" + content)
    with suppress(FormatError, PolicyRefused):
        read(archive({"data.pkl": content}))


def test_npz_entries_are_read_in_any_order_of_elements(tmp_path):
    arrays = {
        "f": np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)),
        "half": np.ones((2, 2), np.float16),
        "scalar": np.float64(2),
        "empty": np.zeros((0, 3), order="F"),
    }
    for save in (np.savez, np.savez_compressed):
        out = io.BytesIO()
        save(out, **arrays)
        file = read(out.getvalue(), "adapters.npz")
        assert file.kind == "npz"
        for name, expected in arrays.items():
            assert file.tensors[name].shape == expected.shape
            assert bytes(file.tensors[name].load()) == np.ascontiguousarray(expected).tobytes()


def npy(descr, shape="(2,)", body=bytes(8), fortran="False"):
    text = f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + body


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (npy("'|O'"), "unsafe_pickle"),
        (npy("[('a', '|O')]"), "unsafe_pickle"),
        (npy("[('a', '<f4')]"), "bad_npy"),
        (npy("'>f4'"), "big_endian"),
        (npy("'|V2'"), "unknown_dtype"),
        (npy("'<f4'", "(3,)"), "size_mismatch"),
        (npy("'<f4'", "(-2,)"), "bad_npy"),
        (npy("'<f4'", "(1 1,)"), "bad_shape"),
        (npy("'<f4'", f"({1 << 62},)"), "bad_shape"),
        (npy("'<f4'", "(2,)", fortran="__import__('os')"), "bad_npy"),
        (npy("'<f4'")[:20], "bad_npy"),
        (b"", "bad_npy"),
    ],
)
def test_npz_entries_that_are_no_plain_arrays_are_refused(content, code):
    error = refusal(archive({"a.npy": content}, prefix=""), "adapters.npz")
    assert error.code == code
    assert error.exit_status == (7 if code == "unsafe_pickle" else 2)


def test_a_real_object_array_is_refused(canary):
    out = io.BytesIO()
    np.savez(out, a=np.array([PAYLOADS["os.system"]()], dtype=object))
    assert refusal(out.getvalue(), "adapters.npz").exit_status == 7


def test_crc_of_the_archive_is_the_usual_one():
    content = saved({"a": torch.arange(4)})
    with zipfile.ZipFile(io.BytesIO(content)) as opened:
        entry = next(e for e in opened.infolist() if e.filename.endswith("data/0"))
        assert zlib.crc32(opened.read(entry)) == entry.CRC


def test_an_archive_with_a_nameless_entry_is_refused():
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as new:
        new.writestr("x", b"1")
    nameless = out.getvalue()
    start = nameless.rindex(b"PK\x01\x02")
    nameless = (
        nameless[: start + 28] + b"\0\0" + nameless[start + 30 : start + 46]
        + nameless[start + 47 : -10] + struct.pack("<I", 46) + nameless[-6:]
    )  # fmt: skip
    assert refusal(nameless).code == "bad_zip"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_attributes_of_tensors_and_parameters_are_dropped(layout):
    tensor, parameter = torch.arange(3.0), torch.nn.Parameter(torch.arange(4.0))
    tensor.note = parameter.note = "kept by nobody"
    file = read(saved({"t": tensor, "p": parameter}, layout))
    same(file.tensors["t"], tensor)
    same(file.tensors["p"], parameter)


def stream(root, storages):
    """torch's old stream by hand: ``root`` is a pickle, storages are floats by key."""
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}
    parts = [0x1950A86A20F9469CFC6C, 1001, system]
    content = b"".join(pickle.dumps(part, protocol=2) for part in parts)
    content += root + pickle.dumps(list(storages), protocol=2)
    for values in storages.values():
        content += struct.pack(f"<q{len(values)}f", len(values), *values)
    return content


def viewed(storage, function="_rebuild_tensor", rest=b""):
    """A list of one tensor of two elements over a persistent id."""
    return (
        b"\x80\x02](ctorch._utils\n" + function.encode() + b"\n(" + storage
        + b"K\x00K\x02\x85K\x01\x85" + rest + b"tRe."
    )  # fmt: skip


def persistent(view=b"N"):
    return (
        b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000"
        b"X\x03\x00\x00\x00cpuK\x03" + view + b"tQ"
    )


def test_a_view_of_a_storage_as_the_oldest_files_have_it():
    whole = stream(viewed(persistent()), {"0": (1, 2, 3)})
    assert bytes(read(whole).tensors["0"].load()) == struct.pack("<2f", 1, 2)
    later = stream(viewed(persistent(b"(X\x01\x00\x00\x001K\x01K\x02t")), {"0": (1, 2, 3)})
    assert bytes(read(later).tensors["0"].load()) == struct.pack("<2f", 2, 3)


@pytest.mark.parametrize(
    "content",
    [
        stream(viewed(persistent(b"(X\x01\x00\x00\x001K\x02K\x02t")), {"0": (1, 2, 3)}),
        stream(viewed(persistent(b"K\x01")), {"0": (1, 2, 3)}),
        stream(viewed(persistent()), {"0": (1, 2)}),
        stream(viewed(persistent()), {"1": (1, 2, 3)}),
        stream(viewed(persistent()), {"0": (1, 2, 3), "1": (1,)}),
        stream(viewed(persistent()), {"0": (1, 2, 3)}) + b"x",
        stream(viewed(b"N"), {}),
        stream(viewed(persistent(), "_rebuild_tensor_v2", b"\x89K\x01"), {"0": (1, 2, 3)}),
        stream(viewed(persistent(), "_rebuild_tensor_v2", b"\x89N}X\x03\x00\x00\x00neg\x88s"),
               {"0": (1, 2, 3)}),
        stream(viewed(persistent(), "_rebuild_parameter"), {"0": (1, 2, 3)}),
        stream(viewed(persistent(), "_rebuild_tensor_v3"), {"0": (1, 2, 3)}),
    ],
)  # fmt: skip
def test_a_stream_whose_parts_do_not_fit_is_refused(content):
    assert isinstance(refusal(content), FormatError)


def test_tensors_without_values_are_refused():
    with torch.device("meta"):
        meta = torch.nn.Linear(2, 2)
    assert isinstance(refusal(saved(meta.state_dict())), FormatError | PolicyRefused)


def test_types_that_are_not_supported_are_named():
    assert "ComplexFloatStorage" in refusal(saved({"a": torch.ones(2) * 1j})).message
    sparse = torch.eye(3).to_sparse()
    assert "_rebuild_sparse_tensor" in refusal(saved({"a": sparse})).message
