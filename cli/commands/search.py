"""Search adapters."""

from __future__ import annotations

from typing import Annotated

import typer

from adaptrix.cli.options import HomeOption, JsonFlag, LimitOption, QuietFlag
from adaptrix.cli.output import Output
from adaptrix.cli.rendering import row_lines


def search(
    query: Annotated[str, typer.Argument(help="Words and filters, key:value.")],
    remote: Annotated[str, typer.Option("--remote", help="Search this remote instead.")] = "",
    limit: LimitOption = 0,
    home: HomeOption = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Find adapters by words and by filters; the best first.

    Words begin a word of the name, description, domain, capabilities, training data, base,
    family, licence, modules or source. Filters: family: method: license: format: (equal),
    base: domain: capability: (a part), module:q_proj, rank:8 or rank:4..16, size:<10MB,
    since: and until: (date of the name's last move).

    Example: adaptrix search "arithmetic family:phi rank:>=8"
    """
    from adaptrix.registry.registry import Registry  # noqa: PLC0415

    with Registry(home) as registry:
        rows = registry.search(query, remote=remote, limit=limit)
    out = Output(as_json=as_json, quiet=quiet)
    out.document({"rows": rows}, lines=row_lines(rows), ids=[row.reference for row in rows])
    if not rows:
        out.note("note: nothing fits all of that")
