"""Search by words and by typed filters, and by likeness; all of it offline.

``math family:phi rank:8..16 size:<10MB since:2026-01-01``: words begin a word in the name
or in what a version says of itself, ``key:value`` filters what it is.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import date, datetime
from typing import Any

from adaptrix.registry.looking import open_version, rows_of
from adaptrix.registry.reports import Row, SimilarRow, StoredAdapter
from adaptrix.schema.digest import Digest
from adaptrix.schema.errors import AdaptrixError, UsageError
from adaptrix.schema.record import AdapterRecord
from adaptrix.store.entries import Listing
from adaptrix.store.home import Home
from adaptrix.store.query import SearchQuery, Span

CANDIDATES = 50
"""For so many of the likest by energies, the exact cosine is computed."""
_TEXT_KEYS = (
    "family", "method", "license", "format", "base", "domain", "capability", "module",
)  # fmt: skip
KEYS = (*_TEXT_KEYS, "rank", "size", "since", "until")
_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)([a-z]*)")


def parse_query(text: str) -> SearchQuery:
    """Read what a user looks for.

    Raises:
        UsageError: a filter that cannot be understood.
    """
    words: list[str] = []
    fields: dict[str, Any] = {}
    for part in text.split():
        key, colon, value = part.partition(":")
        if not colon or key.lower() not in KEYS:
            if colon:
                _refuse_near_miss(key, part)
            words.append(part)
            continue
        if not value:
            raise UsageError("expected a value after the colon", where=part)
        fields |= _filter(key.lower(), value)
    return SearchQuery(words=tuple(words), **fields)


def search(home: Home, text: str, *, limit: int) -> tuple[Row, ...]:
    """See :meth:`Registry.search`."""
    return rows_of(home.index.search(replace(parse_query(text), limit=limit)))


def fits(query: SearchQuery, row: Row, record: AdapterRecord | None) -> bool:
    """Whether a remote's row fits; what a remote cannot know is refused beforehand.

    Args:
        query: What is looked for.
        row: The row.
        record: What its manifest says; None for what is no adapter of ours.
    """
    if record is None:
        return False
    text = "\n".join(
        (
            row.reference, row.description, row.domain, row.family, row.base, row.license,
            row.method, row.format, record.training_data, *record.capabilities, *_leaves(record),
        )
    ).casefold()  # fmt: skip
    return (
        all(word.casefold() in text for word in query.words)
        and all(
            getattr(query, key).lower() in {"", getattr(row, key).lower()}
            for key in ("family", "method", "license", "format")
        )
        and query.base.lower() in row.base.lower()
        and query.domain.lower() in row.domain.lower()
        and query.capability.lower() in " ".join(record.capabilities).lower()
        and (not query.module or query.module in _leaves(record))
        and any(_inside(query.rank, rank) for rank in row.ranks)
        and _inside(query.size_bytes, row.bytes)
    )


def similar(home: Home, text: str, *, limit: int) -> tuple[SimilarRow, ...]:
    """See :meth:`Registry.similar`."""
    own = open_version(home, text)
    signatures = _signatures(home, own)
    mine = signatures[own.digest]
    names = _names(home)
    ranked = sorted(
        ((_cosine(mine, energies), digest) for digest, energies in signatures.items()
         if digest in names and digest != own.digest),
        key=lambda pair: (-pair[0], pair[1]),
    )  # fmt: skip
    rows = [
        _similar_row(home, own, digest, profile, names[digest])
        for profile, digest in ranked[: max(CANDIDATES, limit)]
        if profile > 0
    ]
    rows.sort(key=lambda row: (-(row.cosine or 0.0), -row.profile, row.reference))
    return tuple(rows[:limit] if limit else rows)


def _refuse_near_miss(key: str, part: str) -> None:
    """A misspelt filter would find nothing and not say why."""
    near = difflib.get_close_matches(key.lower(), KEYS, n=1, cutoff=0.75)
    if near:
        raise UsageError(
            f"no such filter; did you mean {near[0]}:?",
            where=part,
            hint=f"There are {', '.join(KEYS)}.",
        )


def _filter(key: str, value: str) -> dict[str, object]:
    if key in _TEXT_KEYS:
        return {key: value}
    if key == "rank":
        return {"rank": _span(value, key, _count)}
    if key == "size":
        return {"size_bytes": _span(value, key, _size)}
    try:
        datetime.fromisoformat(value)
    except ValueError as error:
        today = date.today().isoformat()
        raise UsageError(f"expected a date like {today}, got {value!r}", where=key) from error
    return {key: value}


def _span(value: str, key: str, number: Any) -> Span:
    """``8``, ``4..16``, ``<8``, ``<=8``, ``>8``, ``>=8``."""
    if ".." in value:
        low, _, high = value.partition("..")
        return Span(low=number(low, key) if low else None, high=number(high, key) if high else None)
    sign = re.match(r"[<>]=?", value)
    if sign is None:
        exact = number(value, key)
        return Span(low=exact, high=exact)
    bound = number(value[sign.end() :], key)
    strict = "=" not in sign[0]
    return Span(high=bound - strict) if sign[0][0] == "<" else Span(low=bound + strict)


def _count(text: str, key: str) -> int:
    """A whole number.

    Raises:
        UsageError: anything else.
    """
    if not (text.isascii() and text.isdigit()):
        raise UsageError(f"expected a whole number, got {text!r}", where=key)
    return int(text)


def _size(text: str, key: str) -> int:
    """``300kB``, ``1.5MB``, ``2GB`` or bytes.

    Raises:
        UsageError: anything else.
    """
    found = _SIZE.fullmatch(text.lower())
    if found is None or found[2] not in _UNITS:
        raise UsageError(f"expected a size like 10MB, got {text!r}", where=key)
    return int(float(found[1]) * _UNITS[found[2]])


def _inside(span: Span | None, value: int) -> bool:
    if span is None:
        return True
    return (span.low is None or value >= span.low) and (span.high is None or value <= span.high)


def _leaves(record: AdapterRecord) -> set[str]:
    return {module.path.rpartition(".")[2] for module in record.modules}


def _names(home: Home) -> dict[Digest, Listing]:
    """The first name of every version that has one."""
    found: dict[Digest, Listing] = {}
    for listing in home.index.adapters():
        found.setdefault(listing.reference.digest, listing)
    return found


def _signatures(home: Home, own: StoredAdapter) -> dict[Digest, dict[str, float]]:
    """Energies of all versions of the same family; those that are missing are computed."""
    known = home.index.signatures()
    family = own.manifest.record.family
    wanted = [entry.digest for entry in home.versions() if entry.family == family]
    fresh = dict(_computed(home, [digest for digest in wanted if digest not in known]))
    if fresh and not home.read_only:
        with home.index.writing() as transaction:
            for digest, energies in fresh.items():
                transaction.sign(digest, energies)
    found = known | fresh
    return {digest: found[digest] for digest in wanted if digest in found}


def _computed(home: Home, digests: list[Digest]) -> Iterator[tuple[Digest, dict[str, float]]]:
    from adaptrix.compose.differences import norm  # noqa: PLC0415 - imports torch

    for digest in digests:
        try:
            adapter = open_version(home, str(digest)).adapter
            yield digest, {module.path: norm(module) for module in adapter.modules}
        except AdaptrixError:
            # A damaged version is fsck's to report; here it is like nothing.
            continue


def _cosine(one: Mapping[str, float], other: Mapping[str, float]) -> float:
    inner = sum(value * other.get(path, 0.0) for path, value in one.items())
    sizes = math.hypot(*one.values()) * math.hypot(*other.values())
    return inner / sizes if sizes else 0.0


def _similar_row(
    home: Home, own: StoredAdapter, digest: Digest, profile: float, listing: Listing
) -> SimilarRow:
    from adaptrix.compose.differences import adapters_cosine  # noqa: PLC0415 - imports torch

    other = open_version(home, str(digest)).adapter
    cosine, shared = adapters_cosine(own.adapter, other)
    return SimilarRow(
        reference=str(listing.reference),
        digest=digest,
        profile=profile,
        cosine=cosine,
        shared=shared,
        description=listing.version.description if listing.version else "",
    )
