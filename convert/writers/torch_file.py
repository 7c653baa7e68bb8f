"""Writes what ``torch.load(weights_only=True)`` reads: torch's zip archive, without torch.

The archive holds ``data.pkl`` (protocol 2), one stored entry per tensor, ``version`` and
``byteorder`` (torch, ``caffe2/serialize/inline_container.h``). Tensors are aligned to 64
bytes, as torch's own writer does, so that they can be mapped.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial

from adaptrix.convert.tensor_file import EncodedFile, tensor_chunks
from adaptrix.convert.writers.files import encoded_file
from adaptrix.convert.written import WrittenFile
from adaptrix.schema import media_types
from adaptrix.schema.errors import Refused
from adaptrix.schema.tensor import DType, LazyTensor

_STORAGES = {
    DType.F64: "DoubleStorage", DType.F32: "FloatStorage", DType.F16: "HalfStorage",
    DType.BF16: "BFloat16Storage",
}  # fmt: skip
_ALIGNMENT = 64
_MOST_BYTES = (1 << 32) - (1 << 20)
"""Sizes and offsets of a zip archive without its 64-bit extension."""


def torch_file(path: str, tensors: Mapping[str, LazyTensor], inside: str = "") -> WrittenFile:
    """``tensors`` as one dict, below the key ``inside`` when that is given.

    Raises:
        Refused: more than 4 GiB, or an element type that torch's storages do not have.
    """
    size = sum(tensor.size_bytes for tensor in tensors.values())
    wrong = [t for t in tensors.values() if t.dtype not in _STORAGES]
    if wrong or size > _MOST_BYTES:
        message = f"{wrong[0].source} is {wrong[0].dtype.long_name}" if wrong else f"{size} bytes"
        raise Refused(f"{message}: not written as a torch file", where=path)
    return encoded_file(path, partial(_encode, dict(tensors), inside), media_types.WEIGHT_RAW)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    name: bytes
    size_bytes: int
    content: bytes | None = None
    tensor: str = ""


def _encode(tensors: Mapping[str, LazyTensor], inside: str) -> EncodedFile:
    pickle = _pickle(tensors, inside)
    entries = [
        _Entry(name=b"archive/data.pkl", size_bytes=len(pickle), content=pickle),
        _Entry(name=b"archive/byteorder", size_bytes=6, content=b"little"),
        *(
            _Entry(name=b"archive/data/%d" % i, size_bytes=t.size_bytes, tensor=name)
            for i, (name, t) in enumerate(tensors.items())
        ),
        _Entry(name=b"archive/version", size_bytes=2, content=b"3\n"),
    ]
    size, directory = 0, 22
    for entry in entries:
        size += len(_local(entry, size, 0)) + entry.size_bytes
        directory += 46 + len(entry.name)
    return EncodedFile(b"", _chunks(entries, tensors), size + directory)


def _chunks(
    entries: list[_Entry], tensors: Mapping[str, LazyTensor]
) -> Iterator[bytes | memoryview]:
    offset, records = 0, []
    for entry in entries:
        checksum = 0
        for part in _content(entry, tensors):
            checksum = zlib.crc32(part, checksum)
        head = _local(entry, offset, checksum)
        records.append(_central(entry, offset, checksum))
        yield head
        yield from _content(entry, tensors)
        offset += len(head) + entry.size_bytes
    central = b"".join(records)
    count = len(entries)
    yield central
    yield struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, count, count, len(central), offset, 0)


def _content(entry: _Entry, tensors: Mapping[str, LazyTensor]) -> Iterator[bytes | memoryview]:
    if entry.content is not None:
        return iter([entry.content])
    return tensor_chunks(tensors, [entry.tensor], lambda _: 0)


def _fields(entry: _Entry, checksum: int) -> bytes:
    """Version, flags, method (stored), time and date (1980-01-01), CRC, both sizes."""
    size = entry.size_bytes
    return struct.pack("<HHHHHIII", 20, 0, 0, 0, 0x21, checksum, size, size)


def _local(entry: _Entry, offset: int, checksum: int) -> bytes:
    begin = offset + 30 + len(entry.name) + 4
    padding = -begin % _ALIGNMENT
    extra = b"FB" + struct.pack("<H", padding) + b"Z" * padding
    lengths = struct.pack("<HH", len(entry.name), len(extra))
    return b"PK\x03\x04" + _fields(entry, checksum) + lengths + entry.name + extra


def _central(entry: _Entry, offset: int, checksum: int) -> bytes:
    rest = struct.pack("<HHHHHII", len(entry.name), 0, 0, 0, 0, 0, offset)
    return b"PK\x01\x02" + struct.pack("<H", 20) + _fields(entry, checksum) + rest + entry.name


def _pickle(tensors: Mapping[str, LazyTensor], inside: str) -> bytes:
    body = b"".join(_text(name) + _tensor(str(i), t) for i, (name, t) in enumerate(tensors.items()))
    state = b"}(" + body + b"u"
    if inside:
        state = b"}(" + _text(inside) + state + b"u"
    return b"\x80\x02" + state + b"."


def _tensor(key: str, tensor: LazyTensor) -> bytes:
    """``_rebuild_tensor_v2(storage, 0, shape, stride, False, OrderedDict())``."""
    strides: list[int] = []
    step = 1
    for length in reversed(tensor.shape):
        strides.insert(0, step)
        step *= length
    storage = b"(" + _text("storage") + _global("torch", _STORAGES[tensor.dtype])
    storage += _text(key) + _text("cpu") + _int(tensor.count) + b"tQ"
    arguments = storage + _int(0) + _tuple(tensor.shape) + _tuple(strides) + b"\x89"
    ordered = _global("collections", "OrderedDict") + b")R"
    return _global("torch._utils", "_rebuild_tensor_v2") + b"(" + arguments + ordered + b"tR"


def _global(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def _text(text: str) -> bytes:
    encoded = text.encode()
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def _int(number: int) -> bytes:
    if number < 1 << 31:
        return b"J" + struct.pack("<i", number)
    encoded = number.to_bytes(8, "little", signed=True)
    return b"\x8a" + bytes([len(encoded)]) + encoded


def _tuple(numbers: tuple[int, ...] | list[int]) -> bytes:
    return b"(" + b"".join(map(_int, numbers)) + b"t"
