"""Writes numpy's ``.npz``: a zip archive with one ``.npy`` entry per tensor, streamed.

Entries are sorted by name. numpy has no bfloat16 (what MLX writes instead, two bytes of
anything, is no number to numpy): those tensors are widened to float32, which changes no value.
Format: numpy.lib.format, version 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from adaptrix.convert.arrays import widened
from adaptrix.convert.tensor_file import EncodedFile
from adaptrix.convert.writers.files import encoded_file
from adaptrix.convert.writers.zip_archive import Entry, check_fits, zip_archive
from adaptrix.convert.written import WrittenFile
from adaptrix.schema import media_types
from adaptrix.schema.errors import Refused
from adaptrix.schema.report import Problem
from adaptrix.schema.tensor import DType, LazyTensor

_DESCRIPTIONS = {DType.F64: "<f8", DType.F32: "<f4", DType.F16: "<f2"}
_ALIGNMENT = 64


def transposed_npz(
    path: str, tensors: Mapping[str, LazyTensor]
) -> tuple[WrittenFile, tuple[Problem, ...]]:
    """A file with the transposes of ``tensors``, and a note when their type had to change.

    A transposed matrix is the same bytes with ``fortran_order``, so none is moved.

    Raises:
        Refused: elements that numpy has no type for, or more than a zip archive holds.
    """
    wide = [name for name, tensor in tensors.items() if tensor.dtype is DType.BF16]
    held = {n: widened(t) if t.dtype is DType.BF16 else t for n, t in sorted(tensors.items())}
    for name, tensor in held.items():
        if tensor.dtype not in _DESCRIPTIONS:
            message = f"{name} is {tensor.dtype.long_name}, which npz has no type for"
            raise Refused(message, where=path, code="unsupported_target")
    check_fits(held, path)
    note = f"{len(wide)} bfloat16 tensors are float32 in the file, with the same values"
    notes = (Problem.of("wide_dtype", note, where=path),) if wide else ()
    return encoded_file(path, partial(_encode, held), media_types.WEIGHT_RAW), notes


def _encode(tensors: Mapping[str, LazyTensor]) -> EncodedFile:
    entries = [
        Entry(name=f"{name}.npy".encode(), head=_head(tensor), tensor=name)
        for name, tensor in tensors.items()
    ]
    return zip_archive(entries, tensors)


def _head(tensor: LazyTensor) -> bytes:
    shape = f"({', '.join(map(str, tensor.shape[::-1]))}{',' * (len(tensor.shape) == 1)})"
    descr = _DESCRIPTIONS[tensor.dtype]
    text = f"{{'descr': '{descr}', 'fortran_order': True, 'shape': {shape}, }}"
    padding = -(10 + len(text) + 1) % _ALIGNMENT
    line = f"{text}{' ' * padding}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(line).to_bytes(2, "little") + line
