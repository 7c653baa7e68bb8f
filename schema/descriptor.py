"""What a blob is: media type, digest, size, annotations (OCI image-spec, descriptor.md)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

from adaptrix.schema.canonical import Json
from adaptrix.schema.digest import Digest
from adaptrix.schema.errors import FormatError, InvalidReference


@dataclass(frozen=True, slots=True, kw_only=True)
class Descriptor:
    """An OCI content descriptor; ``Descriptor.from_json(d.to_json()) == d``.

    Attributes:
        media_type: RFC 6838 media type.
        digest: Digest of the blob.
        size_bytes: Its length.
        annotations: Free text by key.
    """

    media_type: str
    digest: Digest
    size_bytes: int
    annotations: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Json]:
        """The descriptor as OCI writes it."""
        document: dict[str, Json] = {
            "mediaType": self.media_type,
            "digest": str(self.digest),
            "size": self.size_bytes,
        }
        if self.annotations:
            document["annotations"] = dict(self.annotations)
        return document

    @classmethod
    def from_json(cls, document: object, *, where: str = "descriptor") -> Self:
        """Read a descriptor.

        Args:
            document: A parsed JSON value.
            where: Its place, for messages: ``manifest.layers[2]``.

        Raises:
            FormatError: no descriptor; the message names the field.
        """
        if not isinstance(document, Mapping):
            raise _wrong(document, "an object", where)
        media_type, digest, size = (document.get(key) for key in ("mediaType", "digest", "size"))
        if not isinstance(media_type, str) or not media_type:
            raise _wrong(media_type, "a media type", f"{where}.mediaType")
        if not isinstance(digest, str):
            raise _wrong(digest, "sha256:<hex>", f"{where}.digest")
        if not isinstance(size, int) or isinstance(size, bool) or size < 0:
            raise _wrong(size, "a whole number of bytes", f"{where}.size")
        try:
            parsed = Digest.parse(digest)
        except InvalidReference as error:
            raise FormatError(error.message, where=f"{where}.digest") from error
        annotations = _annotations(document.get("annotations"), f"{where}.annotations")
        return cls(media_type=media_type, digest=parsed, size_bytes=size, annotations=annotations)


def _annotations(document: object, where: str) -> dict[str, str]:
    if document is None:
        return {}
    if not isinstance(document, Mapping):
        raise _wrong(document, "an object", where)
    for key, value in document.items():
        if not isinstance(value, str):
            raise _wrong(value, "text", f"{where}[{key}]")
    return dict(document)


def _wrong(value: object, wanted: str, where: str) -> FormatError:
    return FormatError(f"expected {wanted}, got {repr(value)[:80]}", where=where)
