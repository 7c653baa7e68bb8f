"""Show every move of every name."""

from __future__ import annotations

from typing import Annotated

import typer

from adaptrix.cli.options import HomeOption, JsonFlag, QuietFlag
from adaptrix.cli.output import Output


def reflog(
    reference: Annotated[str | None, typer.Argument(help="NAME[:TAG]; else all names.")] = None,
    home: HomeOption = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Show where names pointed and why they moved, newest first.

    Example: adaptrix reflog math
    """
    from adaptrix.registry.registry import Registry  # noqa: PLC0415

    out = Output(as_json=as_json, quiet=quiet)
    with Registry(home) as registry:
        rows = registry.reflog(reference)
    lines = [
        f"{row.time[:19]}  {row.reference}  {row.old.short if row.old else '-':12} -> "
        f"{row.new.short if row.new else '-':12}  {row.reason}"
        for row in rows
    ]
    out.document({"rows": rows}, lines=lines, ids=[str(row.new or "") for row in rows])
    if rows:
        out.hint(f"adaptrix restore {rows[0].reference} undoes its last move")
    else:
        out.note("note: no name has moved yet")
