"""Naming and cleaning: small changes, each with compare-and-swap."""

from __future__ import annotations

from adaptrix.registry.resolve import resolve, target
from adaptrix.schema.errors import NotFound, UsageError
from adaptrix.schema.reference import Reference
from adaptrix.store.gc import GRACE_S, GcReport
from adaptrix.store.home import Home


def tag(home: Home, text: str, new_tag: str, *, dry_run: bool) -> str:
    """See :meth:`Registry.tag`.

    Raises:
        InvalidReference: ``new_tag`` is no tag.
        UsageError: the version was named by a digest, so there is no name to tag.
    """
    _, digest = resolve(home, text)
    if text.startswith("sha256:"):
        raise UsageError("a bare digest has no name to tag", where=text)
    name = Reference.parse(text).name
    reference = Reference(parts=tuple(name.split("/")), tag=new_tag)
    if not dry_run:
        expected = home.references.get(name, new_tag)
        home.references.set(name, new_tag, digest, expected=expected, reason=f"tag {text}")
    return str(reference)


def rm(home: Home, text: str, *, dry_run: bool) -> str:
    """See :meth:`Registry.rm`.

    Raises:
        NotFound: no such name.
    """
    name, chosen = target(text)
    current = home.references.get(name, chosen)
    if current is None:
        raise NotFound("no such adapter here", where=text, hint="List what there is: adaptrix ls")
    if not dry_run:
        home.references.delete(name, chosen, expected=current, reason="rm")
    return f"{name}:{chosen}"


def gc(home: Home, *, dry_run: bool, grace_s: float | None) -> GcReport:
    """See :meth:`Registry.gc`."""
    if grace_s is not None and not grace_s >= 0:
        raise UsageError(f"expected hours, 0 or more, got {grace_s / 3600:g}", where="grace")
    return home.gc(grace_s=GRACE_S if grace_s is None else grace_s, dry_run=dry_run)
