"""GGUF versions 2 and 3: a strict reader and a deterministic writer.

Layout (ggml, docs/gguf.md): magic, version, counts, key-value pairs, tensor descriptions,
padding, tensors. Dimensions are stored innermost first; here they come outermost first,
as everywhere else in this room. Q8_0 blocks are widened to float32, which is exact, and
named in the metadata; other quantised types are refused by name. On any bytes the reader
raises nothing but ``FormatError``. Stable.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

from adaptrix.convert.arrays import content
from adaptrix.convert.gguf_values import Fields, encode_field
from adaptrix.convert.limits import check_count, check_name, check_shape, check_some
from adaptrix.convert.numeric import np
from adaptrix.convert.source import ByteSource
from adaptrix.convert.tensor_file import EncodedFile, TensorFile, tensor_chunks
from adaptrix.schema.canonical import Json
from adaptrix.schema.errors import FormatError
from adaptrix.schema.tensor import DType, LazyTensor

DEQUANTIZED = "adaptrix.dequantized"
"""Metadata key that this reader adds: names of tensors and the type they had in the file."""
MAX_FIELDS = 65_536
_ALIGNMENT = 32
_MAX_ALIGNMENT = 1 << 16
_MAX_DIMENSIONS = 4
_Q8_0, _Q8_ELEMENTS, _Q8_BYTES = 8, 32, 34
_PLAIN = {
    0: DType.F32, 1: DType.F16, 24: DType.I8, 25: DType.I16, 26: DType.I32, 27: DType.I64,
    28: DType.F64, 30: DType.BF16,
}  # fmt: skip
_TYPE_IDS = {dtype: number for number, dtype in _PLAIN.items()}
_QUANTISED = {
    2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 9: "Q8_1", 10: "Q2_K", 11: "Q3_K", 12: "Q4_K",
    13: "Q5_K", 14: "Q6_K", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS",
    19: "IQ1_S", 20: "IQ4_NL", 21: "IQ3_S", 22: "IQ2_S", 23: "IQ4_XS", 29: "IQ1_M",
    34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4",
}  # fmt: skip


class _Tensor(NamedTuple):
    name: str
    shape: tuple[int, ...]
    type_id: int
    offset: int
    size_bytes: int


def open_gguf(source: ByteSource) -> TensorFile:
    """Read and check everything before the tensors.

    Raises:
        FormatError: ``bad_version``, ``truncated``, ``bad_header``, ``duplicate_field``,
            ``duplicate_tensor``, ``unknown_dtype``, ``bad_shape``, ``bad_name``,
            ``bad_alignment``, ``overlapping_offsets``, ``trailing_bytes``, ``no_tensors``.
    """
    where = source.name
    fields = Fields(source, start=4)
    _check_version(fields.number("I"), where)
    tensor_count, field_count = fields.number("Q"), fields.number("Q")
    check_count(tensor_count, where)
    if field_count > MAX_FIELDS:
        raise FormatError(
            f"{field_count} fields, at most {MAX_FIELDS}", where=where, code="bad_header"
        )
    metadata: dict[str, Json] = {}
    for _ in range(field_count):
        key = fields.key()
        if key in metadata:
            raise FormatError(f"field {key!r} stands twice", where=where, code="duplicate_field")
        metadata[key] = fields.value()
    found = [_describe(fields, where) for _ in range(tensor_count)]
    alignment = _alignment(metadata, where)
    body_start = -(-fields.position // alignment) * alignment
    _check_layout(found, source.size_bytes, body_start, alignment, where)
    tensors = {t.name: _lazy(source, t, body_start) for t in found}
    if len(tensors) != len(found):
        raise FormatError("two tensors have one name", where=where, code="duplicate_tensor")
    check_some(tensors, where)
    widened = {t.name: "Q8_0" for t in found if t.type_id == _Q8_0}
    if widened:
        metadata[DEQUANTIZED] = widened
    return TensorFile(name=where, kind="gguf", tensors=tensors, metadata=metadata)


def gguf_bytes(fields: Mapping[str, Json], tensors: Mapping[str, LazyTensor]) -> EncodedFile:
    """Encode a GGUF version 3 file; the same input always gives the same bytes.

    Args:
        fields: Key-value pairs in the order in which to write them. Text becomes a string,
            bool a bool, int a uint32 (int64 when it does not fit), float a float32, a list
            an array of the type of its elements.
        tensors: Tensors by name, outermost dimension first; written sorted by name.

    Raises:
        FormatError: a name, type, shape or value that GGUF cannot hold.
    """
    check_count(len(tensors), "gguf")
    alignment = fields.get("general.alignment", _ALIGNMENT)
    if not isinstance(alignment, int) or alignment < 8 or alignment % 8:
        raise FormatError(
            "general.alignment is no multiple of 8", where="gguf", code="bad_alignment"
        )
    head = bytearray(b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(fields)))
    for key, value in fields.items():
        head += encode_field(key, value)
    order = sorted(tensors)
    offset = 0
    for name in order:
        tensor = tensors[name]
        if tensor.dtype not in _TYPE_IDS or len(tensor.shape) > _MAX_DIMENSIONS:
            raise FormatError(
                f"GGUF holds no {tensor.dtype.long_name} tensor of {len(tensor.shape)} dimensions",
                where=tensor.source,
                code="unknown_dtype",
            )
        encoded = check_name(name, tensor.source).encode()
        shape = tensor.shape[::-1]
        head += struct.pack("<Q", len(encoded)) + encoded
        head += struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
        head += struct.pack("<IQ", _TYPE_IDS[tensor.dtype], offset)
        offset += tensor.size_bytes + -tensor.size_bytes % alignment
    head += bytes(-len(head) % alignment)
    chunks = tensor_chunks(tensors, order, lambda size: -size % alignment)
    return EncodedFile(bytes(head), chunks, len(head) + offset)


def _check_version(version: int, where: str) -> None:
    if version & 0xFFFF == 0:
        raise FormatError("a file in big-endian byte order", where=where, code="big_endian")
    if version not in (2, 3):
        raise FormatError(
            f"GGUF version {version}, known are 2 and 3", where=where, code="bad_version"
        )


def _alignment(metadata: Mapping[str, Json], where: str) -> int:
    found = metadata.get("general.alignment", _ALIGNMENT)
    if type(found) is not int or not 8 <= found <= _MAX_ALIGNMENT or found % 8:
        raise FormatError(
            "general.alignment is no multiple of 8", where=where, code="bad_alignment"
        )
    return found


def _describe(fields: Fields, where: str) -> _Tensor:
    name = check_name(fields.text(), where)
    place = f"{where}:{name}"
    dimensions = fields.number("I")
    if dimensions > _MAX_DIMENSIONS:
        raise FormatError(f"{dimensions} dimensions, at most 4", where=place, code="bad_shape")
    shape = tuple(fields.number("Q") for _ in range(dimensions))[::-1]
    type_id, offset = fields.number("I"), fields.number("Q")
    count = check_shape(shape, place)
    if type_id == _Q8_0:
        if not shape or shape[-1] % _Q8_ELEMENTS:
            raise FormatError("rows of Q8_0 are multiples of 32", where=place, code="bad_shape")
        return _Tensor(name, shape, type_id, offset, count // _Q8_ELEMENTS * _Q8_BYTES)
    if type_id not in _PLAIN:
        shown = _QUANTISED.get(type_id, f"number {type_id}")
        raise FormatError(
            f"quantised type {shown} cannot be read exactly",
            where=place,
            code="unknown_dtype",
            hint="Convert the adapter again with --outtype f32, f16 or bf16.",
        )
    return _Tensor(name, shape, type_id, offset, count * _PLAIN[type_id].itemsize)


def _check_layout(
    tensors: list[_Tensor], size_bytes: int, body_start: int, alignment: int, where: str
) -> None:
    """Tensors stand one after the other, each padded to the alignment, to the file's end."""
    position = end = 0
    # Empty tensors first: one may share its offset with the tensor that follows it.
    for tensor in sorted(tensors, key=lambda t: (t.offset, t.size_bytes)):
        if tensor.offset != position:
            raise FormatError(
                f"tensor begins at {tensor.offset}, expected at {position}",
                where=f"{where}:{tensor.name}",
                code="overlapping_offsets" if tensor.offset < position else "hole",
            )
        end = position + tensor.size_bytes
        position = -(-end // alignment) * alignment
    if body_start + end > size_bytes:
        raise FormatError(
            f"the header describes {body_start + end} bytes, the file has {size_bytes}",
            where=where,
            code="truncated",
            hint="The file is incomplete: fetch it again.",
        )
    if body_start + position < size_bytes:
        raise FormatError(
            f"{size_bytes - body_start - position} bytes belong to no tensor",
            where=where,
            code="trailing_bytes",
        )


def _lazy(source: ByteSource, tensor: _Tensor, body_start: int) -> LazyTensor:
    start = body_start + tensor.offset
    stored = partial(source.read, start, start + tensor.size_bytes)
    where = f"{source.name}:{tensor.name}"
    if tensor.type_id != _Q8_0:
        dtype = _PLAIN[tensor.type_id]
        return LazyTensor(dtype=dtype, shape=tensor.shape, source=where, load=stored)

    def load() -> memoryview:
        """Block of 32: float16 scale ``d``, int8 ``q``; value ``d·q`` (ggml, block_q8_0)."""
        blocks = np.frombuffer(stored(), dtype=[("d", "<f2"), ("q", "i1", (_Q8_ELEMENTS,))])
        # A scale may be infinite or NaN; whether values are finite is asked elsewhere.
        with np.errstate(all="ignore"):
            return content(blocks["d"].astype("<f4")[:, None] * blocks["q"].astype("<f4"))

    return LazyTensor(dtype=DType.F32, shape=tensor.shape, source=where, load=load)
