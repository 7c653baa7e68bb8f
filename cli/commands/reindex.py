"""Rebuild the index."""

from __future__ import annotations

from adaptrix.cli.options import HomeOption, JsonFlag, QuietFlag
from adaptrix.cli.output import Output


def reindex(home: HomeOption = None, as_json: JsonFlag = False, quiet: QuietFlag = False) -> None:
    """Make the index, the names and their history again from the blobs alone.

    Example: adaptrix reindex
    """
    from adaptrix.registry.registry import Registry  # noqa: PLC0415

    out = Output(as_json=as_json, quiet=quiet)
    with Registry(home) as registry:
        report = registry.reindex()
    fields = {name: getattr(report, name) for name in report.__slots__}
    out.document(fields, lines=[f"{k}: {v}" for k, v in fields.items() if k != "problems"])
    out.problems(report.problems)
