"""Small blobs, manifests and clients for the tests of registries."""

from __future__ import annotations

import contextlib
import io
import json

from adaptrix.hub.location import RemoteLocation
from adaptrix.hub.oci import OciRegistry
from adaptrix.hub.settings import HubSettings
from adaptrix.schema.descriptor import Descriptor
from adaptrix.schema.digest import Digest

QUICK = HubSettings(timeout_s=1.0, attempts=4, backoff_s=0.001, longest_pause_s=0.05)
EMPTY = b"{}"


def blob_of(data: bytes) -> Descriptor:
    return Descriptor(
        media_type="application/octet-stream", digest=Digest.of(data), size_bytes=len(data)
    )


def opened(data: bytes):
    return lambda: contextlib.closing(io.BytesIO(data))


def manifest_of(*blobs: Descriptor, **extra) -> bytes:
    document = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "artifactType": "application/x.test",
        "config": blob_of(EMPTY).to_json(),
        "layers": [blob.to_json() for blob in blobs],
        **extra,
    }
    return json.dumps(document).encode()


def client(url: str, **arguments) -> OciRegistry:
    arguments.setdefault("settings", QUICK)
    return OciRegistry(RemoteLocation.parse(url), **arguments)
