"""Artifacts that are about a version: evaluations, signatures, recipes.

They name it as their ``subject``. A registry that knows referrers lists them by itself;
for the others the client keeps a list under the tag ``sha256-<hex>``, as the specification
says. Source: OCI distribution-spec 1.1, "Listing Referrers" and "Referrers Tag Schema".
"""

from __future__ import annotations

from typing import Any

from adaptrix.hub.oci import INDEX, OciRegistry
from adaptrix.hub.oci_transport import Call
from adaptrix.hub.oci_upload import pull_scope
from adaptrix.schema.canonical import Json, canonical_json
from adaptrix.schema.descriptor import Descriptor
from adaptrix.schema.digest import Digest
from adaptrix.schema.errors import FormatError, NotFound, StoreError
from adaptrix.schema.manifest import json_object

_ATTEMPTS = 5


def referrers(registry: OciRegistry, name: str, subject: Digest) -> tuple[dict[str, Any], ...]:
    """Descriptors of the artifacts about ``subject``, as the registry lists them.

    Raises:
        FormatError: the list is none.
    """
    repository = registry.repository(name)
    call = Call(
        method="GET",
        url=f"/v2/{repository}/referrers/{subject}",
        scopes=(pull_scope(repository),),
    )
    try:
        body = registry.transport.ask(call).body
    except NotFound:
        body = _fallback(registry, name, subject)
    if not body:
        return ()
    entries = json_object(body, f"referrers of {subject}").get("manifests")
    if not isinstance(entries, list) or not all(isinstance(e, dict) for e in entries):
        raise FormatError("no list of manifests", where=f"referrers of {subject}")
    return tuple(entries)


def attach(registry: OciRegistry, name: str, data: bytes) -> Digest:
    """Store a manifest that has a subject, and see to it that it is listed.

    Lists of two clients that write at the same moment are read again and completed, as
    far as a protocol without compare-and-swap allows.

    Raises:
        FormatError: the manifest has no subject.
        StoreError: others keep overwriting the list.
    """
    document = json_object(data, "manifest")
    subject = Descriptor.from_json(document.get("subject"), where="manifest.subject").digest
    digest = Digest.of(data)
    answer = registry.put_manifest(name, data, reference=str(digest))
    if answer.headers.get("oci-subject"):
        return digest
    config = document.get("config")
    kind = config.get("mediaType", "") if isinstance(config, dict) else ""
    entry = {
        "mediaType": document.get("mediaType", ""),
        "digest": str(digest),
        "size": len(data),
        "artifactType": document.get("artifactType", kind),
    }
    for _ in range(_ATTEMPTS):
        present = referrers(registry, name, subject)
        if any(found.get("digest") == str(digest) for found in present):
            return digest
        listed: Json = {
            "schemaVersion": 2,
            "mediaType": INDEX,
            "manifests": [*present, entry],
        }
        registry.put_manifest(
            name, canonical_json(listed), reference=_tag(subject), media_type=INDEX
        )
    if any(e.get("digest") == str(digest) for e in referrers(registry, name, subject)):
        return digest
    raise StoreError("others keep overwriting the list of referrers", where=f"{name}@{subject}")


def _fallback(registry: OciRegistry, name: str, subject: Digest) -> bytes:
    listed = registry.resolve(name, _tag(subject))
    return registry.manifest(name, listed) if listed is not None else b""


def _tag(subject: Digest) -> str:
    return f"sha256-{subject.hex}"
