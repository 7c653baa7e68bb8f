"""List adapters."""

from __future__ import annotations

from typing import Annotated

import typer

from adaptrix.cli.options import HomeOption, JsonFlag, LimitOption, QuietFlag
from adaptrix.cli.output import Output
from adaptrix.cli.rendering import row_lines


def ls(
    pattern: Annotated[
        str | None, typer.Argument(help="Shell pattern for NAME or NAME:TAG, or REMOTE/.")
    ] = None,
    limit: LimitOption = 0,
    after: Annotated[str, typer.Option("--after", help="Only behind this NAME:TAG.")] = "",
    home: HomeOption = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """List the adapters of this registry, or of a remote: ls team/.

    Example: adaptrix ls 'team/*'
    """
    from adaptrix.registry.registry import Registry  # noqa: PLC0415

    with Registry(home) as registry:
        rows = registry.ls(pattern, limit=limit, after=after)
    out = Output(as_json=as_json, quiet=quiet)
    out.document({"rows": rows}, lines=row_lines(rows), ids=[row.reference for row in rows])
    if limit and len(rows) == limit:
        out.hint(f"there may be more: adaptrix ls --limit {limit} --after {rows[-1].reference}")
    if not rows and pattern is None:
        out.hint("nothing here yet: adaptrix pull org/repo --as NAME")
    elif not rows:
        out.note("note: nothing of that name")
