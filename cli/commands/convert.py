"""Write another format."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from adaptrix.cli.options import (
    AlphaOption,
    BaseOption,
    DryRunFlag,
    HomeOption,
    JsonFlag,
    LayoutOption,
    QuietFlag,
    SourceArgument,
    TargetLayoutOption,
)
from adaptrix.cli.output import Output, size_text, would


def convert(
    source: SourceArgument,
    to: Annotated[str, typer.Option("--to", help="Format: peft, mlx, gguf, phi-l2 …")],
    output: Annotated[Path, typer.Option("--output", "-o", help="New folder, or file.")],
    base: BaseOption = None,
    alpha: AlphaOption = None,
    source_layout: LayoutOption = None,
    target_layout: TargetLayoutOption = None,
    dry_run: DryRunFlag = False,
    home: HomeOption = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Write a source or a stored version in another format; says how exact it is.

    Example: adaptrix convert ./mlx-adapter --to peft -o ./peft-adapter
    """
    from adaptrix.registry.registry import Registry  # noqa: PLC0415

    out = Output(as_json=as_json, quiet=quiet)
    with Registry(home) as registry:
        report = registry.convert(
            source,
            to=to,
            output=output,
            base=base,
            alpha=alpha,
            source_layout=source_layout,
            target_layout=target_layout,
            dry_run=dry_run,
        )
    line = would(dry_run) + (
        f"{report.path}  {report.source_format} -> {report.format}  {report.fidelity}  "
        f"max error {report.max_abs_error:.3g}  {report.tensors} tensors  {size_text(report.bytes)}"
    )
    fields = {name: getattr(report, name) for name in report.__slots__}
    out.document(fields, lines=[line], ids=[report.path])
    out.problems(report.problems)
    raise typer.Exit(report.verdict.exit_status)
