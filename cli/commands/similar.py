"""Find versions that are like another one."""

from __future__ import annotations

from typing import Annotated

import typer

from adaptrix.cli.options import HomeOption, JsonFlag, QuietFlag, ReferenceArgument
from adaptrix.cli.output import Output, table


def similar(
    reference: ReferenceArgument,
    limit: Annotated[int, typer.Option("--limit", min=0, help="At most so many.")] = 10,
    home: HomeOption = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Find adapters of the same family that change the model alike.

    PROFILE compares how much each module changes, COSINE the changes themselves (exact).

    Example: adaptrix similar math
    """
    from adaptrix.registry.registry import Registry  # noqa: PLC0415

    with Registry(home) as registry:
        rows = registry.similar(reference, limit=limit)
    cells = [
        (
            row.reference, row.digest.short, f"{row.profile:.3f}",
            "-" if row.cosine is None else f"{row.cosine:z.4f}", row.shared, row.description[:40],
        )
        for row in rows
    ]  # fmt: skip
    header = ("NAME", "DIGEST", "PROFILE", "COSINE", "SHARED", "DESCRIPTION")
    Output(as_json=as_json, quiet=quiet).document(
        {"rows": rows},
        lines=table(header, cells) if rows else [],
        ids=[row.reference for row in rows],
    )
