"""Pull: source → recognised → canonical → stored, each step checked."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from adaptrix.convert.reading import read_adapter, refusal
from adaptrix.convert.writing import tensors_digest
from adaptrix.hub.location import RemoteKind
from adaptrix.registry.beside import Beside, OnBytes
from adaptrix.registry.card import read_card
from adaptrix.registry.recording import note_reading, recorded
from adaptrix.registry.remotes import Remotes
from adaptrix.registry.reports import PullReport
from adaptrix.registry.requests import PullRequest, base_config_digest, located, read_options
from adaptrix.registry.resolve import default_name, target
from adaptrix.registry.settings import Settings
from adaptrix.registry.sources import (
    OpenedSource,
    local_record,
    open_local,
    require_online,
)
from adaptrix.registry.writing import Provenance, StoredFiles, publish, same_content, write_files
from adaptrix.schema.digest import Digest
from adaptrix.schema.manifest import Manifest
from adaptrix.schema.record import AdapterRecord, ConversionRecord, SourceRecord
from adaptrix.schema.reference import HubSource, PathSource
from adaptrix.schema.report import Fidelity, Inspection
from adaptrix.schema.version import VERSION
from adaptrix.store.home import Home

if TYPE_CHECKING:
    from adaptrix.hub.remote import Progress

MAX_SAME = 8


def pull(
    home: Home, settings: Settings, request: PullRequest, progress: Progress | None
) -> PullReport:
    """See :meth:`Registry.pull`."""
    if request.name is not None:
        target(request.name)
    place = Remotes(settings).place(request.source)
    with logged(home, request), home.lease():
        if place is not None and place.location.kind is not RemoteKind.HUB:
            from adaptrix.registry.remote_pulling import pull_place  # noqa: PLC0415

            return pull_place(home, settings, request, place, progress)
        found = located(request, place)
        if place is not None and request.name is None:
            request = replace(request, name=place.name)
        if isinstance(found, PathSource):
            opened = open_local(found)
            return ingest(home, request, opened, partial(local_record, opened.files.files), 0)
        return _pull_hub(home, settings, request, found, progress)


def logged(home: Home, request: PullRequest) -> AbstractContextManager[None]:
    """Log what the block pulls, unless it is a dry run."""
    return nullcontext() if request.dry_run else recorded(lambda: home, "pull", request.source)


def _pull_hub(
    home: Home,
    settings: Settings,
    request: PullRequest,
    source: HubSource,
    progress: Progress | None,
) -> PullReport:
    from adaptrix.registry.hubbing import (  # noqa: PLC0415
        fetch_snapshot,
        open_remote,
        selection_of,
    )

    require_online(settings.offline, str(source))
    remote, snapshot = open_remote(source, Remotes(settings).hub_token(request.source))
    name, tag = names_of(request)
    current = home.references.get(name, tag)
    if current is not None and not request.dry_run:
        manifest = home.manifest(current)
        same = manifest.record.source
        known = (same.repository, same.commit, {file.path for file in same.files})
        wanted = set(selection_of(snapshot).wanted)
        if known == (snapshot.repository, snapshot.commit, wanted):
            unchanged = _with_answers(manifest.record, request)
            if same_content(unchanged, manifest.record) and same_question(manifest, request):
                return report_of(
                    f"{name}:{tag}", current, manifest, "unchanged", str(source), fetched=0
                )
    fetched = fetch_snapshot(home, remote, snapshot, label=str(source), progress=progress)
    return ingest(home, request, fetched.opened, lambda _: fetched.record, fetched.fetched_bytes)


def same_question(manifest: Manifest, request: PullRequest) -> bool:
    """Whether flags that change how the source is read were left out."""
    answers = (request.alpha, request.source_layout, request.base)
    return answers == (None, None, None) and not request.carry


def ingest(
    home: Home,
    request: PullRequest,
    opened: OpenedSource,
    source_record: Callable[[OnBytes], SourceRecord],
    fetched_bytes: int,
) -> PullReport:
    """Recognise, convert and store what was opened, and name it.

    Raises:
        AdaptrixError: it cannot be converted exactly; nothing is stored then.
    """
    options = read_options(request)
    reading = read_adapter(opened.files, options)
    note_reading(reading.inspection)
    if reading.adapter is None:
        raise refusal(reading)
    name, tag = names_of(request)
    if request.dry_run:
        return _planned(f"{name}:{tag}", reading.inspection, opened.label)
    adapter, card = reading.adapter, read_card(opened.files)
    with (
        Beside(lambda on_bytes: tensors_digest(adapter, on_bytes=on_bytes)) as tensors,
        Beside(source_record) as source,
    ):
        layers = write_files(home, adapter, card.text)
    files = StoredFiles(layers=layers, tensors_digest=tensors.result())
    provenance = Provenance(
        source=source.result(),
        conversion=_conversion(reading.inspection),
        description=request.description or card.description,
        domain=request.domain,
        capabilities=request.capabilities,
        training_data=request.training_data or card.training_data,
        license=request.license or card.license,
        base_config=base_config_digest(options),
    )
    reason = f"pull {'a local path' if provenance.source.kind == 'local' else opened.label}"
    stored = publish(home, adapter, files, provenance, name=name, tag=tag, reason=reason)
    report = report_of(
        f"{name}:{tag}", stored.digest, stored.manifest, stored.status, opened.label, fetched_bytes
    )
    return replace(
        report,
        problems=reading.inspection.problems,
        same_as=_same_adapter(home, stored.digest, stored.manifest.record),
    )


def _same_adapter(home: Home, digest: Digest, record: AdapterRecord) -> tuple[str, ...]:
    """Names of other versions with these tensors, scales and base family."""
    found: list[str] = []
    for version in home.find_by_tensors(record.tensors_digest):
        if version.digest == digest or len(found) >= MAX_SAME:
            continue
        other = home.manifest(version.digest).record
        if _content(other) == _content(record):
            found += [str(row) for row in home.index.named(version.digest)]
    return tuple(found)


def _content(record: AdapterRecord) -> object:
    scales = tuple((module.path, module.scale) for module in record.modules)
    return record.tensors_digest, record.family, record.method, scales


def names_of(request: PullRequest) -> tuple[str, str]:
    """Name and tag to store under."""
    return target(request.name) if request.name is not None else default_name(request.source)


def _with_answers(record: AdapterRecord, request: PullRequest) -> AdapterRecord:
    """``record`` as it would be with what the user says now; silence keeps what is there."""
    return replace(
        record,
        description=request.description or record.description,
        domain=request.domain or record.domain,
        training_data=request.training_data or record.training_data,
        license=request.license or record.license,
        capabilities=request.capabilities or record.capabilities,
    )


def _conversion(inspection: Inspection) -> ConversionRecord:
    return ConversionRecord(
        format=inspection.format.name,
        layout=inspection.architecture.layout,
        method=inspection.format.method,
        tool=f"adaptrix {VERSION}",
        fidelity=inspection.fidelity,
        verdict=inspection.verdict,
        confidence=inspection.architecture.confidence,
        evidence=(*inspection.format.evidence, *inspection.architecture.evidence),
    )


def report_of(
    reference: str, digest: Digest, manifest: Manifest, status: str, source: str, fetched: int
) -> PullReport:
    """What to say of a version that is here now."""
    record, conversion = manifest.record, manifest.record.conversion
    return PullReport(
        reference=reference,
        digest=digest,
        tensors_digest=record.tensors_digest,
        bytes=sum(layer.size_bytes for layer in manifest.layers),
        fetched_bytes=fetched,
        changed=status != "unchanged",
        status=status,
        source=source,
        format=conversion.format if conversion else "composed",
        layout=conversion.layout if conversion else "",
        architecture=record.family or "unknown",
        confidence=conversion.confidence if conversion else 1.0,
        modules=len(record.modules),
        fidelity=conversion.fidelity if conversion else Fidelity.EXACT,
        verdict=record.verdict,
    )


def _planned(reference: str, inspection: Inspection, source: str) -> PullReport:
    return PullReport(
        reference=reference,
        digest=None,
        tensors_digest=None,
        bytes=inspection.bytes,
        fetched_bytes=0,
        changed=False,
        status="planned",
        source=source,
        format=inspection.format.name,
        layout=inspection.architecture.layout,
        architecture=inspection.architecture.family,
        confidence=inspection.architecture.confidence,
        modules=len(inspection.modules),
        fidelity=inspection.fidelity,
        verdict=inspection.verdict,
        problems=inspection.problems,
    )
