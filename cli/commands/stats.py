"""Figures of the conversions made here."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from adaptrix.cli.options import HomeOption, JsonFlag, QuietFlag
from adaptrix.cli.output import Output, size_text, table

if TYPE_CHECKING:
    from adaptrix.registry.statistics import StatsReport

_TABLES = ("by_format", "by_method", "by_architecture", "by_fidelity", "refusals", "failures")


def stats(home: HomeOption = None, as_json: JsonFlag = False, quiet: QuietFlag = False) -> None:
    """Show how many conversions there were, of what, how they ended and how long they took.

    Every pull and convert in this home counts, refused and failed ones too; dry runs do not.

    Example: adaptrix stats
    """
    from adaptrix.registry.registry import Registry  # noqa: PLC0415

    with Registry(home) as registry:
        report = registry.stats()
    fields = {name: getattr(report, name) for name in report.__slots__}
    Output(as_json=as_json, quiet=quiet).document(fields, lines=_lines(report))


def _lines(report: StatsReport) -> Iterator[str]:
    if report.success_rate is None:
        yield "no conversion yet"
        return
    yield (
        f"{report.conversions} conversions since {report.since}: {report.done} done "
        f"({report.success_rate:.0%}), {report.refused} refused, {report.failed} failed"
    )
    if report.median_s is not None:
        yield (
            f"median {report.median_s:.2f} s, slowest {report.slowest_s:.2f} s "
            f"({report.slowest}), {size_text(report.bytes)} of tensors"
        )
    for name in _TABLES:
        rows = getattr(report, name)
        if rows:
            yield ""
            cells = [(row.name, row.count, row.done) for row in rows]
            yield from table((name.removeprefix("by_"), "count", "done"), cells)
