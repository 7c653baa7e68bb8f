"""numpy's ``.npz``: a zip archive of ``.npy`` entries, as older MLX tools write adapters.

The header of an entry is Python text; it is matched by a pattern and never evaluated.
Format: numpy.lib.format, versions 1 to 3.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from adaptrix.convert.arrays import UINT, content
from adaptrix.convert.limits import check_name, check_shape, check_some, printable
from adaptrix.convert.numeric import np
from adaptrix.convert.source import ByteSource
from adaptrix.convert.tensor_file import TensorFile
from adaptrix.convert.zip_file import ZipEntry
from adaptrix.schema.errors import FormatError, PolicyRefused
from adaptrix.schema.tensor import DType, LazyTensor

_MAX_HEADER_BYTES = 4096
_ITEM = (
    r"""(?:['"]descr['"]\s*:\s*['"](?P<descr>[^'"]{1,16})['"]"""
    r"""|['"]fortran_order['"]\s*:\s*(?P<fortran>True|False)"""
    r"""|['"]shape['"]\s*:\s*\((?P<shape>[0-9L,\s]*)\))"""
)
_HEADER = re.compile(r"\{\s*(?P<items>.*?)\s*,?\s*\}\s*", re.DOTALL)
_DTYPES = {
    "f8": DType.F64, "f4": DType.F32, "f2": DType.F16, "i8": DType.I64, "i4": DType.I32,
    "i2": DType.I16, "i1": DType.I8, "u8": DType.U64, "u4": DType.U32, "u2": DType.U16,
    "u1": DType.U8, "b1": DType.BOOL,
    # numpy has no bfloat16: MLX and ml_dtypes say "two bytes of anything".
    "V2": DType.BF16,
}  # fmt: skip


def open_npz(source: ByteSource, entries: Mapping[str, ZipEntry]) -> TensorFile:
    """Read the headers of all entries; names lose their ``.npy``.

    Raises:
        FormatError: ``bad_npy``, ``unknown_dtype``, ``bad_shape``, ``size_mismatch``,
            ``big_endian``, ``corrupt``, ``bad_name``, ``no_tensors``.
        PolicyRefused: ``unsafe_pickle``: an array of Python objects.
    """
    tensors: dict[str, LazyTensor] = {}
    for file_name, entry in entries.items():
        name = check_name(file_name.removesuffix(".npy"), source.name)
        tensors[name] = _tensor(entry, f"{source.name}:{name}")
    check_some(tensors, source.name)
    return TensorFile(name=source.name, kind="npz", tensors=tensors, metadata={})


def _tensor(entry: ZipEntry, where: str) -> LazyTensor:
    start, descr, fortran, shape = _header(bytes(entry.head(_MAX_HEADER_BYTES)), where)
    dtype = _dtype(descr, where)
    size = check_shape(shape, where) * dtype.itemsize
    if entry.size_bytes != start + size:
        raise FormatError(
            f"an array of {size} bytes in an entry with {entry.size_bytes - start}",
            where=where,
            code="size_mismatch",
        )

    def load() -> bytes | memoryview:
        body = memoryview(entry.read())[start:]
        if not fortran:
            return body
        columns = np.frombuffer(body, dtype=UINT[dtype.itemsize]).reshape(shape, order="F")
        return content(columns)

    return LazyTensor(dtype=dtype, shape=shape, source=where, load=load)


def _header(head: bytes, where: str) -> tuple[int, str, bool, tuple[int, ...]]:
    version = head[6:7]
    if head[:6] != b"\x93NUMPY" or version not in (b"\x01", b"\x02", b"\x03"):
        raise FormatError("no .npy array", where=where, code="bad_npy")
    width = 2 if version == b"\x01" else 4
    start = 8 + width + int.from_bytes(head[8 : 8 + width], "little")
    text = head[8 + width : start].decode("latin-1")
    if start > len(head):
        raise FormatError("the array's header is cut off or too long", where=where, code="bad_npy")
    outer = _HEADER.fullmatch(text)
    fields: dict[str, str] = {}
    rest = outer["items"] if outer else ""
    while rest and (item := re.match(_ITEM, rest)):
        fields.update({k: v for k, v in item.groupdict().items() if v is not None})
        rest = rest[item.end() :].lstrip(", ")
    if rest or fields.keys() != {"descr", "fortran", "shape"}:
        if "'O'" in text or "|O" in text:
            raise _objects(where)
        raise FormatError(
            f"an array described as {printable(text[:60])!r}", where=where, code="bad_npy"
        )
    numbers = [part.strip().rstrip("L") for part in fields["shape"].split(",")]
    if not all(n.isdecimal() and len(n) < 20 for n in numbers if n):
        raise FormatError("a shape that is none", where=where, code="bad_shape")
    shape = tuple(int(n) for n in numbers if n)
    return start, fields["descr"], fields["fortran"] == "True", shape


def _dtype(descr: str, where: str) -> DType:
    order, code = descr[:1], descr[1:]
    if "O" in descr:
        raise _objects(where)
    dtype = _DTYPES.get(code)
    if dtype is None or order not in "<>|=":
        raise FormatError(
            f"elements {printable(descr)!r} are not supported", where=where, code="unknown_dtype"
        )
    if order == ">" and dtype.itemsize > 1:
        raise FormatError("big-endian elements", where=where, code="big_endian")
    return dtype


def _objects(where: str) -> PolicyRefused:
    return PolicyRefused(
        "an array of Python objects is a pickle", where=where, code="unsafe_pickle"
    )
