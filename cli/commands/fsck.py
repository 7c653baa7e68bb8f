"""Check the store."""

from __future__ import annotations

from typing import Annotated

import typer

from adaptrix.cli.options import DryRunFlag, HomeOption, JsonFlag, QuietFlag
from adaptrix.cli.output import Output


def fsck(
    repair: Annotated[bool, typer.Option("--repair", help="Move damaged blobs aside.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="Sizes and structure only.")] = False,
    dry_run: DryRunFlag = False,
    home: HomeOption = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Hash everything in the store again and check that it hangs together.

    Example: adaptrix fsck --repair
    """
    from adaptrix.registry.registry import Registry  # noqa: PLC0415

    out = Output(as_json=as_json, quiet=quiet)
    with Registry(home) as registry:
        report = registry.fsck(quick=quick, repair=repair and not dry_run)
    fields = {name: getattr(report, name) for name in report.__slots__}
    out.document(
        {**fields, "verdict": report.verdict},
        lines=[f"store  {report.verdict}"],
        ids=[report.verdict],
    )
    out.problems(report.problems)
    raise typer.Exit(report.verdict.exit_status)
