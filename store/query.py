"""What a search looks for, as values: no SQL here, so that asking costs no imports."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Whole numbers from ``low`` to ``high``, both included; None is open."""

    low: int | None = None
    high: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchQuery:
    """What is looked for; every condition must hold.

    Attributes:
        words: Beginnings of words in the name or in what the version says of itself.
        family, method, license, format: The value, in any case.
        base, domain, capability: A part of the value, in any case.
        module: Last part of an adapted module: ``q_proj``.
        rank: Bounds of a rank that some module has.
        size_bytes: Bounds of the files' size.
        since, until: Bounds of the name's last move, as ISO dates.
        limit: At most so many; 0 for all.
    """

    words: tuple[str, ...] = ()
    family: str = ""
    method: str = ""
    license: str = ""
    format: str = ""
    base: str = ""
    domain: str = ""
    capability: str = ""
    module: str = ""
    rank: Span | None = None
    size_bytes: Span | None = None
    since: str = ""
    until: str = ""
    limit: int = 0
