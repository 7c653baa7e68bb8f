"""What kind of tensor file is this? Told from the bytes, never from the name.

The name only decides what a file that is nothing known *claimed* to be, so that a web
page saved as ``adapter_model.safetensors`` is an error and a README is not. Stable.
"""

from __future__ import annotations

from pathlib import PurePosixPath

from adaptrix.convert.gguf_file import open_gguf
from adaptrix.convert.npz_file import open_npz
from adaptrix.convert.pickle_file import open_pickle, open_torch_zip
from adaptrix.convert.pickle_machine import looks_like_pickle
from adaptrix.convert.safetensors_file import open_safetensors
from adaptrix.convert.source import ByteSource
from adaptrix.convert.tensor_file import TensorFile
from adaptrix.convert.zip_file import open_zip
from adaptrix.schema.errors import FormatError, PolicyRefused

__all__ = ["TensorFile", "open_container"]

_HEAD_BYTES = 512
_LOOK_BYTES = 1 << 16
_WEIGHT_SUFFIXES = {
    ".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".pkl", ".gguf", ".npz", ".lora", ".nemo",
}  # fmt: skip
_PICKLE_PROTOCOLS = {bytes([protocol]) for protocol in range(2, 6)}
_OLD_GGML = {b"ggla", b"algg", b"ggml", b"lmgg", b"ggmf", b"fmgg", b"ggjt", b"tjgg"}


def open_container(source: ByteSource) -> TensorFile | None:
    """Open a tensor file by its content; None for a file that is none (JSON, text).

    Raises:
        FormatError: it is, or its name says that it is, a tensor file, and cannot be read.
        PolicyRefused: reading it would mean running or trusting what it brings along.
    """
    if source.size_bytes == 0:
        raise FormatError("the file is empty", where=source.name, code="empty_file")
    head = bytes(source.read(0, min(_HEAD_BYTES, source.size_bytes)))
    opened = _by_magic(source, head)
    if opened is None and PurePosixPath(source.name).suffix.lower() in _WEIGHT_SUFFIXES:
        raise FormatError(
            "no tensor file that is known here, whatever its name says",
            where=source.name,
            code="not_a_container",
        )
    return opened


def _by_magic(source: ByteSource, head: bytes) -> TensorFile | None:
    if head[:4] in _OLD_GGML:
        raise FormatError(
            "a file of llama.cpp's format before GGUF",
            where=source.name,
            code="old_ggml",
            hint="Convert it to GGUF with the llama.cpp version that wrote it.",
        )
    if head.startswith(b"version https://git-lfs.github.com/spec/"):
        raise FormatError(
            "a Git LFS pointer, not the file itself",
            where=source.name,
            code="lfs_pointer",
            hint="Fetch the content with: git lfs pull",
        )
    if head[257:262] == b"ustar":
        raise PolicyRefused(
            "a tar archive (torch before 0.1.10, or .nemo) is not unpacked",
            where=source.name,
            code="unsafe_file",
            hint="Extract it, or save the adapter again as safetensors.",
        )
    if head.startswith(b"\x1f\x8b"):
        raise FormatError(
            "compressed with gzip",
            where=source.name,
            code="compressed",
            hint="Decompress it first: gunzip, or tar -xzf.",
        )
    if head.startswith(b"GGUF"):
        return open_gguf(source)
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _open_archive(source)
    # The length's upper half is zero in a real file and text in a JSON file. Asked before
    # pickle: a header of 640 bytes begins with 80 02, as protocol 2 does.
    if head[8:9] == b"{" and head[4:8] == bytes(4):
        return open_safetensors(source)
    if head[:1] == b"\x80" and head[1:2] in _PICKLE_PROTOCOLS:
        return open_pickle(source)
    # Before protocol 2 a pickle had no magic: it is told by being one to its end.
    start = bytes(source.read(0, min(_LOOK_BYTES, source.size_bytes)))
    if looks_like_pickle(start):
        return open_pickle(source)
    # Not by its content: its reader says best what is wrong with it.
    claimed = PurePosixPath(source.name).suffix.lower() == ".safetensors"
    return open_safetensors(source) if claimed else None


def _open_archive(source: ByteSource) -> TensorFile | None:
    entries = open_zip(source)
    if any(name.rpartition("/")[2] == "data.pkl" for name in entries):
        return open_torch_zip(source, entries)
    if entries and all(name.endswith(".npy") for name in entries):
        return open_npz(source, entries)
    if any(name.endswith((".safetensors", ".bin", ".pt", ".gguf")) for name in entries):
        raise FormatError(
            "a zip archive of files, and not a weight file itself",
            where=source.name,
            code="compressed",
            hint="Extract it first: unzip.",
        )
    return None
