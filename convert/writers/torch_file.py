"""Writes what ``torch.load(weights_only=True)`` reads: torch's zip archive, without torch.

The archive holds ``data.pkl`` (protocol 2), one stored entry per tensor, ``version`` and
``byteorder`` (torch, ``caffe2/serialize/inline_container.h``). Tensors are aligned to 64
bytes, as torch's own writer does, so that they can be mapped.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from functools import partial

from adaptrix.convert.tensor_file import EncodedFile
from adaptrix.convert.writers.files import encoded_file
from adaptrix.convert.writers.zip_archive import Entry, check_fits, zip_archive
from adaptrix.convert.written import WrittenFile
from adaptrix.schema import media_types
from adaptrix.schema.errors import Refused
from adaptrix.schema.tensor import DType, LazyTensor

_STORAGES = {
    DType.F64: "DoubleStorage", DType.F32: "FloatStorage", DType.F16: "HalfStorage",
    DType.BF16: "BFloat16Storage",
}  # fmt: skip


def torch_file(path: str, tensors: Mapping[str, LazyTensor], inside: str = "") -> WrittenFile:
    """``tensors`` as one dict, below the key ``inside`` when that is given.

    Raises:
        Refused: more than 4 GiB, or an element type that torch's storages do not have.
    """
    check_fits(tensors, path)
    for name, tensor in tensors.items():
        if tensor.dtype not in _STORAGES:
            message = f"{name} is {tensor.dtype.long_name}: not written as a torch file"
            raise Refused(message, where=path, code="unsupported_target")
    return encoded_file(path, partial(_encode, dict(tensors), inside), media_types.WEIGHT_RAW)


def _encode(tensors: Mapping[str, LazyTensor], inside: str) -> EncodedFile:
    entries = [
        Entry(name=b"archive/data.pkl", head=_pickle(tensors, inside)),
        Entry(name=b"archive/byteorder", head=b"little"),
        *(Entry(name=b"archive/data/%d" % i, tensor=name) for i, name in enumerate(tensors)),
        Entry(name=b"archive/version", head=b"3\n"),
    ]
    return zip_archive(entries, tensors)


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
