"""Fetch, verify, convert, store."""

from __future__ import annotations

from typing import Annotated

import typer

from adaptrix.cli.options import (
    AllFlag,
    AlphaOption,
    BaseOption,
    CarryFlag,
    DryRunFlag,
    ForceFlag,
    HomeOption,
    JsonFlag,
    LayoutOption,
    QuietFlag,
    RevisionOption,
    SourceArgument,
)
from adaptrix.cli.output import Output
from adaptrix.cli.progress import progress
from adaptrix.cli.pulling import next_step, pull_everything, pull_line


def pull(
    source: SourceArgument,
    name: Annotated[str | None, typer.Option("--as", help="NAME[:TAG] to store it under.")] = None,
    revision: RevisionOption = None,
    base: BaseOption = None,
    alpha: AlphaOption = None,
    source_layout: LayoutOption = None,
    description: Annotated[str, typer.Option(help="One line on what it does.")] = "",
    capability: Annotated[
        list[str] | None, typer.Option(help="What it can do; repeatable.")
    ] = None,
    domain: Annotated[str, typer.Option(help="Field it belongs to.")] = "",
    training_data: Annotated[str, typer.Option(help="What it was trained on.")] = "",
    license_name: Annotated[str, typer.Option("--license", help="Licence; else the card's.")] = "",
    carry: CarryFlag = False,
    everything: AllFlag = False,
    force: ForceFlag = False,
    dry_run: DryRunFlag = False,
    home: HomeOption = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Fetch an adapter, recognise it, convert it exactly, verify it and store it.

    Exit status: 0 PASS, 1 FAIL, 3 INCONCLUSIVE; an error stores nothing.

    Example: adaptrix pull any/lora-adapter --as math
    """
    from adaptrix.registry.registry import Registry  # noqa: PLC0415

    out = Output(as_json=as_json, quiet=quiet)
    if everything:
        status = pull_everything(source, home, out, name=name, force=force, dry_run=dry_run)
        raise typer.Exit(status)
    with Registry(home) as registry:
        report = registry.pull(
            source,
            name=name,
            revision=revision,
            base=base,
            alpha=alpha,
            source_layout=source_layout,
            description=description,
            capabilities=tuple(capability or ()),
            domain=domain,
            training_data=training_data,
            license=license_name,
            carry=carry,
            dry_run=dry_run,
            force=force,
            progress=progress(human=out.human),
        )
    fields = {name: getattr(report, name) for name in report.__slots__}
    out.document(fields, lines=[pull_line(report)], ids=[str(report.digest or report.reference)])
    out.problems(report.problems)
    if report.same_as:
        out.note(f"note: the same adapter is here as {', '.join(report.same_as)}")
    if not dry_run and not any(problem.code == "carried" for problem in report.problems):
        out.hint(next_step(report))
    raise typer.Exit(report.verdict.exit_status)
