"""Pickles that torch itself wrote, and pickles that want more than tensors."""

import collections
import io
import pickle
import struct
import zipfile

import pytest
import torch
from pickle_makers import (
    LAYOUTS,
    PAYLOADS,
    read,
    refusal,
    saved,
)

from adaptrix.schema.errors import FormatError, PolicyRefused

DTYPES = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32,
    torch.int16, torch.int8, torch.uint8, torch.bool, torch.uint16, torch.uint32, torch.uint64,
    torch.float8_e4m3fn, torch.float8_e5m2,
]  # fmt: skip


def same(found, expected):
    assert found.shape == tuple(expected.shape)
    assert found.dtype.long_name == str(expected.dtype).removeprefix("torch.")
    flat = torch.zeros(expected.numel(), dtype=expected.dtype).copy_(expected.detach().reshape(-1))
    assert bytes(found.load()) == flat.view(torch.uint8).numpy().tobytes()


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
