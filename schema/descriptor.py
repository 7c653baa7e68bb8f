"""What a blob is: media type, digest, size, annotations (OCI image-spec, descriptor.md)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from adaptrix.schema.canonical import Json
from adaptrix.schema.digest import Digest


@dataclass(frozen=True, slots=True, kw_only=True)
class Descriptor:
    """An OCI content descriptor.

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
