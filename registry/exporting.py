"""Export as an OCI image layout: this home as it stands, or one version with its ancestors."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

from adaptrix.hub.location import RemoteKind, RemoteLocation
from adaptrix.registry.pushing import PushRequest, push_to
from adaptrix.registry.remotes import Place
from adaptrix.registry.resolve import resolve
from adaptrix.registry.settings import Settings
from adaptrix.schema.errors import UsageError
from adaptrix.schema.reference import Reference
from adaptrix.store.home import Home
from adaptrix.store.layout import MARKER, read_index


@dataclass(frozen=True, slots=True, kw_only=True)
class LayoutReport:
    """Outcome of ``export --oci-layout``.

    Attributes:
        path: The layout's folder.
        names: Names that its ``index.json`` lists now.
        versions: Versions that were asked for: one with its ancestors, or all named ones.
        written_bytes: Bytes of blobs that were written there; none in this home.
    """

    path: str
    names: int
    versions: int
    written_bytes: int


def export_layout(
    home: Home, settings: Settings, reference: str, output: Path | None, *, dry_run: bool
) -> LayoutReport:
    """See :meth:`Sharing.export_layout`."""
    if bool(reference) != (output is not None):
        raise UsageError("give NAME and -o FOLDER, or neither", where="export --oci-layout")
    if output is None:
        return list_all(home, dry_run=dry_run)
    return export_version(home, settings, reference, output, dry_run=dry_run)


def list_all(home: Home, *, dry_run: bool) -> LayoutReport:
    """Write this home's ``index.json`` with all names, however many there are.

    The next command that moves a name shortens it again when there are very many.

    Raises:
        AdaptrixError: it cannot be written.
    """
    with home.index.writing() as transaction:
        if not dry_run:
            home.references.relist(transaction, everything=True)
        references, sizes, _ = transaction.listing()
    return LayoutReport(
        path=str(home.path), names=len(references), versions=len(sizes), written_bytes=0
    )


def export_version(
    home: Home, settings: Settings, reference: str, output: Path, *, dry_run: bool
) -> LayoutReport:
    """Copy a version with its ancestors to a layout at ``output``, new or there already.

    Raises:
        NotFound: no such version.
        UsageError: ``output`` holds something else.
    """
    if output.exists() and not (output / MARKER).is_file() and any(output.iterdir()):
        raise UsageError("expected a new or empty folder, or an OCI layout", where=str(output))
    named, digest = resolve(home, reference)
    bare = named.startswith("sha256:")
    local = None if bare else Reference.parse(named)
    place = Place(
        location=RemoteLocation(kind=RemoteKind.FOLDER, path=str(output.absolute())),
        base=f"{output}/",
        name=local.name if local else digest.short,
    )
    if local is not None:
        place = replace(place, tag=local.tag_or_default)
    request = PushRequest(reference=named, dry_run=dry_run)
    pushed = push_to(home, settings, request, place, progress=None)
    document = json.loads(read_index(output) or b"{}")
    return LayoutReport(
        path=str(output),
        names=len(document.get("manifests", ())),
        versions=pushed.versions,
        written_bytes=pushed.uploaded_bytes,
    )
