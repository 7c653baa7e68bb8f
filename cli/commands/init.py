"""Make an empty registry."""

from __future__ import annotations

from adaptrix.cli.options import DryRunFlag, HomeOption, JsonFlag, QuietFlag
from adaptrix.cli.output import Output


def init(
    dry_run: DryRunFlag = False,
    home: HomeOption = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Make an empty registry; every other command makes it on first use.

    Example: adaptrix init --home ./adapters
    """
    from adaptrix.registry.registry import Registry  # noqa: PLC0415

    with Registry(home) as registry:
        path = str(registry.settings.home if dry_run else registry.home.path)
    Output(as_json=as_json, quiet=quiet).document(
        {"home": path},
        lines=[f"{'would make a ' if dry_run else ''}registry at {path}"],
        ids=[path],
    )
