"""Undo a move of a name."""

from __future__ import annotations

from typing import Annotated

import typer

from adaptrix.cli.options import DryRunFlag, HomeOption, JsonFlag, QuietFlag
from adaptrix.cli.output import Output, would


def restore(
    reference: Annotated[str, typer.Argument(help="NAME[:TAG], also one that was removed.")],
    version: Annotated[
        str, typer.Argument(help="Where to; else where it pointed before its last move.")
    ] = "",
    dry_run: DryRunFlag = False,
    home: HomeOption = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Undo the last move or removal of a name, or let it point to an earlier version.

    The names' moves are in adaptrix reflog.

    Example: adaptrix restore math:v1
    """
    from adaptrix.registry.registry import Registry  # noqa: PLC0415

    with Registry(home) as registry:
        move = registry.restore(reference, version, dry_run=dry_run)
    fields = {name: getattr(move, name) for name in move.__slots__}
    line = would(dry_run) + (
        f"{move.reference}  {move.old.short if move.old else '-'} -> "
        f"{move.new.short if move.new else '-'}"
    )
    Output(as_json=as_json, quiet=quiet).document(fields, lines=[line], ids=[str(move.new)])
