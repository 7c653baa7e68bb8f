"""Disk usage."""

from __future__ import annotations

from adaptrix.cli.options import HomeOption, JsonFlag, QuietFlag
from adaptrix.cli.output import Output, size_text

_LABELS = {
    "versions": "versions",
    "references": "names",
    "blobs": "blobs",
    "blob_bytes": "all blobs",
    "version_bytes": "files of all versions, each alone",
    "file_bytes": "the same, each stored once",
    "ratio": "times saved by storing once",
    "index_bytes": "index",
    "temporary_bytes": "unfinished",
    "quarantine_bytes": "set aside as damaged",
}


def du(home: HomeOption = None, as_json: JsonFlag = False, quiet: QuietFlag = False) -> None:
    """Show what takes how much room.

    Example: adaptrix du
    """
    from adaptrix.registry.registry import Registry  # noqa: PLC0415

    with Registry(home) as registry:
        usage = registry.du()
    fields = {name: getattr(usage, name) for name in usage.__slots__}
    lines = [f"{label:34} {_shown(name, fields[name])}" for name, label in _LABELS.items()]
    Output(as_json=as_json, quiet=quiet).document(fields, lines=lines)


def _shown(name: str, value: float) -> str:
    if name.endswith("_bytes"):
        return size_text(int(value))
    return f"{value:.2f}" if name == "ratio" else str(value)
