"""Pickles of tensors, read without torch and without running anything.

Three layouts: the zip archive of torch >= 1.6, the stream of pickles of older versions
(``torch.serialization._legacy_save``), and a plain pickle whose tensors carry such a
stream inside. What a stream may name is the table at the end of ``torch_names``; the
interpreter in ``pickle_machine`` can do nothing with any other name. Stable.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import TypeAlias

from adaptrix.convert.limits import printable
from adaptrix.convert.pickle_machine import SAVE_AGAIN, Readable, unpickle
from adaptrix.convert.pickle_tree import flatten
from adaptrix.convert.source import ByteSource, MemorySource
from adaptrix.convert.tensor_file import TensorFile
from adaptrix.convert.torch_names import TorchBuilder
from adaptrix.convert.torch_storage import Storage
from adaptrix.convert.zip_file import ZipEntry
from adaptrix.schema.errors import FormatError, PolicyRefused
from adaptrix.schema.tensor import DType

MAX_PICKLE_BYTES = 64 << 20
ReadNested: TypeAlias = "Callable[[bytes], object]"
_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001


def open_torch_zip(source: ByteSource, entries: Mapping[str, ZipEntry]) -> TensorFile:
    """Read the pickle of a torch zip archive; tensors stay in their entries.

    Raises:
        FormatError: ``bad_pickle``, ``out_of_bounds``, ``size_mismatch``, ``unknown_dtype``, …
        PolicyRefused: ``unsafe_pickle``: it names something else than tensors; ``limit``.
    """
    where = source.name
    main = [name for name in entries if name.rpartition("/")[2] == "data.pkl"]
    if len(main) != 1:
        raise FormatError("several pickles in one archive", where=where, code="bad_zip")
    prefix = main[0].removesuffix("data.pkl")
    if any(name.startswith(prefix + "code/") for name in entries):
        raise PolicyRefused(
            "a TorchScript archive brings its own code",
            where=where,
            code="unsafe_file",
            hint=SAVE_AGAIN,
        )
    order = entries.get(prefix + "byteorder")
    if order is not None and bytes(order.read()) != b"little":
        raise FormatError("a file in big-endian byte order", where=where, code="big_endian")
    if entries[main[0]].size_bytes > MAX_PICKLE_BYTES:
        raise PolicyRefused("a pickle that is too long", where=where, code="limit")

    def find(key: str, dtype: DType | None, count: int) -> Storage:
        entry = entries.get(f"{prefix}data/{key}")
        size = count * (dtype.itemsize if dtype else 1)
        if entry is None or entry.size_bytes != size:
            got = "no bytes" if entry is None else f"{entry.size_bytes} bytes"
            raise FormatError(
                f"storage {printable(key[:20])!r} of {size} bytes has {got} in the file",
                where=where,
                code="size_mismatch",
            )
        return Storage(key=key, dtype=dtype, size_bytes=size, load=entry.read)

    builder = TorchBuilder(source, find)
    root = unpickle(io.BytesIO(entries[main[0]].read()), builder, where)
    return _tensor_file(source, root)


def open_pickle(source: ByteSource) -> TensorFile:
    """Read a pickle that is not in a zip archive: torch's old stream, or a plain one.

    Raises:
        FormatError: ``bad_pickle``, ``truncated``, ``trailing_bytes``, ``out_of_bounds``, …
        PolicyRefused: ``unsafe_pickle``: it names something else than tensors; ``limit``.
    """

    def nested(raw: bytes) -> object:
        return _read_stream(MemorySource(source.name, raw), None)

    return _tensor_file(source, _read_stream(source, nested))


def _tensor_file(source: ByteSource, root: object) -> TensorFile:
    tensors, metadata = flatten(root, source.name)
    return TensorFile(name=source.name, kind="pickle", tensors=tensors, metadata=metadata)


def _read_stream(source: ByteSource, read_nested: ReadNested | None) -> object:
    stream = _Stream(source)
    plain = TorchBuilder(source, _no_storage, read_nested=read_nested)
    root = unpickle(stream, plain, source.name)
    if root == _MAGIC:
        root = _read_legacy(source, stream, read_nested)
    if stream.position != source.size_bytes:
        raise FormatError(
            f"{source.size_bytes - stream.position} bytes after the end of the pickle",
            where=source.name,
            code="trailing_bytes",
        )
    return root


def _read_legacy(source: ByteSource, stream: _Stream, read_nested: ReadNested | None) -> object:
    """Protocol, system, root, storage keys as pickles, then the storages in key order."""
    where = source.name
    inert = TorchBuilder(source, _no_storage)
    protocol = unpickle(stream, inert, where)
    system = unpickle(stream, inert, where)
    if protocol != _PROTOCOL or not isinstance(system, dict):
        raise FormatError("an unknown version of torch's format", where=where, code="bad_pickle")
    if system.get("little_endian") is not True:
        raise FormatError("a file in big-endian byte order", where=where, code="big_endian")
    declared: dict[str, Storage] = {}
    starts: dict[str, int] = {}

    def find(key: str, dtype: DType | None, count: int) -> Storage:
        size = count * (dtype.itemsize if dtype else 1)
        found = declared.setdefault(
            key,
            Storage(
                key=key,
                dtype=dtype,
                size_bytes=size,
                load=lambda: source.read(starts[key], starts[key] + size),
            ),
        )
        if found.dtype is not dtype or found.size_bytes != size:
            raise FormatError("a storage is declared twice", where=where, code="size_mismatch")
        return found

    root = unpickle(stream, TorchBuilder(source, find, read_nested=read_nested), where)
    keys = unpickle(stream, inert, where)
    if not isinstance(keys, list) or not all(type(key) is str for key in keys):
        raise FormatError("no list of storages", where=where, code="bad_pickle")
    if len(keys) != len(declared) or set(keys) != declared.keys():
        raise FormatError("storages are missing or extra", where=where, code="size_mismatch")
    for key in keys:
        _place(source, stream, declared[key], starts)
    return root


def _place(source: ByteSource, stream: _Stream, storage: Storage, starts: dict[str, int]) -> None:
    count = int.from_bytes(stream.read(8), "little", signed=True)
    size = count * (storage.dtype.itemsize if storage.dtype else 1)
    if size != storage.size_bytes:
        raise FormatError(
            f"a storage of {storage.size_bytes} bytes has {size} in the file",
            where=source.name,
            code="size_mismatch",
        )
    starts[storage.key] = stream.position
    stream.position += size
    if stream.position > source.size_bytes:
        raise FormatError(
            f"storages reach byte {stream.position}, the file has {source.size_bytes}",
            where=source.name,
            code="truncated",
            hint="The file is incomplete: fetch it again.",
        )


def _no_storage(key: str, dtype: DType | None, count: int) -> Storage:
    raise FormatError("a storage outside of a torch file", code="bad_pickle")


class _Stream(Readable):
    """A source read from front to back."""

    def __init__(self, source: ByteSource) -> None:
        self._source = source
        self.position = 0

    def read(self, size: int, /) -> bytes:
        start = self.position
        self.position = min(start + size, self._source.size_bytes)
        return bytes(self._source.read(start, self.position))

    def readline(self) -> bytes:
        start = self.position
        # A name or a number; a longer line is no pickle.
        line = self.read(4096)
        end = line.find(b"\n") + 1 or len(line)
        self.position = start + end
        return line[:end]
