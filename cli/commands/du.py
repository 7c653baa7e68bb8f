"""Disk usage."""

from __future__ import annotations

from adaptrix.cli.options import HomeOption, JsonFlag, QuietFlag
from adaptrix.cli.output import Output, size_text


def du(home: HomeOption = None, as_json: JsonFlag = False, quiet: QuietFlag = False) -> None:
    """Show what takes how much room.

    Example: adaptrix du
    """
    from adaptrix.registry.registry import Registry  # noqa: PLC0415

    with Registry(home) as registry:
        usage = registry.du()
    fields = {name: getattr(usage, name) for name in usage.__slots__}
    lines = [
        f"{name.removesuffix('_bytes').replace('_', ' '):20} "
        + (size_text(value) if name.endswith("_bytes") else str(value))
        for name, value in fields.items()
    ]
    Output(as_json=as_json, quiet=quiet).document(fields, lines=lines)
