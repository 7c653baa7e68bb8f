"""Pickles of tensors, read without torch and without running anything.

Three layouts: the zip archive of torch >= 1.6, the stream of pickles of older versions
(``torch.serialization._legacy_save``), and a plain pickle whose tensors carry such a
stream inside. What a stream may name is the table at the end of ``_TorchBuilder``; the
interpreter in ``pickle_machine`` can do nothing with any other name. Stable.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import Any

from adaptrix.convert.limits import printable
from adaptrix.convert.pickle_machine import SAVE_AGAIN, Global, Ordered, Readable, unpickle
from adaptrix.convert.pickle_tree import flatten
from adaptrix.convert.source import ByteSource, MemorySource
from adaptrix.convert.tensor_file import TensorFile
from adaptrix.convert.torch_storage import STORAGE_DTYPES, Storage, strided
from adaptrix.convert.zip_file import ZipEntry
from adaptrix.schema.errors import FormatError, PolicyRefused
from adaptrix.schema.tensor import DType, LazyTensor

MAX_PICKLE_BYTES = 64 << 20
MAX_VIEWS_BYTES = 64 << 20
MAX_VIEWS = 16
"""Tensors may take 64 MiB plus 16 times the file: shared storages, but no 10^12 elements."""
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

    builder = _TorchBuilder(source, find)
    root = unpickle(io.BytesIO(entries[main[0]].read()), builder, where)
    return _tensor_file(source, root)


def open_pickle(source: ByteSource) -> TensorFile:
    """Read a pickle that is not in a zip archive: torch's old stream, or a plain one.

    Raises:
        FormatError: ``bad_pickle``, ``truncated``, ``trailing_bytes``, ``out_of_bounds``, …
        PolicyRefused: ``unsafe_pickle``: it names something else than tensors; ``limit``.
    """
    return _tensor_file(source, _read_stream(source, nested=False))


def _tensor_file(source: ByteSource, root: object) -> TensorFile:
    tensors, metadata = flatten(root, source.name)
    return TensorFile(name=source.name, kind="pickle", tensors=tensors, metadata=metadata)


def _read_stream(source: ByteSource, *, nested: bool) -> object:
    stream = _Stream(source)
    plain = _TorchBuilder(source, _no_storage, nested=nested)
    root = unpickle(stream, plain, source.name)
    if root == _MAGIC:
        root = _read_legacy(source, stream, nested=nested)
    if stream.position != source.size_bytes:
        raise FormatError(
            f"{source.size_bytes - stream.position} bytes after the end of the pickle",
            where=source.name,
            code="trailing_bytes",
        )
    return root


def _read_legacy(source: ByteSource, stream: _Stream, *, nested: bool) -> object:
    """Protocol, system, root, storage keys as pickles, then the storages in key order."""
    where = source.name
    inert = _TorchBuilder(source, _no_storage, nested=True)
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

    root = unpickle(stream, _TorchBuilder(source, find, nested=nested), where)
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


class _StorageClass:
    """Stands for ``torch.FloatStorage`` and its like."""

    def __init__(self, dtype: DType | None) -> None:
        self.dtype = dtype


class _TorchBuilder:
    """What the names in torch's pickles mean; everything else is refused by name."""

    def __init__(
        self,
        source: ByteSource,
        find: Callable[[str, DType | None, int], Storage],
        *,
        nested: bool = False,
    ) -> None:
        self._where = source.name
        self._find = find
        self._nested = nested
        self._left_bytes = MAX_VIEWS_BYTES + MAX_VIEWS * source.size_bytes

    def name(self, found: Global) -> object:
        full = f"{found.module}.{found.name}"
        if full in _CALLS or full in _TENSOR_TYPES:
            return found
        if found.module in ("torch", "torch.cuda", "torch.storage"):
            if found.name in STORAGE_DTYPES:
                return _StorageClass(STORAGE_DTYPES[found.name])
            if found.name in _TORCH_DTYPES:
                return _TORCH_DTYPES[found.name]
            if found.name.endswith("Storage"):
                raise FormatError(
                    f"elements of {found} are not supported",
                    where=self._where,
                    code="unknown_dtype",
                )
        raise PolicyRefused(
            f"the pickle wants to use {found}",
            where=self._where,
            code="unsafe_pickle",
            hint=SAVE_AGAIN,
        )

    def call(self, function: object, arguments: tuple[Any, ...]) -> object:
        action = (
            _CALLS.get(f"{function.module}.{function.name}")
            if isinstance(function, Global)
            else None
        )
        if action is None:
            raise PolicyRefused(
                f"the pickle calls {function if isinstance(function, Global) else 'a value'}",
                where=self._where,
                code="unsafe_pickle",
                hint=SAVE_AGAIN,
            )
        return action(self, *arguments)

    def persistent(self, identifier: object) -> Storage:
        if (
            not isinstance(identifier, tuple)
            or len(identifier) not in (5, 6)
            or identifier[0] != "storage"
        ):
            raise self._broken("a persistent id that is no storage")
        _, kind, key, location, count = identifier[:5]
        if (
            not isinstance(kind, _StorageClass)
            or type(count) is not int
            or not 0 <= count < 1 << 56
        ):
            raise self._broken("a storage without type or size")
        if location == "meta":
            raise FormatError(
                "the tensors were saved without values (meta device)",
                where=self._where,
                code="no_values",
            )
        storage = self._find(_text(key), kind.dtype, count)
        view = identifier[5] if len(identifier) == 6 else None
        return storage if view is None else self._storage_view(storage, view)

    def _storage_view(self, storage: Storage, view: object) -> Storage:
        """A part of a storage, as torch before 1.0 saved it: ``(key, offset, count)``."""
        if not isinstance(view, tuple) or len(view) != 3 or not _whole(view[1:]):
            raise self._broken("a view of a storage that is none")
        width = storage.dtype.itemsize if storage.dtype else 1
        start, stop = view[1] * width, (view[1] + view[2]) * width
        if stop > storage.size_bytes:
            raise self._broken("a view reaches outside of its storage")
        return Storage(
            key=storage.key,
            dtype=storage.dtype,
            size_bytes=stop - start,
            load=lambda: memoryview(storage.load())[start:stop],
        )

    def tensor(
        self,
        storage: object,
        offset: object,
        shape: object,
        stride: object,
        requires_grad: object = False,
        hooks: object = None,
        metadata: object = None,
    ) -> LazyTensor:
        dtype = storage.dtype if isinstance(storage, Storage) else None
        return self.typed_tensor(
            storage, offset, shape, stride, requires_grad, hooks, dtype, metadata
        )

    def typed_tensor(
        self,
        storage: object,
        offset: object,
        shape: object,
        stride: object,
        requires_grad: object,
        hooks: object,
        dtype: object,
        metadata: object = None,
    ) -> LazyTensor:
        if not isinstance(storage, Storage) or not isinstance(dtype, DType):
            raise self._broken("a tensor without storage or type")
        if (
            not isinstance(shape, tuple)
            or not isinstance(stride, tuple)
            or not _whole((offset, *shape, *stride))
        ):
            raise self._broken("a tensor whose shape is no list of whole numbers")
        if hooks or (isinstance(metadata, dict) and any(metadata.values())):
            raise FormatError(
                "a tensor with hooks, or a conjugated or negated view",
                where=self._where,
                code="unknown_dtype",
            )
        assert isinstance(offset, int)
        found = strided(storage, dtype, offset, shape, stride, self._where)
        self._left_bytes -= found.size_bytes
        if self._left_bytes < 0:
            raise PolicyRefused(
                f"tensors of shape {list(shape)} that are far larger than the file",
                where=self._where,
                code="limit",
            )
        return found

    def parameter(
        self,
        tensor: object,
        requires_grad: object = True,
        hooks: object = None,
        state: object = None,
    ) -> LazyTensor:
        if not isinstance(tensor, LazyTensor) or hooks:
            raise self._broken("a parameter that is no tensor")
        return tensor

    def from_type(self, function: object, kind: object, arguments: object, state: object) -> object:
        if (
            not isinstance(kind, Global)
            or str(kind) not in _TENSOR_TYPES
            or not isinstance(arguments, tuple)
        ):
            raise self._broken("a tensor of an unknown class")
        return self.call(function, arguments)

    def storage_bytes(self, raw: object) -> Storage:
        if self._nested or not isinstance(raw, bytes):
            raise self._broken("a storage inside a storage")
        storage = _read_stream(MemorySource(self._where, raw), nested=True)
        if not isinstance(storage, Storage):
            raise self._broken("a storage that is none")
        return storage

    def ordered(self, items: object = ()) -> Ordered:
        if not isinstance(items, list | tuple) or not all(
            isinstance(i, list | tuple) and len(i) == 2 and type(i[0]) in (str, int) for i in items
        ):
            raise self._broken("an OrderedDict of what is no list of pairs")
        return Ordered(items)

    def size(self, numbers: object = ()) -> tuple[int, ...]:
        if not isinstance(numbers, tuple) or not _whole(numbers):
            raise self._broken("a torch.Size of what are no whole numbers")
        return numbers

    def device(self, kind: object, index: object = None) -> str:
        return _text(kind) if index is None else f"{_text(kind)}:{index}"

    def encode(self, text: object, encoding: object = "utf-8") -> bytes:
        # How pickle protocol 2 writes bytes.
        if encoding not in ("latin1", "latin-1", "utf-8"):
            raise self._broken("an unknown encoding")
        return _text(text).encode("utf-8" if encoding == "utf-8" else "latin-1")

    def _broken(self, message: str) -> FormatError:
        return FormatError(message, where=self._where, code="bad_pickle")


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("text is wanted")
    return value


def _whole(values: tuple[Any, ...]) -> bool:
    return all(type(n) is int and 0 <= n < 1 << 62 for n in values)


_CALLS: dict[str, Callable[..., object]] = {
    "torch._utils._rebuild_tensor": _TorchBuilder.tensor,
    "torch._utils._rebuild_tensor_v2": _TorchBuilder.tensor,
    "torch._utils._rebuild_tensor_v3": _TorchBuilder.typed_tensor,
    "torch._utils._rebuild_parameter": _TorchBuilder.parameter,
    "torch._utils._rebuild_parameter_with_state": _TorchBuilder.parameter,
    "torch._tensor._rebuild_from_type_v2": _TorchBuilder.from_type,
    "torch.storage._load_from_bytes": _TorchBuilder.storage_bytes,
    "torch.Size": _TorchBuilder.size,
    "torch.device": _TorchBuilder.device,
    "collections.OrderedDict": _TorchBuilder.ordered,
    "_codecs.encode": _TorchBuilder.encode,
}
"""Everything that a pickle may call, and what happens instead of the call."""
_TENSOR_TYPES = {"torch.Tensor", "torch.nn.parameter.Parameter"}
_TORCH_DTYPES = {dtype.long_name: dtype for dtype in DType}
