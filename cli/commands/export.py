"""Write what an engine, or another OCI tool, loads as it stands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from adaptrix.cli.commands.convert import convert
from adaptrix.cli.options import (
    BaseOption,
    DryRunFlag,
    HomeOption,
    JsonFlag,
    QuietFlag,
    TargetLayoutOption,
)
from adaptrix.cli.output import Output, size_text, would
from adaptrix.schema.errors import UsageError


def export(
    reference: Annotated[
        str, typer.Argument(help="NAME[:TAG], name~1 or a digest.", show_default=False)
    ] = "",
    engine: Annotated[
        str, typer.Option("--for", help="Format: peft, mlx, gguf, phi-l2 …", show_default=False)
    ] = "",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="New folder.")] = None,
    oci_layout: Annotated[
        bool,
        typer.Option(
            "--oci-layout",
            help="The version with its ancestors as an OCI image layout; without NAME and -o, "
            "list every name in this home's own index.json.",
        ),
    ] = False,
    base: BaseOption = None,
    target_layout: TargetLayoutOption = None,
    dry_run: DryRunFlag = False,
    home: HomeOption = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Write a stored version as an engine loads it, or refuse with the reason.

    Example: adaptrix export math --for gguf -o ./math-gguf
    """
    if oci_layout == bool(engine):
        raise UsageError("give --for FORMAT or --oci-layout", where="export")
    if oci_layout:
        if base is not None or target_layout is not None:
            raise UsageError("--base and --target-layout go with --for", where="export")
        _layout(reference, output, home, Output(as_json=as_json, quiet=quiet), dry_run=dry_run)
        return
    if not reference or output is None:
        raise UsageError("give NAME and -o FOLDER", where="export")
    convert(
        reference, to=engine, output=output, base=base, target_layout=target_layout,
        dry_run=dry_run, home=home, as_json=as_json, quiet=quiet,
    )  # fmt: skip


def _layout(
    reference: str, output: Path | None, home: Path | None, out: Output, *, dry_run: bool
) -> None:
    from adaptrix.registry.registry import Registry  # noqa: PLC0415

    with Registry(home) as registry:
        report = registry.export_layout(reference, output, dry_run=dry_run)
    fields = {name: getattr(report, name) for name in report.__slots__}
    line = f"{would(dry_run)}{report.path}  {report.names} names  {size_text(report.written_bytes)} written"
    out.document(fields, lines=[line], ids=[report.path])
