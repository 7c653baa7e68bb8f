"""Check the store."""

from __future__ import annotations

from typing import Annotated

import typer

from adaptrix.cli.options import DryRunFlag, HomeOption, JsonFlag, QuietFlag
from adaptrix.cli.output import Output, size_text
from adaptrix.schema.errors import UsageError


def fsck(
    repair: Annotated[
        bool, typer.Option("--repair", help="Move damaged blobs aside, fetch them from a remote.")
    ] = False,
    quick: Annotated[bool, typer.Option("--quick", help="Sizes and structure only.")] = False,
    sample: Annotated[
        float | None, typer.Option("--sample", help="Hash this percentage of the blobs.")
    ] = None,
    full: Annotated[
        bool, typer.Option("--full", help="Compute every claim of every version again, too.")
    ] = False,
    dry_run: DryRunFlag = False,
    home: HomeOption = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Hash everything in the store again and check that it hangs together.

    With --repair, what is missing is fetched from the remotes that have it.

    Example: adaptrix fsck --repair
    """
    from adaptrix.registry.registry import Registry  # noqa: PLC0415

    if sum((quick, sample is not None, full)) > 1:
        raise UsageError("--quick, --sample and --full exclude each other", where="fsck")
    if sample is not None and not 0 < sample <= 100:
        raise UsageError("expected a percentage above 0, up to 100", where="--sample")
    out = Output(as_json=as_json, quiet=quiet)
    with Registry(home) as registry:
        report = registry.fsck(
            quick=quick,
            sample=1.0 if sample is None else sample / 100,
            full=full,
            repair=repair and not dry_run,
        )
    fields = {name: getattr(report, name) for name in report.__slots__}
    line = (
        f"store  {report.verdict}  {report.versions} versions, {report.blobs} blobs, "
        f"{size_text(report.hashed_bytes)} hashed, {report.claims} claims checked"
    )
    if report.repaired:
        line += f", {len(report.repaired)} blobs fetched again"
    out.document({**fields, "verdict": report.verdict}, lines=[line], ids=[report.verdict])
    out.problems(report.problems)
    raise typer.Exit(report.verdict.exit_status)
