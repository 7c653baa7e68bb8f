"""``sha256:<64 hex>``: the name of bytes. Stable."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from adaptrix.schema.errors import InvalidReference

_HEX = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, order=True)
class Digest:
    """SHA-256 digest of bytes; ``Digest.parse(str(d)) == d``.

    Attributes:
        hex: 64 lower-case hexadecimal digits.
    """

    hex: str

    def __post_init__(self) -> None:
        if not _HEX.fullmatch(self.hex):
            raise InvalidReference(
                f"expected 64 lower-case hex digits, got {self.hex[:80]!r}", where="digest"
            )

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse ``sha256:<hex>``.

        Raises:
            InvalidReference: any other text.
        """
        algorithm, _, hex_digits = text.partition(":")
        if algorithm != "sha256":
            raise InvalidReference(f"expected sha256:<hex>, got {text[:80]!r}", where="digest")
        return cls(hex_digits)

    @classmethod
    def of(cls, data: bytes | memoryview) -> Self:
        """Digest of ``data``."""
        return cls(hashlib.sha256(data).hexdigest())

    @classmethod
    def of_chunks(cls, chunks: Iterable[bytes | memoryview]) -> Self:
        """Digest of bytes that come in pieces."""
        digest = hashlib.sha256()
        for chunk in chunks:
            digest.update(chunk)
        return cls(digest.hexdigest())

    @property
    def short(self) -> str:
        """First 12 digits, for people."""
        return self.hex[:12]

    def __str__(self) -> str:
        return f"sha256:{self.hex}"
