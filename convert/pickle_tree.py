"""Nested containers from a pickle, flattened to tensors and metadata by dotted names."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from adaptrix.convert.limits import check_count, check_name, check_some, printable
from adaptrix.schema.canonical import Json
from adaptrix.schema.errors import FormatError, PolicyRefused
from adaptrix.schema.tensor import DType, LazyTensor

MAX_DEPTH = 32
MAX_NODES = 300_000


def flatten(root: object, where: str) -> tuple[dict[str, LazyTensor], dict[str, Json]]:
    """Tensors and everything else in ``root``, by dotted names in the file's order.

    ``{"model": {"x": t, "rank": 8}}`` gives ``model.x`` and ``model.rank``; the elements
    of a list are named ``0``, ``1``, …; a tensor alone is named ``0``.

    Raises:
        FormatError: ``no_tensors``, ``bad_name``, ``duplicate_tensor``, ``bad_pickle``.
        PolicyRefused: ``limit``: nested or repeated without end.
    """
    tensors: dict[str, LazyTensor] = {}
    metadata: dict[str, Json] = {}
    for name, value in _Walk(where).leaves("", [root] if isinstance(root, LazyTensor) else root, 0):
        if name in tensors or name in metadata:
            raise FormatError(
                f"two entries are named {printable(name[:80])!r}",
                where=where,
                code="duplicate_tensor",
            )
        if isinstance(value, LazyTensor):
            place = f"{where}:{check_name(name, where)}"
            tensors[name] = replace(value, source=place)
        else:
            metadata[printable(name)] = _json(value, where)
    check_count(len(tensors), where)
    check_some(tensors, where)
    return tensors, metadata


class _Walk:
    """One walk over a tree that may share or contain itself, within a budget."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._nodes = 0

    def leaves(self, name: str, value: object, depth: int) -> Iterator[tuple[str, object]]:
        size = len(value) if isinstance(value, dict | list | tuple | set) else 1
        self._nodes += 1 + size
        if depth > MAX_DEPTH or self._nodes > MAX_NODES:
            raise PolicyRefused(
                "containers nested or repeated without end", where=self._where, code="limit"
            )
        if isinstance(value, dict) and (value or not name):
            children = value.items()
        elif isinstance(value, list | tuple) and not all(map(_is_scalar, value)):
            children = dict(enumerate(value)).items()
        else:
            yield name, value
            return
        for key, child in children:
            yield from self.leaves(f"{name}.{key}" if name else str(key), child, depth + 1)


def _is_scalar(value: object) -> bool:
    return value is None or isinstance(value, str | int | float | DType | bytes)


def _json(value: object, where: str) -> Json:
    if isinstance(value, DType):
        return value.long_name
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, bytes | bytearray):
        return f"<{len(value)} bytes>"
    if isinstance(value, list | tuple | set):
        return [_json(element, where) for element in value]
    if value == {}:
        return {}
    raise FormatError(
        f"a {type(value).__name__.strip('_')} stands where a tensor or a value is expected",
        where=where,
        code="bad_pickle",
    )
