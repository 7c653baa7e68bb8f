"""safetensors: a strict reader and a deterministic writer of our own.

The format (github.com/huggingface/safetensors, README "Format") is eight bytes of header
length, a JSON header, and the tensors' bytes. The library accepts files that this reader
refuses: duplicate names, megabytes of blanks, unprintable names, shapes with 2^40 in them.
The reader raises nothing but ``FormatError`` on any bytes. Stable.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from functools import partial

from adaptrix.convert.limits import (
    MAX_TENSORS,
    check_count,
    check_name,
    check_shape,
    check_some,
    printable,
)
from adaptrix.convert.source import ByteSource
from adaptrix.convert.tensor_file import EncodedFile, TensorFile, tensor_chunks
from adaptrix.schema.errors import FormatError
from adaptrix.schema.tensor import DType, LazyTensor

MAX_HEADER_BYTES = 16 << 20
_FIELDS = {"dtype", "shape", "data_offsets"}
_DTYPES = {dtype.value: dtype for dtype in DType}
_AGAIN = "The file is incomplete: fetch it again."


def open_safetensors(source: ByteSource) -> TensorFile:
    """Read and check the header of a safetensors file.

    Raises:
        FormatError: ``truncated``, ``header_too_large``, ``bad_header``, ``duplicate_tensor``,
            ``unknown_dtype``, ``bad_shape``, ``bad_name``, ``size_mismatch``,
            ``overlapping_offsets``, ``hole``, ``trailing_bytes``, ``too_many_tensors``,
            ``no_tensors``.
    """
    where = source.name
    body_start, header = _read_header(source)
    metadata = _metadata(header.pop("__metadata__", {}), where)
    check_count(len(header), where)
    spans: list[tuple[int, int, str]] = []
    tensors: dict[str, LazyTensor] = {}
    for name, fields in header.items():
        place = f"{where}:{check_name(name, where)}"
        dtype, shape, begin, end = _entry(fields, place)
        spans.append((begin, end, name))
        load = partial(source.read, body_start + begin, body_start + end)
        tensors[name] = LazyTensor(dtype=dtype, shape=shape, source=place, load=load)
    _check_spans(sorted(spans), source.size_bytes, body_start, where)
    check_some(tensors, where)
    return TensorFile(name=where, kind="safetensors", tensors=tensors, metadata=metadata)


def safetensors_bytes(
    tensors: Mapping[str, LazyTensor], metadata: Mapping[str, str] | None = None
) -> EncodedFile:
    """Encode tensors; the same tensors and metadata always give the same bytes.

    The header lists names sorted and is padded to a multiple of 8 bytes. Tensors follow
    by falling element size, then name: readers view them in place, which needs each at
    a multiple of its element size. With one dtype that is the order of the names.

    Raises:
        FormatError: a name or shape that the reader would refuse, or (from the chunks)
            a tensor whose bytes are not as many as its shape says.
    """
    check_count(len(tensors), "safetensors")
    order = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
    begins: dict[str, int] = {}
    end = 0
    for name in order:
        check_name(name, tensors[name].source)
        check_shape(tensors[name].shape, tensors[name].source)
        begins[name] = end
        end += tensors[name].size_bytes
    header: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    for name in sorted(tensors):
        tensor, begin = tensors[name], begins[name]
        header[name] = {
            "dtype": tensor.dtype.value,
            "shape": list(tensor.shape),
            "data_offsets": [begin, begin + tensor.size_bytes],
        }
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    head = len(text).to_bytes(8, "little") + text
    chunks = tensor_chunks(tensors, order, lambda _: 0)
    return EncodedFile(head, chunks, len(head) + end)


def _read_header(source: ByteSource) -> tuple[int, dict[str, object]]:
    where, size = source.name, source.size_bytes
    if size < 8:
        raise FormatError(
            f"{size} bytes, a safetensors file has at least 8", where=where, code="truncated"
        )
    length = int.from_bytes(source.read(0, 8), "little")
    if length > MAX_HEADER_BYTES:
        raise FormatError(
            f"header of {length} bytes, at most {MAX_HEADER_BYTES}",
            where=where,
            code="header_too_large",
        )
    if 8 + length > size:
        raise FormatError(
            f"header of {length} bytes in a file of {size}",
            where=where,
            code="truncated",
            hint=_AGAIN,
        )
    raw = bytes(source.read(8, 8 + length))
    if not raw.startswith(b"{"):
        raise FormatError("the header does not begin with '{'", where=where, code="bad_header")
    # An entry has one brace: counted before parsing, a hostile header costs nothing.
    if raw.count(b"{") > MAX_TENSORS + 2:
        check_count(raw.count(b"{") - 2, where)
    return 8 + length, _parse(raw, where)


def _parse(raw: bytes, where: str) -> dict[str, object]:
    def pairs(items: list[tuple[str, object]]) -> dict[str, object]:
        found = dict(items)
        if len(found) != len(items):
            ((twice, _),) = Counter(name for name, _ in items).most_common(1)
            raise FormatError(
                f"{printable(twice[:80])!r} stands twice in the header",
                where=where,
                code="duplicate_tensor",
            )
        return found

    def number(text: str) -> object:
        raise FormatError(f"number {text[:20]!r} in the header", where=where, code="bad_header")

    try:
        text = raw.decode("utf-8")
        header = json.loads(
            text, object_pairs_hook=pairs, parse_float=number, parse_constant=number
        )
    except (ValueError, RecursionError) as error:
        raise FormatError("the header is not JSON", where=where, code="bad_header") from error
    if not isinstance(header, dict):
        raise FormatError("the header is not a JSON object", where=where, code="bad_header")
    return header


def _metadata(found: object, where: str) -> dict[str, str]:
    # MLX writes null where it has nothing to say, and the library reads it as absent.
    if found is None:
        return {}
    if not isinstance(found, dict) or not all(isinstance(v, str) for v in found.values()):
        raise FormatError("__metadata__ must map text to text", where=where, code="bad_header")
    try:
        "".join([*found, *found.values()]).encode()
    except UnicodeEncodeError as error:
        raise FormatError(
            "__metadata__ holds half a character", where=where, code="bad_header"
        ) from error
    return found


def _entry(fields: object, place: str) -> tuple[DType, tuple[int, ...], int, int]:
    if not isinstance(fields, dict) or fields.keys() != _FIELDS:
        raise FormatError(
            "an entry has exactly dtype, shape and data_offsets", where=place, code="bad_header"
        )
    name = fields["dtype"]
    dtype = _DTYPES.get(name) if isinstance(name, str) else None
    if dtype is None:
        shown = printable(str(name)[:20])
        raise FormatError(f"unknown dtype {shown!r}", where=place, code="unknown_dtype")
    shape = _whole_numbers(fields["shape"], "shape", place)
    offsets = _whole_numbers(fields["data_offsets"], "data_offsets", place)
    count = check_shape(shape, place)
    if len(offsets) != 2 or not 0 <= offsets[0] <= offsets[1]:
        raise FormatError(
            f"data_offsets {list(offsets[:4])} are no range", where=place, code="bad_header"
        )
    begin, end = offsets
    if end - begin != count * dtype.itemsize:
        raise FormatError(
            f"{end - begin} bytes, {dtype.value} of shape {list(shape)} has "
            f"{count * dtype.itemsize}",
            where=place,
            code="size_mismatch",
        )
    return dtype, shape, begin, end


def _whole_numbers(found: object, field: str, place: str) -> tuple[int, ...]:
    # type() and not isinstance(): true and false are ints to Python, not to the format.
    if not isinstance(found, list) or not all(type(n) is int for n in found):
        raise FormatError(
            f"{field} must be a list of whole numbers", where=place, code="bad_header"
        )
    if not all(-1 << 63 <= n < 1 << 64 for n in found):
        raise FormatError(f"a huge number in {field}", where=place, code="bad_shape")
    return tuple(found)


def _check_spans(
    spans: list[tuple[int, int, str]], size_bytes: int, body_start: int, where: str
) -> None:
    needed = body_start + max((end for _, end, _ in spans), default=0)
    if needed > size_bytes:
        raise FormatError(
            f"the header describes {needed} bytes, the file has {size_bytes}",
            where=where,
            code="truncated",
            hint=_AGAIN,
        )
    position = 0
    for begin, end, name in spans:
        if begin != position:
            kind = "overlapping_offsets" if begin < position else "hole"
            raise FormatError(
                f"tensor begins at {begin}, the one before ends at {position}",
                where=f"{where}:{name}",
                code=kind,
            )
        position = end
    if needed != size_bytes:
        raise FormatError(
            f"the header describes {needed} bytes, the file has {size_bytes}: "
            f"{size_bytes - needed} bytes belong to no tensor",
            where=where,
            code="trailing_bytes",
        )
