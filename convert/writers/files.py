"""Files about to be written, as streams that can be asked for again."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from adaptrix.convert.tensor_file import EncodedFile
from adaptrix.convert.written import WrittenFile


def bytes_file(path: str, data: bytes, media_type: str) -> WrittenFile:
    """A small file held in memory."""

    def chunks() -> Iterator[bytes | memoryview]:
        yield data

    return WrittenFile(path=path, chunks=chunks, size_bytes=len(data), media_type=media_type)


def encoded_file(path: str, encode: Callable[[], EncodedFile], media_type: str) -> WrittenFile:
    """A tensor file; ``encode`` is called once for the size and once per stream."""

    def chunks() -> Iterator[bytes | memoryview]:
        encoded = encode()
        yield encoded.header
        yield from encoded.chunks

    size = encode().size_bytes
    return WrittenFile(path=path, chunks=chunks, size_bytes=size, media_type=media_type)
