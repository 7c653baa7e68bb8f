"""Make an adapter from others."""

from __future__ import annotations

from typing import Annotated

import typer

from adaptrix.cli.options import DryRunFlag, HomeOption, JsonFlag, QuietFlag
from adaptrix.cli.output import Output
from adaptrix.cli.parsing import not_yet, weighted


def compose(
    adapters: Annotated[list[str], typer.Argument(help="NAME[=WEIGHT] …")],
    output: Annotated[str, typer.Option("--output", "-o", help="NAME[:TAG] of the result.")],
    method: Annotated[str, typer.Option(help="Merge method.")] = "linear",
    description: Annotated[str, typer.Option(help="One line on what it does.")] = "",
    rank: Annotated[int | None, typer.Option(help="Not there yet.")] = None,
    energy: Annotated[float | None, typer.Option(help="Not there yet.")] = None,
    density: Annotated[float | None, typer.Option(help="Not there yet.")] = None,
    seed: Annotated[int | None, typer.Option(help="Not there yet.")] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Not there yet.")] = False,
    dry_run: DryRunFlag = False,
    home: HomeOption = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Make a new versioned adapter from others, exactly, without the base model.

    Example: adaptrix compose math=0.6 code=0.4 -o mix
    """
    if plan or any(option is not None for option in (rank, energy, density, seed)):
        raise not_yet("compose with --plan, --rank, --energy, --density or --seed")
    from adaptrix.registry.registry import Registry  # noqa: PLC0415

    out = Output(as_json=as_json, quiet=quiet)
    with Registry(home) as registry:
        report = registry.compose(
            [weighted(text) for text in adapters],
            output=output,
            method=method,
            description=description,
            dry_run=dry_run,
        )
    line = (
        f"{report.reference}  {report.status}  {report.modules} modules  "
        f"rank {', '.join(map(str, report.ranks))}  relative error {report.error:.2g}"
    )
    fields = {name: getattr(report, name) for name in report.__slots__}
    out.document(fields, lines=[line], ids=[str(report.digest or report.reference)])
    out.hint(f"adaptrix run --adapters {report.reference.removesuffix(':latest')} -p TEXT")
