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
from adaptrix.schema.adapter import CARRIED
from adaptrix.schema.canonical import Json, canonical_json
from adaptrix.schema.descriptor import Descriptor
from adaptrix.schema.digest import Digest
from adaptrix.schema.errors import FormatError, InvalidReference
from adaptrix.schema.record import RECORD_VERSION, AdapterRecord

SCHEMA_VERSION = 1
MAX_MANIFEST_BYTES = 4 << 20

_RECORD: TypeAdapter[AdapterRecord] = TypeAdapter(AdapterRecord)
_FIXED = {
    "schemaVersion": 2,
    "mediaType": media_types.MANIFEST,
    "artifactType": media_types.MODEL,
}
"""Without these, an index or another artifact could pass for a version (CVE-2021-41190)."""


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
        carried = any(module.kind == CARRIED for module in record.modules)
        found = {
            media_types.PEFT_TYPE: record.method.upper() if carried else "LORA",
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
        document = json_object(manifest, "manifest")
        for key, wanted in _FIXED.items():
            if document.get(key) != wanted:
                message = f"expected {wanted!r}, got {document.get(key)!r}"
                raise FormatError(message, where=f"manifest.{key}")
        declared = Descriptor.from_json(document.get("config"), where="manifest.config")
        if declared.digest != Digest.of(config) or declared.size_bytes != len(config):
            raise FormatError(
                f"expected {declared.digest} ({declared.size_bytes} bytes), "
                f"got {Digest.of(config)} ({len(config)} bytes)",
                where="manifest.config",
            )
        return cls(record=_record(config), layers=_layers(document.get("layers")))


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
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$comment": f"version {RECORD_VERSION}",
        **_RECORD.json_schema(mode="serialization"),
    }


def json_object(data: bytes, where: str) -> dict[str, Any]:
    """Read a JSON object in which no key is written twice.

    Raises:
        FormatError: too long, not JSON, not an object, or with a repeated key.
    """
    if len(data) > MAX_MANIFEST_BYTES:
        raise FormatError(f"at most {MAX_MANIFEST_BYTES} bytes, got {len(data)}", where=where)
    try:
        document = json.loads(data, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"not JSON: {error}", where=where) from error
    if not isinstance(document, dict):
        raise FormatError(f"expected an object, got {type(document).__name__}", where=where)
    return document


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        # Which one counts differs between parsers: two readers, two adapters.
        repeated = next(key for key in found if sum(key == other for other, _ in pairs) > 1)
        raise ValueError(f"key {repeated[:80]!r} is written twice")
    return found


def _layers(value: object) -> tuple[Descriptor, ...]:
    if not isinstance(value, list):
        message = f"expected an array, got {type(value).__name__}"
        raise FormatError(message, where="manifest.layers")
    layers = tuple(
        Descriptor.from_json(layer, where=f"manifest.layers[{at}]")
        for at, layer in enumerate(value)
    )
    paths: set[str] = set()
    for at, layer in enumerate(layers):
        path = layer.annotations.get(media_types.FILEPATH, "")
        if path in paths or not is_safe_path(path):
            raise FormatError(
                f"expected a relative path of its own, got {path[:80]!r}",
                where=f"manifest.layers[{at}].annotations[{media_types.FILEPATH}]",
            )
        paths.add(path)
    return layers


def is_safe_path(path: str) -> bool:
    """Whether a version may hold a file of this name: relative, plain, with ``/`` between."""
    parts = path.split("/")
    plain = path.isprintable() and "\\" not in path and ":" not in path
    return plain and all(part and part not in {".", ".."} and len(part) < 256 for part in parts)


def _record(config: bytes) -> AdapterRecord:
    where = "config.adaptrix"
    document = json_object(config, "config").get("adaptrix")
    version = document.get("version", RECORD_VERSION) if isinstance(document, dict) else None
    if isinstance(version, int) and version > RECORD_VERSION:
        raise FormatError(
            f"expected version {RECORD_VERSION} or less, got {version}",
            where=f"{where}.version",
            hint="It was written by a newer Adaptrix: upgrade to read it.",
        )
    try:
        # Strict JSON validation would refuse the floats that we write as text.
        return _RECORD.validate_python(document)
    except InvalidReference as error:
        raise FormatError(str(error), where=where) from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join([where, *map(str, first["loc"])])
        raise FormatError(first["msg"], where=place) from error
