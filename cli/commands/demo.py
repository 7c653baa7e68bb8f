"""The whole journey on the bundled samples."""

from __future__ import annotations

import typer

from adaptrix.cli.options import JsonFlag, QuietFlag
from adaptrix.cli.output import Output


def demo(as_json: JsonFlag = False, quiet: QuietFlag = False) -> None:
    """Pull, inspect, convert, compose and run the bundled samples, offline.

    Exits 0 only when every verdict is PASS and every adapter has its skill.

    Example: adaptrix demo
    """
    from adaptrix.cli.demo import run_demo  # noqa: PLC0415

    raise typer.Exit(run_demo(Output(as_json=as_json, quiet=quiet)))
