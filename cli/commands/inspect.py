"""Say what a source is."""

from __future__ import annotations

import typer

from adaptrix.cli.options import (
    AlphaOption,
    BaseOption,
    HomeOption,
    JsonFlag,
    LayoutOption,
    QuietFlag,
    RevisionOption,
    SourceArgument,
)
from adaptrix.cli.output import Output
from adaptrix.cli.rendering import inspection_lines


def inspect(
    source: SourceArgument,
    revision: RevisionOption = None,
    base: BaseOption = None,
    alpha: AlphaOption = None,
    source_layout: LayoutOption = None,
    home: HomeOption = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Say what it is, whether it fits, and whether it can be converted.

    A remote source is answered from headers alone. Exit status follows the verdict.

    Example: adaptrix inspect ./my-adapter --json
    """
    from adaptrix.registry.registry import Registry  # noqa: PLC0415

    out = Output(as_json=as_json, quiet=quiet)
    with Registry(home) as registry:
        found = registry.inspect(
            source, base=base, alpha=alpha, source_layout=source_layout, revision=revision
        )
    fields = {name: getattr(found, name) for name in found.__slots__}
    out.document(fields, lines=inspection_lines(found), ids=[found.format.name])
    out.problems(found.problems)
    raise typer.Exit(found.verdict.exit_status)
