"""Figures of the conversions that were really made here, from the log of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median

from adaptrix.store.conversions import Conversion, read_conversions
from adaptrix.store.home import INDEX_FILE, Home

UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class CountRow:
    """How often.

    Attributes:
        name: A format, method, architecture, fidelity, verb or code.
        count: Attempts.
        done: How many of them ended well.
    """

    name: str
    count: int
    done: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StatsReport:
    """All conversions in a home's log.

    Attributes:
        since, until: Times of the first and the last one, ``""`` without any.
        conversions: Attempts.
        done: Attempts that ended well.
        refused: Sources that were looked at and not converted.
        failed: What could not be looked at or stored: network, disk, permission.
        success_rate: ``done / conversions``; None without any.
        by_verb, by_format, by_method, by_architecture, by_fidelity: Attempts whose source was
            recognised, the most frequent first.
        refusals: Refused attempts by the code of the problem.
        failures: Failed attempts by the code of the error.
        median_s: Median seconds of those that ended well; None without any.
        slowest_s: Seconds of the slowest of them.
        slowest: Its source.
        bytes: Bytes of the tensors of those that ended well.
    """

    since: str
    until: str
    conversions: int
    done: int
    refused: int
    failed: int
    success_rate: float | None
    by_verb: tuple[CountRow, ...]
    by_format: tuple[CountRow, ...]
    by_method: tuple[CountRow, ...]
    by_architecture: tuple[CountRow, ...]
    by_fidelity: tuple[CountRow, ...]
    refusals: tuple[CountRow, ...]
    failures: tuple[CountRow, ...]
    median_s: float | None
    slowest_s: float | None
    slowest: str
    bytes: int


def stats(home: Home | None) -> StatsReport:
    """See :meth:`Registry.stats`."""
    rows = read_conversions(home.path / INDEX_FILE) if home is not None else ()
    return report_of(rows)


def report_of(rows: tuple[Conversion, ...]) -> StatsReport:
    """The figures of ``rows``, which are in the order of time."""
    done = [row for row in rows if row.outcome == "done"]
    refused = [row for row in rows if row.outcome == "refused"]
    failed = [row for row in rows if row.outcome == "failed"]
    read = [row for row in rows if row.format]
    slowest = max(done, key=lambda row: row.seconds, default=None)
    return StatsReport(
        since=rows[0].time if rows else "",
        until=rows[-1].time if rows else "",
        conversions=len(rows),
        done=len(done),
        refused=len(refused),
        failed=len(failed),
        success_rate=len(done) / len(rows) if rows else None,
        by_verb=_counts((row.verb, row) for row in rows),
        by_format=_counts((row.format, row) for row in read),
        by_method=_counts((row.method, row) for row in read),
        by_architecture=_counts((row.architecture, row) for row in read),
        by_fidelity=_counts((row.fidelity, row) for row in read),
        refusals=_counts((row.code, row) for row in refused),
        failures=_counts((row.code, row) for row in failed),
        median_s=median(row.seconds for row in done) if done else None,
        slowest_s=slowest.seconds if slowest else None,
        slowest=slowest.source if slowest else "",
        bytes=sum(row.bytes for row in done),
    )


def _counts(named: Iterable[tuple[str, Conversion]]) -> tuple[CountRow, ...]:
    every: Counter[str] = Counter()
    good: Counter[str] = Counter()
    for name, row in named:
        every[name or UNKNOWN] += 1
        good[name or UNKNOWN] += row.outcome == "done"
    ordered = sorted(every, key=lambda name: (-every[name], name))
    return tuple(CountRow(name=n, count=every[n], done=good[n]) for n in ordered)
