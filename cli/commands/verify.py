"""Verify a version."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from adaptrix.cli.options import BaseOption, HomeOption, JsonFlag, QuietFlag, ReferenceArgument
from adaptrix.cli.output import Output


def verify(
    reference: ReferenceArgument,
    base: BaseOption = None,
    merged: Annotated[
        Path | None,
        typer.Option("--merged", help="Folder of a model: is it --base with this version merged?"),
    ] = None,
    home: HomeOption = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Compute every claim of a version again; exit status follows the verdict.

    Example: adaptrix verify math --base sample
    """
    from adaptrix.registry.registry import Registry  # noqa: PLC0415

    out = Output(as_json=as_json, quiet=quiet)
    with Registry(home) as registry:
        report = registry.verify(reference, base=base, merged=merged)
    fields = {name: getattr(report, name) for name in report.__slots__}
    line = f"{report.reference}  {report.verdict}  {len(report.checks)} claims checked"
    out.document(fields, lines=[line], ids=[report.verdict])
    out.problems(report.problems)
    raise typer.Exit(report.verdict.exit_status)
