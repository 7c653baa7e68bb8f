"""A version of an adapter: an OCI image manifest in CNCF ModelPack's media types.

The manifest names a config blob and raw layers. The config blob is a ModelPack model
config with one more object, ``adaptrix``, that holds an :class:`AdapterRecord`. Both are
canonical JSON without a clock, so the same adapter has the same digest on every machine.
Sources: CNCF ModelPack model-spec v0.0.7; OCI image-spec 1.1 (manifest.md).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from pydantic import TypeAdapter, ValidationError

from adaptrix.schema import media_types
from adaptrix.schema.canonical import Json, canonical_json
from adaptrix.schema.descriptor import Descriptor
from adaptrix.schema.digest import Digest
from adaptrix.schema.errors import FormatError, InvalidReference
from adaptrix.schema.record import AdapterRecord

SCHEMA_VERSION = 1
MAX_MANIFEST_BYTES = 4 << 20

_RECORD: TypeAdapter[AdapterRecord] = TypeAdapter(AdapterRecord)


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """One immutable version; ``Manifest.parse(m.to_bytes(), m.config_bytes()) == m``.

    Attributes:
        record: What the version is and where it comes from.
        layers: Files, sorted by path; ``annotations[org.cncf.model.filepath]`` is the path.
    """

    record: AdapterRecord
    layers: tuple[Descriptor, ...]

    def config_bytes(self) -> bytes:
        """The ModelPack config blob."""
        record = self.record
        descriptor: dict[str, Json] = {"family": record.family or "unknown"}
        if record.description:
            descriptor["description"] = record.description
        if record.license:
            descriptor["licenses"] = [record.license]
        document: dict[str, Json] = {
            "descriptor": descriptor,
            "config": {
                "architecture": record.family or "unknown",
                "format": "safetensors",
                "paramSize": str(record.parameters),
                "precision": ",".join(record.dtypes),
            },
            "modelfs": {"type": "layers", "diffIds": [str(layer.digest) for layer in self.layers]},
            "adaptrix": _RECORD.dump_python(record, mode="json"),
        }
        return canonical_json(document)

    def config_descriptor(self) -> Descriptor:
        """Descriptor of :meth:`config_bytes`."""
        data = self.config_bytes()
        return Descriptor(
            media_type=media_types.CONFIG, digest=Digest.of(data), size_bytes=len(data)
        )

    def to_bytes(self) -> bytes:
        """The manifest blob."""
        return canonical_json(
            {
                "schemaVersion": 2,
                "mediaType": media_types.MANIFEST,
                "artifactType": media_types.MODEL,
                "config": self.config_descriptor().to_json(),
                "layers": [layer.to_json() for layer in self.layers],
                "annotations": self.annotations(),
            }
        )

    @property
    def digest(self) -> Digest:
        """Digest of :meth:`to_bytes`: the version's identity."""
        return Digest.of(self.to_bytes())

    def annotations(self) -> dict[str, str]:
        """Annotations that other tools can read without knowing the config blob."""
        record = self.record
        modules = sorted({module.path.rsplit(".", 1)[-1] for module in record.modules})
        ranks = sorted({module.rank for module in record.modules})
        found = {
            media_types.PEFT_TYPE: "LORA",
            media_types.RANK: ",".join(map(str, ranks)),
            media_types.TARGET_MODULES: ",".join(modules),
            media_types.FAMILY: record.family,
            media_types.TENSORS_DIGEST: str(record.tensors_digest),
            media_types.BASE_NAME: record.base.name,
            media_types.BASE_REVISION: record.base.revision,
            media_types.BASE_CONFIG_DIGEST: str(record.base.config_digest or ""),
            media_types.LICENSES: record.license,
            media_types.DESCRIPTION: record.description,
        }
        return {key: value for key, value in found.items() if value}

    def layer(self, path: str) -> Descriptor:
        """Descriptor of the file ``path``.

        Raises:
            FormatError: the manifest has no such file.
        """
        for layer in self.layers:
            if layer.annotations.get(media_types.FILEPATH) == path:
                return layer
        raise FormatError(f"no file {path!r} among {len(self.layers)} layers", where="manifest")

    @classmethod
    def parse(cls, manifest: bytes, config: bytes) -> Self:
        """Read a manifest and its config blob.

        Raises:
            FormatError: not such a manifest; the message names the field.
        """
        document = _object(manifest, "manifest")
        try:
            layers = tuple(_descriptor(layer) for layer in document["layers"])
            declared = _descriptor(document["config"])
        except (KeyError, TypeError, ValueError, InvalidReference) as error:
            raise FormatError(f"not an OCI manifest: {error!r}", where="manifest") from error
        if declared.digest != Digest.of(config):
            raise FormatError(
                f"config blob: expected {declared.digest}, got {Digest.of(config)}",
                where="manifest",
            )
        record = _object(config, "config").get("adaptrix")
        try:
            # Strict JSON validation would refuse the floats that we write as text.
            parsed = _RECORD.validate_python(record)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise FormatError(first["msg"], where=f"config.adaptrix.{place}") from error
        return cls(record=parsed, layers=layers)


def file_descriptor(path: str, media_type: str, digest: Digest, size_bytes: int) -> Descriptor:
    """Descriptor of a file in a version, named the two ways that OCI tools look for."""
    return Descriptor(
        media_type=media_type,
        digest=digest,
        size_bytes=size_bytes,
        annotations={media_types.FILEPATH: path, media_types.TITLE: path},
    )


def record_json_schema() -> Mapping[str, Any]:
    """JSON Schema of the ``adaptrix`` object in the config blob."""
    return _RECORD.json_schema(mode="serialization")


def _object(data: bytes, where: str) -> dict[str, Any]:
    if len(data) > MAX_MANIFEST_BYTES:
        raise FormatError(f"at most {MAX_MANIFEST_BYTES} bytes, got {len(data)}", where=where)
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"not JSON: {error}", where=where) from error
    if not isinstance(document, dict):
        raise FormatError(f"expected an object, got {type(document).__name__}", where=where)
    return document


def _descriptor(document: Mapping[str, Any]) -> Descriptor:
    annotations = document.get("annotations") or {}
    if not all(isinstance(value, str) for value in annotations.values()):
        raise ValueError("annotation values must be strings")
    size = document["size"]
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise ValueError(f"size: expected a whole number, got {size!r}")
    return Descriptor(
        media_type=str(document["mediaType"]),
        digest=Digest.parse(str(document["digest"])),
        size_bytes=size,
        annotations=dict(annotations),
    )
