"""What every container reader returns: lazy tensors by name, and what stands beside them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from adaptrix.convert.source import let_go
from adaptrix.schema.canonical import Json
from adaptrix.schema.errors import FormatError
from adaptrix.schema.tensor import LazyTensor

CHUNK_BYTES = 8 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorFile:
    """An opened container: its header is read and checked, its tensors are not read.

    Attributes:
        name: Relative posix name of the file.
        kind: ``safetensors``, ``pickle``, ``gguf`` or ``npz``.
        tensors: Tensors by the names that the file gives them, in the file's order.
        metadata: Everything in the file that is not a tensor.
    """

    name: str
    kind: str
    tensors: Mapping[str, LazyTensor]
    metadata: Mapping[str, Json]


class EncodedFile(NamedTuple):
    """A file about to be written, as ``(header, chunks, size_bytes)``.

    Attributes:
        header: First bytes of the file, up to the first tensor.
        chunks: The bytes after the header, once, at most 8 MiB at a time.
        size_bytes: Length of header and chunks together.
    """

    header: bytes
    chunks: Iterator[bytes | memoryview]
    size_bytes: int


def tensor_chunks(
    tensors: Mapping[str, LazyTensor], order: list[str], padding: Callable[[int], int]
) -> Iterator[bytes | memoryview]:
    """Yield the bytes of ``tensors`` in ``order``, each followed by its padding.

    Args:
        tensors: Tensors by name.
        order: Names, in the order in which to write.
        padding: Number of zero bytes that follow a tensor of the given length.

    Raises:
        FormatError: a tensor's bytes are not as many as its shape says.
    """
    for name in order:
        tensor = tensors[name]
        content = memoryview(tensor.load()).cast("B")
        if len(content) != tensor.size_bytes:
            raise FormatError(
                f"{len(content)} bytes, its shape needs {tensor.size_bytes}", where=tensor.source
            )
        for start in range(0, len(content), CHUNK_BYTES):
            if start:
                let_go(content)
            yield content[start : start + CHUNK_BYTES]
        if blank := padding(len(content)):
            yield bytes(blank)
