"""From what a user writes to a version in the store."""

from __future__ import annotations

import string

from adaptrix.schema.digest import Digest
from adaptrix.schema.errors import InvalidReference, NotFound, UsageError
from adaptrix.schema.reference import DEFAULT_TAG, HubSource, Reference, parse_source
from adaptrix.store.home import Home

MIN_DIGEST_PREFIX = 7


def resolve(home: Home, text: str) -> tuple[str, Digest]:
    """The version that ``text`` names, with its full reference for printing.

    ``name``, ``name:tag``, ``name@sha256:…``, ``name~1``, ``sha256:…`` or the first seven
    or more digits of a digest.

    Raises:
        InvalidReference: no reference at all.
        NotFound: nothing of that name.
    """
    if text.startswith("sha256:"):
        return text, home.find(text)
    reference = Reference.parse(text)
    digest = _named(home, reference, text)
    for _ in range(reference.ancestor):
        edges = home.parents(digest)
        if not edges:
            raise NotFound("there is no version that far back", where=text)
        digest = edges[0].parent
    named = home.target(reference.name, reference.tag_or_default)
    if reference.ancestor or reference.digest is not None or named is None:
        return text, digest
    return f"{reference.name}:{reference.tag_or_default}", digest


def _named(home: Home, reference: Reference, text: str) -> Digest:
    if reference.digest is not None:
        home.manifest(reference.digest)
        return reference.digest
    found = home.target(reference.name, reference.tag_or_default)
    if found is not None:
        return found
    by_digest = _by_prefix(home, text)
    if by_digest is not None:
        return by_digest
    names = sorted({str(row) for row in home.references.all()})
    near = [name for name in names if reference.parts[-1] in name][:5]
    raise NotFound(
        "no such adapter here",
        where=text,
        hint=f"Did you mean {', '.join(near)}?" if near else "List what there is: adaptrix ls",
    )


def _by_prefix(home: Home, text: str) -> Digest | None:
    if len(text) < MIN_DIGEST_PREFIX or not set(text) <= set(string.hexdigits.lower()):
        return None
    try:
        return home.find(text)
    except NotFound:
        return None


def target(text: str) -> tuple[str, str]:
    """Name and tag to write to.

    Raises:
        InvalidReference: no reference.
        UsageError: a digest or an ancestor cannot be written to.
    """
    reference = Reference.parse(text)
    if reference.digest is not None or reference.ancestor:
        raise UsageError("expected NAME[:TAG]", where=text)
    return reference.name, reference.tag_or_default


def default_name(source: str) -> tuple[str, str]:
    """Name and tag for a source without ``--as``: ``org/repo[-folder]``, or a path's last part.

    Raises:
        UsageError: nothing in it makes a name.
    """
    text = _in_a_hub(source).partition("@")[0].lower()
    parts = [part for part in text.replace("\\", "/").split("/") if part not in {"", ".", ".."}]
    keep = 2 if not source.startswith((".", "/", "~")) and len(parts) == 2 else 1
    cleaned = [clean_name(part) for part in parts[-keep:]]
    try:
        return Reference(parts=tuple(cleaned)).name, DEFAULT_TAG
    except InvalidReference as error:
        raise UsageError(
            "no name can be made of this source", where=source, hint="Pass --as NAME."
        ) from error


def _in_a_hub(source: str) -> str:
    """``org/repo[-folder]`` of what names a repository on the Hub; other text as it is."""
    if not source.startswith(("hf:", "http://", "https://")):
        return source
    found = parse_source(source)
    if not isinstance(found, HubSource):
        return source
    return found.repository + (f"-{found.folder.rpartition('/')[2]}" if found.folder else "")


def clean_name(part: str) -> str:
    """``part`` with what a reference does not allow replaced."""
    for suffix in (".lora", ".safetensors", ".gguf", ".npz", ".bin", ".pt", ".pth"):
        part = part.removesuffix(suffix)
    allowed = string.ascii_lowercase + string.digits
    text = "".join(char if char in allowed + "._-" else "-" for char in part)
    while any(pair in text for pair in ("--", "..", "__", "-.", ".-", "_-", "-_", "._", "_.")):
        for pair in ("--", "-.", ".-", "_-", "-_"):
            text = text.replace(pair, "-")
        text = text.replace("..", ".").replace("__", "_").replace("._", "_").replace("_.", "_")
    return text.strip("._-")
