"""Where adapters come from: a path here, or a repository on the Hub."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from adaptrix.convert.source import AdapterFiles, ByteSource, FileSource, open_path
from adaptrix.hub.selection import Selection, select_adapter_files
from adaptrix.schema.digest import Digest
from adaptrix.schema.errors import InvalidReference, NotFound, RemoteError, UsageError
from adaptrix.schema.reference import (
    HubSource,
    OciSource,
    PathSource,
    Reference,
    hub_source_of,
    parse_source,
)
from adaptrix.schema.report import Candidate

if TYPE_CHECKING:
    from adaptrix.schema.record import SourceRecord

CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedSource:
    """A source whose bytes can be read.

    Attributes:
        label: The source as it is printed.
        files: The files in which to look for the adapter.
        ignored: Files that are left alone, with the reason.
        stored: Whether it is a version of this home, kept as it is where it is no LoRA.
        decided: Of a stored version: the family that it was pulled as.
    """

    label: str
    files: AdapterFiles
    ignored: tuple[tuple[str, str], ...] = ()
    stored: bool = False
    decided: Candidate | None = None


def locate(text: str, revision: str | None = None) -> HubSource | PathSource:
    """Decide by form, then by what exists, whether ``text`` is a path or on the Hub.

    Raises:
        InvalidReference: neither.
        NotFound: one word, which only a path could be, and there is none.
        UsageError: an OCI registry, or a revision for a path.
    """
    path = Path(text).expanduser()
    try:
        parsed = parse_source(text)
    except InvalidReference:
        # Hub names may hold upper-case letters, which references may not.
        parsed = PathSource(path=text) if path.exists() else hub_source_of(text)
    if isinstance(parsed, OciSource):
        raise UsageError("a registry is pulled from as a remote", where=text)
    if isinstance(parsed, Reference):
        if len(parsed.parts) == 1 and not path.exists():
            raise NotFound(
                "no adapter, file or folder of this name",
                where=text,
                hint="Names that are here: adaptrix ls. A repository on the Hub is org/name.",
            )
        parsed = PathSource(path=text) if path.exists() else hub_source_of(text)
    if isinstance(parsed, PathSource) and revision is not None:
        raise UsageError("a path has no revisions", where="--revision")
    if isinstance(parsed, HubSource) and revision is not None:
        if parsed.revision is not None and parsed.revision != revision:
            raise UsageError(f"the source already names {parsed.revision}", where="--revision")
        parsed = replace(parsed, revision=revision)
    return parsed


def open_local(source: PathSource) -> OpenedSource:
    """Open a file or folder.

    Raises:
        NotFound, FormatError, PolicyRefused: as ``convert.source.open_path``.
    """
    files = open_path(Path(source.path))
    if "oci-layout" in files.files:
        raise UsageError(
            "an OCI image layout, which may hold many adapters",
            where=str(source),
            hint=f"adaptrix remote add NAME {source}, then adaptrix ls NAME/",
        )
    sizes = {name: entry.size_bytes for name, entry in files.files.items()}
    return selected(str(source), files.location, select_adapter_files(sizes), files.files)


def selected(
    label: str, location: str, selection: Selection, files: Mapping[str, ByteSource]
) -> OpenedSource:
    """What was selected of ``files``, opened."""
    wanted = {name: files[name] for name in selection.wanted}
    return OpenedSource(
        label=label,
        files=AdapterFiles(location=location, files=wanted, folders=selection.folders),
        ignored=selection.ignored,
    )


def local_record(files: Mapping[str, ByteSource], on_bytes: Callable[[int], None]) -> SourceRecord:
    """Digest every file that was read; ``on_bytes`` is told of each piece."""
    from adaptrix.schema.record import SourceFile, SourceRecord  # noqa: PLC0415

    found = tuple(
        SourceFile(path=name, digest=_digest(entry, on_bytes), size_bytes=entry.size_bytes)
        for name, entry in sorted(files.items())
    )
    return SourceRecord(kind="local", files=found)


def _digest(entry: ByteSource, on_bytes: Callable[[int], None]) -> Digest:
    import hashlib  # noqa: PLC0415

    state = hashlib.sha256()
    for start in range(0, entry.size_bytes, CHUNK_BYTES):
        chunk = entry.read(start, min(start + CHUNK_BYTES, entry.size_bytes))
        state.update(chunk)
        on_bytes(len(chunk))
    return Digest(state.hexdigest())


def stored_file(path: Path, name: str) -> ByteSource:
    """A blob of the store under the name that it had at its source."""
    return FileSource(path, name)


def require_online(offline: bool, what: str) -> None:
    """Refuse what needs the network when it is off limits.

    Raises:
        RemoteError: it is.
    """
    if offline:
        raise RemoteError(
            "offline: the network is off limits",
            where=what,
            hint="Unset ADAPTRIX_OFFLINE and HF_HUB_OFFLINE, or give a local path.",
            code="offline",
        )
