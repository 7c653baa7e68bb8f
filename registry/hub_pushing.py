"""Push to a Hugging Face repository: the files that PEFT and the Hub expect.

A hub keeps files, not versions: lineage and recipe stay here, and the commit message names
the version's digest. The card is the adapter's own, or a short one made from the manifest.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import BinaryIO

import yaml

from adaptrix.hub.hub_push import HubRepository, holds
from adaptrix.hub.remote import Snapshot
from adaptrix.hub.settings import HubSettings
from adaptrix.hub.versions import TagMoved
from adaptrix.registry.fetching import ancestry
from adaptrix.registry.looking import CARD_PATH
from adaptrix.registry.pushing import PushReport, PushRequest
from adaptrix.registry.remotes import Place, Remotes
from adaptrix.registry.settings import Settings
from adaptrix.registry.sources import require_online
from adaptrix.schema import media_types
from adaptrix.schema.digest import Digest
from adaptrix.schema.manifest import Manifest
from adaptrix.schema.record import AdapterRecord
from adaptrix.schema.reference import HubSource
from adaptrix.store.home import Home

WEIGHTS = "adapter_model.safetensors"
MAX_GIT_FILE_BYTES = 10 << 20
"""The Hub keeps larger files by sha256, whatever their name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    path: str
    digest: Digest
    size_bytes: int
    data: bytes | None


def push_to_hub(
    home: Home,
    settings: Settings,
    request: PushRequest,
    place: Place,
    reference: str,
    digest: Digest,
) -> PushReport:
    """Commit the adapter's files; those that the repository has already do not travel.

    Raises:
        TagMoved: the repository holds weights that this version does not follow.
    """
    require_online(settings.offline, place.label)
    source = HubSource(repository=f"{place.location.path}/{place.name}")
    repository = HubRepository(source, _settings(settings, place))
    files = _files(home, digest)
    snapshot = repository.snapshot()
    if not request.force:
        _check(home, snapshot, digest, str(source))
    wanted = [f for f in files if not holds(snapshot, f.path, f.digest, f.data)]
    changed = bool(wanted) and not request.dry_run
    if changed:
        repository.commit(
            {file.path: _opener(home, file) for file in wanted},
            message=f"adaptrix push {reference} {digest}",
            parent=snapshot.commit if snapshot else None,
            tag=request.tag,
        )
    uploaded = sum(file.size_bytes for file in wanted)
    status = "unchanged" if not wanted else "updated" if snapshot else "new"
    return PushReport(
        reference=reference,
        remote=str(source),
        digest=digest,
        uploaded_bytes=uploaded,
        skipped_bytes=sum(file.size_bytes for file in files) - uploaded,
        versions=1,
        ancestors_missing=0,
        status="planned" if request.dry_run else status,
        changed=changed,
    )


def card_of(manifest: Manifest) -> str:
    """A model card for a version that has none: what the Hub's page and search need."""
    record = manifest.record
    matter: dict[str, object] = {"library_name": "peft", "tags": ["lora", "adaptrix"]}
    if record.base.name:
        matter["base_model"] = record.base.name
    if record.license:
        matter["license"] = record.license
    ranks = ", ".join(map(str, sorted({module.rank for module in record.modules})))
    summary = (
        f"A {record.method} adapter of {record.base.name or 'an unnamed base model'}: "
        f"{len(record.modules)} modules, rank {ranks}."
    )
    lines = [
        "---",
        yaml.safe_dump(matter, sort_keys=True).strip(),
        "---",
        "",
        f"# {record.description or 'LoRA adapter'}",
        "",
        summary,
        *_lineage(record),
        "",
        f"Tensors: `{record.tensors_digest}`. Pushed with Adaptrix.",
    ]
    return "\n".join(lines) + "\n"


def _lineage(record: AdapterRecord) -> Sequence[str]:
    composed = [p for p in record.parents if p.role == "composed_from"]
    if not composed:
        return ()
    rows = [f"- {p.name or p.digest.short}, weight {p.weight:g}" for p in composed if p.weight]
    return ("", "Composed from:", "", *rows)


def _settings(settings: Settings, place: Place) -> HubSettings:
    found = HubSettings.from_environment()
    credential = Remotes(settings).credential(place.location)
    return replace(found, token=credential.secret) if credential is not None else found


def _files(home: Home, digest: Digest) -> list[_File]:
    manifest = home.manifest(digest)
    found = []
    for layer in manifest.layers:
        path = layer.annotations[media_types.FILEPATH]
        small = layer.size_bytes <= MAX_GIT_FILE_BYTES
        data = home.blobs.read(layer.digest) if small else None
        found.append(_File(path=path, digest=layer.digest, size_bytes=layer.size_bytes, data=data))
    if all(file.path != CARD_PATH for file in found):
        card = card_of(manifest).encode()
        found.append(_File(path=CARD_PATH, digest=Digest.of(card), size_bytes=len(card), data=card))
    return found


def _opener(home: Home, file: _File) -> Callable[[], BinaryIO]:
    if file.data is None:
        return lambda: home.blobs.open(file.digest)
    data = file.data
    return lambda: io.BytesIO(data)


def _check(home: Home, snapshot: Snapshot | None, digest: Digest, where: str) -> None:
    """Refuse to replace weights that are neither ours nor an ancestor's."""
    there = next((f for f in snapshot.files if f.path == WEIGHTS), None) if snapshot else None
    if there is None or there.sha256 is None:
        return
    known = set()
    for version in ancestry(home, digest):
        manifest = home.manifest(version)
        known |= {layer.digest for layer in manifest.layers}
        known |= {file.digest for file in manifest.record.source.files}
    if there.sha256 not in known:
        raise TagMoved(where=where, wanted=None, got=there.sha256)
