"""Weights of safetensors files, mapped: nothing is read before it is wanted.

The mapped tensors are the pristine weights for as long as the base lives. Nobody writes
to them; a merged module gets memory of its own, and leaving puts the mapped tensor back.
Copying a mapped page costs a fault each 4 KiB, which on two cores took longer than the
arithmetic of a merge; so what is written goes into memory advised for huge pages.
"""

from __future__ import annotations

import json
import mmap
import os
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from adaptrix.schema.errors import FormatError, IntegrityError

_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8,
    "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
HUGE_PAGE_BYTES = 2 << 20
MAX_HEADER_BYTES = 100 << 20


def drop_pages(memory: mmap.mmap, begin: int, size_bytes: int) -> None:
    """Give back the pages that lie wholly in this range of a mapping nobody has written to.

    They come from the file again when they are touched.
    """
    first = -(-begin // mmap.PAGESIZE) * mmap.PAGESIZE
    length = (begin + size_bytes) // mmap.PAGESIZE * mmap.PAGESIZE - first
    if length > 0 and hasattr(mmap, "MADV_DONTNEED"):
        memory.madvise(mmap.MADV_DONTNEED, first, length)


class MappedFile:
    """One safetensors file, mapped copy-on-write; it stays open so that it stays itself."""

    def __init__(self, path: Path) -> None:
        """Map ``path`` and read its header.

        Raises:
            FormatError: not a safetensors file, or of element types that torch lacks.
            OSError: it cannot be opened.
        """
        self.path = path
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._descriptor)
        self._seen = _identity(self._descriptor)
        if path.stat().st_size < 8:
            raise FormatError("not a safetensors file", where=str(path))
        # Private, so that torch takes it as writable; nothing writes to it.
        self._map = mmap.mmap(self._descriptor, 0, access=mmap.ACCESS_COPY)
        self._start = torch.frombuffer(self._map, dtype=torch.uint8).data_ptr()
        self.tensors: Mapping[str, torch.Tensor] = dict(self._read())

    def _read(self) -> Iterator[tuple[str, torch.Tensor]]:
        length = int.from_bytes(self._map[:8], "little")
        if length > min(MAX_HEADER_BYTES, len(self._map) - 8):
            raise FormatError("the header is longer than the file", where=str(self.path))
        try:
            header = json.loads(self._map[8 : 8 + length])
            for name, entry in header.items():
                if name != "__metadata__":
                    yield name, self._tensor(8 + length, entry)
        except (KeyError, ValueError, TypeError, RuntimeError) as error:
            text = f"cannot be read as safetensors: {error}"
            raise FormatError(text, where=str(self.path)) from error

    def _tensor(self, body: int, entry: Mapping[str, Any]) -> torch.Tensor:
        dtype, shape = _DTYPES[entry["dtype"]], tuple(entry["shape"])
        begin, end = entry["data_offsets"]
        count = (end - begin) // dtype.itemsize
        if not count:
            return torch.empty(shape, dtype=dtype)
        flat = torch.frombuffer(self._map, dtype=dtype, offset=body + begin, count=count)
        # Some kernels need aligned elements, and not every writer pads its header.
        aligned = flat.data_ptr() % dtype.itemsize == 0
        return (flat if aligned else flat.clone()).reshape(shape)

    def holds(self, tensor: torch.Tensor) -> bool:
        """Whether ``tensor`` is a view of this file."""
        return 0 <= tensor.data_ptr() - self._start < len(self._map)

    def drop(self, tensor: torch.Tensor) -> None:
        """Give the pages of ``tensor`` back; they come from the file again when touched."""
        drop_pages(self._map, tensor.data_ptr() - self._start, tensor.nbytes)

    def require_unchanged(self) -> None:
        """Refuse to go on with a file that somebody has written to.

        Raises:
            IntegrityError: its size or time of modification is another.
        """
        if _identity(self._descriptor) != self._seen:
            raise IntegrityError(
                "the base model's file has changed since it was loaded",
                where=str(self.path),
                hint="Load the base again.",
            )


class Checkpoint:
    """All files of a base model."""

    def __init__(self, paths: list[Path]) -> None:
        """Map every file.

        Raises:
            FormatError: one is no safetensors file, or two hold the same tensor.
            OSError: one cannot be opened.
        """
        self.files = [MappedFile(path) for path in paths]
        self.tensors: dict[str, torch.Tensor] = {}
        for file in self.files:
            for name, tensor in file.tensors.items():
                if name in self.tensors:
                    raise FormatError(f"{name} is in two files", where=str(file.path))
                self.tensors[name] = tensor

    def holds(self, tensor: torch.Tensor) -> bool:
        """Whether ``tensor`` is a view of one of the files."""
        return any(file.holds(tensor) for file in self.files)

    def drop(self, tensor: torch.Tensor) -> None:
        """Give back the pages of ``tensor`` where it is mapped."""
        for file in self.files:
            if file.holds(tensor):
                file.drop(tensor)

    def require_unchanged(self) -> None:
        """Refuse files that have been written to since.

        Raises:
            IntegrityError: one has.
        """
        for file in self.files:
            file.require_unchanged()


def _identity(descriptor: int) -> tuple[int, int, int, int]:
    found = os.fstat(descriptor)
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def empty_huge(shape: torch.Size | tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Memory that comes in huge pages where the system has them; its values are zero.

    First touching 5 GB in pages of 4 KiB is 1.2 million faults.
    """
    size_bytes = torch.Size(shape).numel() * dtype.itemsize
    if size_bytes < HUGE_PAGE_BYTES or not hasattr(mmap, "MADV_HUGEPAGE"):
        return torch.empty(shape, dtype=dtype)
    # Python's default is shared memory, which never comes in huge pages.
    memory = mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=dtype).reshape(shape)
