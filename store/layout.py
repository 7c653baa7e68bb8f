"""The home as an OCI image layout: ``oci-layout`` and ``index.json`` beside the blobs.

With them, skopeo, crane, oras and other tools read a home as it stands. ``index.json`` is
derived: SQLite is the truth about names. Source: OCI image-spec 1.1, image-layout.md.
"""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from adaptrix.schema import media_types
from adaptrix.schema.canonical import Json, canonical_json
from adaptrix.schema.digest import Digest
from adaptrix.store.entries import ReferenceRow
from adaptrix.store.faults import translate
from adaptrix.store.writer import sync_folder

MARKER = "oci-layout"
INDEX = "index.json"
INDEX_MEDIA_TYPE = "application/vnd.oci.image.index.v1+json"
REFERENCE_NAME = "org.opencontainers.image.ref.name"
OMITTED = "dev.adaptrix.references-omitted"
LAST_MOVE = "dev.adaptrix.last-move"
MAX_LISTED_REFERENCES = 256
"""Beyond this, rewriting the file would cost more than every move itself."""
OMITTED_INDEX = canonical_json(
    {
        "schemaVersion": 2,
        "mediaType": INDEX_MEDIA_TYPE,
        "manifests": [],
        "annotations": {OMITTED: f"more than {MAX_LISTED_REFERENCES}; ask adaptrix ls"},
    }
)
"""The file of a home that has too many names to list."""
_HEAD_BYTES = 512  # sorted keys: the annotations come first
_LAST_MOVE = re.compile(rb'"dev\.adaptrix\.last-move":"([^"]+)"')
_MARKER_BYTES = canonical_json({"imageLayoutVersion": "1.0.0"})


def ensure_layout(root: Path) -> None:
    """Write ``oci-layout``, and an empty ``index.json`` when there is none.

    Raises:
        AdaptrixError: they cannot be written.
    """
    if not _is_marker(root / MARKER):
        replace_file(root, MARKER, _MARKER_BYTES)
    if not (root / INDEX).exists():
        replace_file(root, INDEX, index_bytes([], {}))


def index_bytes(
    references: Sequence[ReferenceRow],
    sizes: Mapping[Digest, int],
    last_move: Digest | None = None,
    *,
    everything: bool = False,
) -> bytes:
    """``index.json`` for these names; without them, and saying so, when there are too many.

    Args:
        references: All names, sorted.
        sizes: Size in bytes of each manifest; names without one are left out.
        last_move: Record of the latest move of any name: tells how old the file is.
        everything: List them even when they are too many.
    """
    if not everything and len(references) > MAX_LISTED_REFERENCES:
        return OMITTED_INDEX
    document: dict[str, Json] = {"schemaVersion": 2, "mediaType": INDEX_MEDIA_TYPE}
    if last_move is not None:
        document["annotations"] = {LAST_MOVE: str(last_move)}
    document["manifests"] = [
        {
            "mediaType": media_types.MANIFEST,
            "artifactType": media_types.MODEL,
            "digest": str(row.digest),
            "size": sizes[row.digest],
            "annotations": {REFERENCE_NAME: str(row)},
        }
        for row in references
        if row.digest in sizes
    ]
    return canonical_json(document)


def write_index(root: Path, content: bytes) -> None:
    """Replace ``index.json`` unless it says that already.

    Raises:
        AdaptrixError: it cannot be written.
    """
    if read_index(root) != content:
        replace_file(root, INDEX, content)


def is_current(root: Path, last_move: Digest | None) -> bool:
    """Whether ``index.json`` was written after this move, by its first bytes alone."""
    try:
        with (root / INDEX).open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError:
        return False
    if OMITTED.encode() in head:
        return True
    found = _LAST_MOVE.search(head)
    return (found[1].decode() if found else None) == (str(last_move) if last_move else None)


def read_index(root: Path) -> bytes | None:
    """The present ``index.json``; None when it cannot be read."""
    with suppress(OSError):
        return (root / INDEX).read_bytes()
    return None


def replace_file(root: Path, name: str, content: bytes) -> None:
    """Write a file of the home so that readers see the old or the new one, whole.

    Raises:
        AdaptrixError: it cannot be written.
    """
    temporary = root / "tmp" / f"{name}-{os.getpid()}-{secrets.token_hex(4)}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        descriptor = os.open(temporary, flags, 0o666)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.rename(root / name)
        except BaseException:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        sync_folder(root)
    except OSError as error:
        raise translate(error, where=root, needed_bytes=len(content)) from error


def is_layout(root: Path) -> bool:
    """Whether ``oci-layout`` is there and valid."""
    return _is_marker(root / MARKER)


def _is_marker(path: Path) -> bool:
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(document, dict) and document.get("imageLayoutVersion") == "1.0.0"
