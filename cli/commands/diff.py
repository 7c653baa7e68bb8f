"""Compare two versions."""

from __future__ import annotations

from typing import Annotated

import typer

from adaptrix.cli.heat_map import diff_lines
from adaptrix.cli.options import HomeOption, JsonFlag, QuietFlag
from adaptrix.cli.output import Output


def diff(
    a: Annotated[str, typer.Argument(help="NAME[:TAG], name~1 or a digest.")],
    b: Annotated[str, typer.Argument(help="The other one.")],
    home: HomeOption = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Compare two versions: cosine, norm, rank and scale per module, settings, card.

    With -q, the modules that differ.

    Example: adaptrix diff math~1 math
    """
    from adaptrix.registry.registry import Registry  # noqa: PLC0415

    with Registry(home) as registry:
        report = registry.diff(a, b)
    fields = {name: getattr(report, name) for name in report.__slots__}
    Output(as_json=as_json, quiet=quiet).document(
        fields,
        lines=diff_lines(report),
        ids=[module.path for module in report.modules if module.status != "same"],
    )
