"""Search adapters."""

from __future__ import annotations

from typing import Annotated

import typer

from adaptrix.cli.options import HomeOption, JsonFlag, QuietFlag
from adaptrix.cli.output import Output
from adaptrix.cli.rendering import row_lines


def search(
    query: Annotated[str, typer.Argument(help="Words; all must occur in name or description.")],
    remote: Annotated[str, typer.Option("--remote", help="Search this remote instead.")] = "",
    home: HomeOption = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Find adapters by the words of their names and descriptions.

    Example: adaptrix search arithmetic
    """
    from adaptrix.registry.registry import Registry  # noqa: PLC0415

    with Registry(home) as registry:
        rows = registry.search(query, remote=remote)
    Output(as_json=as_json, quiet=quiet).document(
        {"rows": rows}, lines=row_lines(rows), ids=[row.reference for row in rows]
    )
