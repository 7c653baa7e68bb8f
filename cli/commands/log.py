"""Show what a version descends from."""

from __future__ import annotations

from typing import Annotated

import typer

from adaptrix.cli.graph import log_lines
from adaptrix.cli.options import HomeOption, JsonFlag, QuietFlag, ReferenceArgument
from adaptrix.cli.output import Output


def log(
    reference: ReferenceArgument,
    graph: Annotated[bool, typer.Option("--graph", help="Draw the lineage.")] = False,
    moves: Annotated[bool, typer.Option("--moves", help="Moves of the tag instead.")] = False,
    home: HomeOption = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Show a version and what it descends from, newest first.

    Example: adaptrix log mix --graph
    """
    from adaptrix.registry.registry import Registry  # noqa: PLC0415

    out = Output(as_json=as_json, quiet=quiet)
    with Registry(home) as registry:
        if moves:
            found = registry.reflog(reference)
            lines = [
                f"{m.time}  {m.reference}  {m.old or '-'} -> {m.new or '-'}  {m.reason}"
                for m in found
            ]
            out.document({"rows": found}, lines=lines, ids=[str(m.new) for m in found])
            return
        rows = registry.log(reference)
    out.document(
        {"rows": rows}, lines=log_lines(rows, graph=graph), ids=[str(row.digest) for row in rows]
    )
