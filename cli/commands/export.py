"""Write what an engine loads as it stands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from adaptrix.cli.commands.convert import convert
from adaptrix.cli.options import DryRunFlag, HomeOption, JsonFlag, QuietFlag, ReferenceArgument


def export(
    reference: ReferenceArgument,
    engine: Annotated[str, typer.Option("--for", help="peft, mlx, gguf or phi-l2.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="New folder.")],
    dry_run: DryRunFlag = False,
    home: HomeOption = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Write a stored version as an engine loads it, or refuse with the reason.

    Example: adaptrix export math --for gguf -o ./math-gguf
    """
    convert(
        reference, to=engine, output=output, dry_run=dry_run, home=home, as_json=as_json,
        quiet=quiet,
    )  # fmt: skip
