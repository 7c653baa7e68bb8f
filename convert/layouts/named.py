"""A draft in canonical names: what the next steps of reading go on with."""

from __future__ import annotations

from dataclasses import dataclass

from adaptrix.convert.draft import Factors
from adaptrix.schema.adapter import Replacement
from adaptrix.schema.canonical import Json
from adaptrix.schema.report import Problem


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """A draft in canonical names.

    Attributes:
        layout: Name of the source's naming.
        factors: Pairs under canonical paths; fused ones are split.
        replacements: Absolute tensors under canonical names.
        extra: The draft's settings in canonical names.
        base_revision: As in the draft, ``""`` where it pinned the code of an old naming.
        task_type: PEFT task type that fits the canonical paths, or ``""``.
        problems: What is in the way, and what was renamed.
        evidence: Why this layout.
        exact: Whether renaming took copies alone.
    """

    layout: str
    factors: tuple[Factors, ...]
    replacements: tuple[Replacement, ...]
    extra: dict[str, Json]
    base_revision: str
    task_type: str
    problems: tuple[Problem, ...] = ()
    evidence: tuple[str, ...] = ()
    exact: bool = True
