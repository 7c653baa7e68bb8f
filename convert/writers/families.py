"""The refusal of a format whose module names are those of some families only."""

from __future__ import annotations

from adaptrix.schema.adapter import Adapter
from adaptrix.schema.errors import Refused


def other_family(target: str, adapter: Adapter) -> Refused:
    """What to raise; an unknown family can be told by its base."""
    hint = "" if adapter.family else "Pass --base with the base model's folder or id."
    family = f"the family {adapter.family}" if adapter.family else "an unknown family"
    message = f"files of {target} are not written for {family}"
    return Refused(message, where=target, code="unsupported_target", hint=hint)
