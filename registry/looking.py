"""Looking around: nothing here writes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from adaptrix.convert.source import AdapterFiles, FileSource
from adaptrix.registry.reports import Row, ShowReport, StoredAdapter
from adaptrix.registry.resolve import resolve
from adaptrix.schema import media_types
from adaptrix.schema.adapter import Adapter
from adaptrix.schema.digest import Digest
from adaptrix.schema.errors import IntegrityError
from adaptrix.schema.manifest import Manifest
from adaptrix.store.entries import Listing, VersionEntry
from adaptrix.store.home import Home

CARD_PATH = "README.md"


def version_files(home: Home, digest: Digest, label: str) -> AdapterFiles:
    """The files of a version, as a reader sees them.

    Raises:
        IntegrityError: a file of the version is missing.
    """
    return manifest_files(home, home.manifest(digest), label)


def manifest_files(home: Home, manifest: Manifest, label: str) -> AdapterFiles:
    """The files that ``manifest`` names, as a reader sees them.

    Raises:
        IntegrityError: one of them is missing.
    """
    files = {}
    for layer in manifest.layers:
        name = layer.annotations[media_types.FILEPATH]
        path = home.blobs.path(layer.digest)
        if path is None:
            raise IntegrityError(f"blob {layer.digest} is missing", where=f"{label}:{name}")
        files[name] = FileSource(path, name)
    return AdapterFiles(location=label, files=files)


def open_version(home: Home, text: str) -> StoredAdapter:
    """A stored version in canonical form.

    Raises:
        NotFound: no such version.
        AdaptrixError: its files are not what the manifest says.
    """
    reference, digest = resolve(home, text)
    manifest = home.manifest(digest)
    return StoredAdapter(
        reference=reference,
        digest=digest,
        manifest=manifest,
        adapter=_adapter(home, digest, reference, family=manifest.record.family),
    )


def _adapter(home: Home, digest: Digest, reference: str, *, family: str) -> Adapter:
    from adaptrix.convert.reading import (  # noqa: PLC0415 - ls and show read no tensors
        ReadOptions,
        read_adapter,
        refusal,
    )

    # The values were checked when it was stored; verify checks them again.
    options = ReadOptions(check_values=False, carry=True)
    reading = read_adapter(version_files(home, digest, reference), options)
    if reading.adapter is None:
        raise refusal(reading)
    # What the source told of its family, its canonical files may tell no more.
    return replace(reading.adapter, family=family)


def ls(home: Home, pattern: str | None, *, limit: int = 0, after: str = "") -> tuple[Row, ...]:
    """See :meth:`Registry.ls`."""
    return rows_of(home.adapters(pattern, limit=limit, after=after))


def rows_of(listings: Iterable[Listing]) -> tuple[Row, ...]:
    """Names whose version is here, as rows."""
    return tuple(
        _row(str(entry.reference), entry.version) for entry in listings if entry.version is not None
    )


def _row(reference: str, version: VersionEntry) -> Row:
    return Row(
        reference=reference,
        digest=version.digest,
        family=version.family or "unknown",
        format=version.format,
        method=version.method,
        ranks=version.ranks,
        modules=version.modules,
        parameters=version.parameters,
        bytes=version.size_bytes,
        base=version.base,
        verdict=version.verdict,
        domain=version.domain,
        description=version.description,
        license=version.license,
    )


def show(home: Home, text: str) -> ShowReport:
    """See :meth:`Registry.show`."""
    reference, digest = resolve(home, text)
    manifest = home.manifest(digest)
    card = next(
        (
            home.blobs.read(layer.digest).decode("utf-8", errors="replace")
            for layer in manifest.layers
            if layer.annotations.get(media_types.FILEPATH) == CARD_PATH
        ),
        "",
    )
    return ShowReport(reference=reference, digest=digest, manifest=manifest, card=card)
