"""What a name in a family's vocabulary stands for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What a name stands for.

    Attributes:
        kind: ``linear``, ``conv1d``, ``embedding``, ``conv``, ``weight`` or ``parameter``.
        sizes: Formulas: ``(out, in)`` of the update, or every side of a parameter.
        count: Formula of how often the name is repeated; ``""`` for a name without a number.
        when: Setting under which it is so, ``multi_query=false``; ``""`` without condition.
    """

    kind: str = "linear"
    sizes: tuple[str, ...]
    count: str = ""
    when: str = ""


Shapes = tuple[Shape, ...]
