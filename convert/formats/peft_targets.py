"""What ``target_modules`` selects, and the settings that travel with an adapter."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from adaptrix.convert.draft import Factors
from adaptrix.convert.formats.peft_config import PeftConfig
from adaptrix.schema.canonical import Json


def suffixes(paths: Iterable[str]) -> set[str]:
    """Everything that a target may be to select one of ``paths``."""
    found: set[str] = set()
    for path in paths:
        parts = path.split(".")
        found.update(".".join(parts[start:]) for start in range(len(parts)))
    return found


def kept_settings(config: PeftConfig, factors: Sequence[Factors]) -> dict[str, Json]:
    """Kept settings; targets only as far as they have tensors."""
    extra = dict(config.extra)
    if config.targets:
        ends = suffixes(f.path for f in factors)
        extra["target_modules"] = sorted(t for t in config.targets if t in ends)
    if config.modules_to_save:
        extra["modules_to_save"] = list(config.modules_to_save)
    return extra
