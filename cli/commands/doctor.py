"""Check the surroundings."""

from __future__ import annotations

import typer

from adaptrix.cli.options import HomeOption, JsonFlag, QuietFlag
from adaptrix.cli.output import Output, table


def doctor(home: HomeOption = None, as_json: JsonFlag = False, quiet: QuietFlag = False) -> None:
    """Check what surrounds the store: packages, disk, clock, settings, remotes.

    Exit status: 0 also with warnings, 1 when something cannot work.

    Example: adaptrix doctor
    """
    from adaptrix.registry.registry import Registry  # noqa: PLC0415

    out = Output(as_json=as_json, quiet=quiet)
    with Registry(home) as registry:
        report = registry.doctor()
    lines = table(
        ("CHECK", "STATUS", "FOUND"), [(c.name, c.status, c.detail) for c in report.checks]
    )
    out.document(
        {"verdict": report.verdict, "checks": report.checks},
        lines=[*lines, f"doctor  {report.verdict}"],
        ids=[check.name for check in report.checks if check.status != "ok"],
    )
    for check in report.checks:
        if check.hint:
            out.note(f"{check.status}: {check.name}: {check.hint}")
    raise typer.Exit(report.verdict.exit_status)
