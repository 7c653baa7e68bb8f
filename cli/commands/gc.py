"""Collect garbage."""

from __future__ import annotations

from typing import Annotated

import typer

from adaptrix.cli.options import DryRunFlag, HomeOption, JsonFlag, QuietFlag
from adaptrix.cli.output import Output, size_text


def gc(
    grace_hours: Annotated[float | None, typer.Option(help="Spare what is younger [336].")] = None,
    dry_run: DryRunFlag = False,
    home: HomeOption = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Delete what no name, reflog or lineage reaches, after a grace period.

    Example: adaptrix gc --dry-run
    """
    from adaptrix.registry.registry import Registry  # noqa: PLC0415

    grace_s = None if grace_hours is None else 3600 * grace_hours
    with Registry(home) as registry:
        report = registry.gc(dry_run=dry_run, grace_s=grace_s)
    fields = {name: getattr(report, name) for name in report.__slots__}
    line = f"{'would free' if dry_run else 'freed'} {size_text(report.freed_bytes)}"
    Output(as_json=as_json, quiet=quiet).document(
        fields, lines=[line], ids=[str(report.freed_bytes)]
    )
