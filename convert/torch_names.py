"""The names that may stand in torch's pickles, and what happens instead of calling them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from adaptrix.convert.pickle_machine import SAVE_AGAIN, Global, Ordered
from adaptrix.convert.source import ByteSource
from adaptrix.convert.torch_storage import STORAGE_DTYPES, Storage, View, strided
from adaptrix.schema.errors import FormatError, PolicyRefused
from adaptrix.schema.tensor import DType, LazyTensor

MAX_VIEWS_BYTES = 64 << 20
MAX_VIEWS = 16
"""Tensors may take 64 MiB plus 16 times the file: shared storages, but no 10^12 elements."""
FindStorage: TypeAlias = Callable[[str, DType | None, int], Storage]
"""Storage by key, element type and number of elements."""


class _StorageClass:
    """Stands for ``torch.FloatStorage`` and its like."""

    def __init__(self, dtype: DType | None) -> None:
        self.dtype = dtype


class TorchBuilder:
    """What the names in torch's pickles mean; everything else is refused by name."""

    def __init__(
        self,
        source: ByteSource,
        find: FindStorage,
        *,
        read_nested: Callable[[bytes], object] | None = None,
    ) -> None:
        """Build for ``source``; ``read_nested`` reads a storage that is a stream in bytes."""
        self._where = source.name
        self._find = find
        self._read_nested = read_nested
        self._left_bytes = MAX_VIEWS_BYTES + MAX_VIEWS * source.size_bytes

    def name(self, found: Global) -> object:
        """Return what ``found`` stands for: itself when it may be called, or a type.

        Raises:
            PolicyRefused: ``unsafe_pickle``: it is not in the tables below.
            FormatError: ``unknown_dtype``: complex or quantised elements.
        """
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
        """Do what stands in the table beside ``function``.

        Raises:
            PolicyRefused: ``unsafe_pickle``: nothing stands there.
            FormatError: ``bad_pickle`` and others: the arguments do not fit.
        """
        called = function if isinstance(function, Global) else "a value"
        action = _CALLS.get(str(called))
        if action is None:
            raise PolicyRefused(
                f"the pickle calls {called}",
                where=self._where,
                code="unsafe_pickle",
                hint=SAVE_AGAIN,
            )
        return action(self, *arguments)

    def persistent(self, identifier: object) -> Storage:
        """Find the storage of ``("storage", type, key, location, count[, view])``.

        The location is where it was when it was saved (``cuda:0``) and means nothing here.

        Raises:
            FormatError: ``bad_pickle``, ``no_values``, ``size_mismatch``.
        """
        if not isinstance(identifier, tuple) or identifier[:1] != ("storage",):
            raise self._broken("a persistent id that is no storage")
        if len(identifier) not in (5, 6):
            raise self._broken("a persistent id that is no storage")
        _, kind, key, location, count = identifier[:5]
        if not isinstance(kind, _StorageClass) or not _whole((count,)):
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

    def tensor(self, storage: object, *arguments: object) -> LazyTensor:
        """``offset, size, stride[, requires_grad, hooks[, metadata]]``."""
        dtype = storage.dtype if isinstance(storage, Storage) else None
        return self._tensor(storage, dtype, arguments[:3], arguments[4:])

    def typed_tensor(self, storage: object, *arguments: object) -> LazyTensor:
        """``offset, size, stride, requires_grad, hooks, dtype[, metadata]``."""
        rest = (*arguments[4:5], *arguments[6:])
        return self._tensor(storage, arguments[5], arguments[:3], rest)

    def _tensor(
        self, storage: object, dtype: object, view: tuple[object, ...], rest: tuple[object, ...]
    ) -> LazyTensor:
        offset, shape, stride = view
        if not isinstance(storage, Storage) or not isinstance(dtype, DType):
            raise self._broken("a tensor without storage or type")
        if not isinstance(shape, tuple) or not isinstance(stride, tuple):
            raise self._broken("a tensor without shape or strides")
        if not _whole((offset, *shape, *stride)):
            raise self._broken("a tensor whose shape is no list of whole numbers")
        # Hooks are functions; metadata marks conjugated and negated views.
        if any(any(x.values()) if isinstance(x, dict) else x for x in rest):
            raise self._broken("a tensor with hooks, or a conjugated or negated view")
        assert isinstance(offset, int)
        found = strided(storage, dtype, View(offset, shape, stride), self._where)
        self._left_bytes -= found.size_bytes
        if self._left_bytes < 0:
            raise PolicyRefused(
                f"tensors of shape {list(shape)} that are far larger than the file",
                where=self._where,
                code="limit",
            )
        return found

    def parameter(self, tensor: object, *arguments: object) -> LazyTensor:
        """``requires_grad, hooks[, attributes]``: the attributes are dropped."""
        if not isinstance(tensor, LazyTensor) or any(arguments[1:2]):
            raise self._broken("a parameter that is no tensor")
        return tensor

    def from_type(self, function: object, kind: object, arguments: object, _: object) -> object:
        """A tensor with attributes, which are dropped."""
        if str(kind) not in _TENSOR_TYPES or not isinstance(arguments, tuple):
            raise self._broken("a tensor of an unknown class")
        return self.call(function, arguments)

    def storage_bytes(self, raw: object) -> Storage:
        """A storage in a plain pickle: torch's old stream, as bytes."""
        if self._read_nested is None or not isinstance(raw, bytes):
            raise self._broken("a storage inside a storage")
        storage = self._read_nested(raw)
        if not isinstance(storage, Storage):
            raise self._broken("a storage that is none")
        return storage

    def ordered(self, items: object = ()) -> Ordered:
        """An OrderedDict of a list of pairs."""
        if not isinstance(items, list | tuple) or not all(
            isinstance(i, list | tuple) and len(i) == 2 and type(i[0]) in (str, int) for i in items
        ):
            raise self._broken("an OrderedDict of what is no list of pairs")
        return Ordered(items)

    def size(self, numbers: object = ()) -> tuple[int, ...]:
        """A ``torch.Size``."""
        if not isinstance(numbers, tuple) or not _whole(numbers):
            raise self._broken("a torch.Size of what are no whole numbers")
        return numbers

    def device(self, kind: object, index: object = None) -> str:
        """A ``torch.device``, as text."""
        return _text(kind) if index is None else f"{_text(kind)}:{index}"

    def encode(self, text: object, encoding: object = "utf-8") -> bytes:
        """Bytes, as pickle protocol 2 writes them."""
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
    "torch._utils._rebuild_tensor": TorchBuilder.tensor,
    "torch._utils._rebuild_tensor_v2": TorchBuilder.tensor,
    "torch._utils._rebuild_tensor_v3": TorchBuilder.typed_tensor,
    "torch._utils._rebuild_parameter": TorchBuilder.parameter,
    "torch._utils._rebuild_parameter_with_state": TorchBuilder.parameter,
    "torch._tensor._rebuild_from_type_v2": TorchBuilder.from_type,
    "torch.storage._load_from_bytes": TorchBuilder.storage_bytes,
    "torch.Size": TorchBuilder.size,
    "torch.device": TorchBuilder.device,
    "collections.OrderedDict": TorchBuilder.ordered,
    "_codecs.encode": TorchBuilder.encode,
}
"""Everything that a pickle may call, and what happens instead of the call."""
_TENSOR_TYPES = {"torch.Tensor", "torch.nn.parameter.Parameter"}
_TORCH_DTYPES = {dtype.long_name: dtype for dtype in DType}
