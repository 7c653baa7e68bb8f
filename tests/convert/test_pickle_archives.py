"""Archives of tensors: views, sizes and directories that lie, tar, npz, and arbitrary bytes."""

import collections
import io
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
from pickle_makers import (
    LAYOUTS,
    PAYLOADS,
    Call,
    Storage,
    StoragePickler,
    archive,
    read,
    read_all,
    refusal,
    saved,
)

from adaptrix.convert.arrays import to_numpy_f64
from adaptrix.schema.errors import FormatError, PolicyRefused


def rebuilt(offset, size, stride, count=4):
    """A torch zip archive with one float32 storage and one view of it, as given."""
    view = Call(torch._utils._rebuild_tensor_v2, Storage(count), offset, size, stride, False,
                collections.OrderedDict())  # fmt: skip
    main = io.BytesIO()
    StoragePickler(main, protocol=2).dump({"a": view})
    return archive({"data.pkl": main.getvalue(), "data/0": bytes(4 * count), "version": b"3\n"})


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


def test_two_bytes_of_anything_are_bfloat16():
    # What MLX and ml_dtypes write for a type that numpy does not have.
    body = bytes.fromhex("c03f 1040")
    file = read(archive({"a.npy": npy("'<V2'", body=body)}, prefix=""), "adapters.npz")
    assert file.tensors["a"].dtype == "BF16"
    assert to_numpy_f64(file.tensors["a"]).tolist() == [1.5, 2.25]


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
        (npy("'|V3'"), "unknown_dtype"),
        (npy("'>V2'"), "big_endian"),
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
