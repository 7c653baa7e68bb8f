"""The typed values in the head of a GGUF file."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence

from adaptrix.convert.limits import printable
from adaptrix.convert.numeric import np
from adaptrix.convert.source import ByteSource
from adaptrix.schema.canonical import Json
from adaptrix.schema.errors import FormatError

MAX_HEAD_BYTES = 256 << 20
MAX_KEY_BYTES = 65_535
MAX_TEXT_BYTES = 16 << 20
MAX_ARRAY_DEPTH = 2
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 10: "Q", 11: "q", 12: "d"}
_BOOL, _TEXT, _ARRAY = 7, 8, 9
_WINDOW_BYTES = 1 << 16


class Fields:
    """Reads the head of a file from front to back; keeps :attr:`position`."""

    def __init__(self, source: ByteSource, start: int) -> None:
        """Begin at byte ``start`` of ``source``."""
        self.position = start
        self._source = source
        self._window = b""
        self._window_start = start

    def number(self, code: str) -> int:
        """A whole number of :mod:`struct`'s type ``code``.

        Raises:
            FormatError: ``truncated``.
        """
        (value,) = struct.unpack(f"<{code}", self._take(struct.calcsize(f"<{code}")))
        return int(value)

    def text(self, limit: int = MAX_KEY_BYTES) -> str:
        """A length and UTF-8 text.

        Raises:
            FormatError: ``bad_header``: over ``limit`` bytes or not UTF-8; ``truncated``.
        """
        try:
            return self._raw_text(limit).decode()
        except UnicodeDecodeError as error:
            raise self._bad("text that is not UTF-8") from error

    def key(self) -> str:
        """The name of a field.

        Raises:
            FormatError: ``bad_header``: empty or not printable; ``truncated``.
        """
        key = self.text()
        if not key or printable(key) != key:
            raise self._bad("a field whose name is empty or cannot be printed")
        return key

    def value(self) -> Json:
        """A value with its type before it.

        Raises:
            FormatError: ``bad_header``, ``truncated``.
        """
        return self._typed(self.number("I"), 0)

    def _typed(self, type_id: int, depth: int) -> Json:
        if type_id == _TEXT:
            # Not strict: the words of a tokenizer may be parts of characters.
            return self._raw_text(MAX_TEXT_BYTES).decode("utf-8", "backslashreplace")
        if type_id == _BOOL:
            return self._boolean(self.number("B"))
        if type_id == _ARRAY:
            if depth == MAX_ARRAY_DEPTH:
                raise self._bad("arrays nested too deeply")
            return self._array(self.number("I"), self.number("Q"), depth + 1)
        if type_id not in _NUMBERS:
            raise self._bad(f"a value of unknown type {type_id}")
        code = _NUMBERS[type_id]
        value: int | float = struct.unpack(f"<{code}", self._take(struct.calcsize(f"<{code}")))[0]
        return value

    def _array(self, type_id: int, count: int, depth: int) -> list[Json]:
        # Every element takes at least a byte: a longer array cannot be in the file.
        if count > self._source.size_bytes - self.position:
            raise self._bad(f"an array of {count} elements", "truncated")
        if type_id in _NUMBERS:
            kind = np.dtype(f"<{_NUMBERS[type_id]}")
            numbers: list[Json] = np.frombuffer(self._take(count * kind.itemsize), kind).tolist()
            return numbers
        return [self._typed(type_id, depth) for _ in range(count)]

    def _boolean(self, byte: int) -> bool:
        if byte > 1:
            raise self._bad("a truth value that is neither 0 nor 1")
        return byte == 1

    def _raw_text(self, limit: int) -> bytes:
        length = self.number("Q")
        if length > limit:
            raise self._bad(f"text of {length} bytes, at most {limit}")
        return self._take(length)

    def _take(self, size: int) -> bytes:
        start = self.position - self._window_start
        if start + size > len(self._window):
            self._refill(size)
            start = 0
        self.position += size
        return self._window[start : start + size]

    def _refill(self, size: int) -> None:
        left = self._source.size_bytes - self.position
        if size > left:
            raise self._bad(f"{size} bytes are wanted, {left} are left", "truncated")
        if self.position + size > MAX_HEAD_BYTES:
            raise self._bad("the part before the tensors is too long")
        stop = self.position + min(left, max(size, _WINDOW_BYTES))
        self._window = bytes(self._source.read(self.position, stop))
        self._window_start = self.position

    def _bad(self, message: str, code: str = "bad_header") -> FormatError:
        return FormatError(message, where=self._source.name, code=code)


def encode_field(key: str, value: Json) -> bytes:
    """A field with its name, type and value.

    Raises:
        FormatError: ``bad_value``: GGUF has no type for it.
    """
    type_id, encoded = _encode(key, value)
    return _encode_text(key) + struct.pack("<I", type_id) + encoded


def _encode(key: str, value: Json) -> tuple[int, bytes]:
    if isinstance(value, bool):
        return _BOOL, bytes([value])
    if isinstance(value, str):
        return _TEXT, _encode_text(value)
    if isinstance(value, int) and -1 << 63 <= value < 1 << 63:
        return (
            (4, struct.pack("<I", value))
            if 0 <= value < 1 << 32
            else (11, struct.pack("<q", value))
        )
    if isinstance(value, float) and _is_float32(value):
        return 6, struct.pack("<f", value)
    if isinstance(value, float):
        return 12, struct.pack("<d", value)
    if isinstance(value, Sequence) and value:
        parts = [_encode(key, element) for element in value]
        if len({type_id for type_id, _ in parts}) == 1 and parts[0][0] != _ARRAY:
            head = struct.pack("<IQ", parts[0][0], len(parts))
            return _ARRAY, head + b"".join(encoded for _, encoded in parts)
    raise FormatError(f"GGUF has no type for {value!r:.60}", where=key, code="bad_value")


def _is_float32(value: float) -> bool:
    with np.errstate(over="ignore"):
        return bool(np.float64(np.float32(value)) == value) or math.isnan(value)


def _encode_text(text: str) -> bytes:
    encoded = text.encode()
    return struct.pack("<Q", len(encoded)) + encoded
