"""Exact match: what a completion must be to count."""

from __future__ import annotations

from collections.abc import Sequence

from adaptrix.samples.evaluator import CodeRefused, compile_function
from adaptrix.samples.tasks import Item


def exact_match(completion: str, item: Item) -> bool:
    """Whether a completion solves an item.

    The first line of the completion counts. For ``code`` it must be a function that gives
    the expected results; for the rest it must equal the answer, blanks at the ends aside.
    """
    lines = completion.strip().splitlines()
    line = lines[0].strip() if lines else ""
    if not item.checks:
        return line == item.answer
    try:
        function = compile_function(line)
        return all(function(value) == expected for value, expected in item.checks)
    except CodeRefused:
        return False


def score(completions: Sequence[str], items: Sequence[Item]) -> float:
    """Share of items that are solved, 0 to 1.

    Raises:
        ValueError: the two lengths differ.
    """
    pairs = zip(completions, items, strict=True)
    return sum(exact_match(text, item) for text, item in pairs) / max(1, len(items))
