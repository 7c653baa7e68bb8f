"""Make an empty registry."""

from __future__ import annotations

from adaptrix.cli.options import HomeOption, JsonFlag, QuietFlag
from adaptrix.cli.output import Output


def init(home: HomeOption = None, as_json: JsonFlag = False, quiet: QuietFlag = False) -> None:
    """Make an empty registry; every other command makes it on first use.

    Example: adaptrix init --home ./adapters
    """
    from adaptrix.registry.registry import Registry  # noqa: PLC0415

    with Registry(home) as registry:
        path = str(registry.home.path)
    Output(as_json=as_json, quiet=quiet).document(
        {"home": path}, lines=[f"registry at {path}"], ids=[path]
    )
