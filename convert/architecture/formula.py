"""Formulas of sizes: sums of products of a configuration's fields and their inverses.

``hidden_size``, ``3*n_embd``, ``num_key_value_heads*hidden_size/num_attention_heads``,
``head_dim*num_attention_heads+2*head_dim*num_key_value_heads``, ``max_position_embeddings+2``.
A field of a nested configuration is written ``text_config.hidden_size``, an entry of a list
``hidden_sizes.2``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import cache

UNKNOWN_SIZE = "?"
Lookup = Callable[[str], int | float | None]


def factors(term: str) -> Iterator[tuple[str, int]]:
    """Factors of a product with their powers: ``a*b/c`` is ``(a, 1) (b, 1) (c, -1)``."""
    first, *below = term.split("/")
    for name in first.split("*"):
        yield name, 1
    for name in below:
        yield name, -1


def fields_of(formula: str) -> Iterator[str]:
    """Every field's name in ``formula``, as often as it stands there."""
    if formula != UNKNOWN_SIZE:
        for term in formula.split("+"):
            for name, _ in factors(term):
                if not _is_number(name):
                    yield name


def evaluate(formula: str, lookup: Lookup) -> int | None:
    """The size; None when a field is not known, or when it is no whole positive number."""
    if formula == UNKNOWN_SIZE:
        return None
    above, below = 0, 1
    for term in _terms(formula):
        top, bottom = 1, 1
        for name, power in term:
            value = name if isinstance(name, int) else lookup(name)
            if not value:
                return None
            part, rest = _ratio(value)
            if power < 0:
                part, rest = rest, part
            top, bottom = top * part, bottom * rest
        above, below = above * bottom + top * below, below * bottom
    return above // below if above > 0 and above % below == 0 else None


@cache
def _terms(formula: str) -> tuple[tuple[tuple[int | str, int], ...], ...]:
    return tuple(
        tuple((int(name) if _is_number(name) else name, power) for name, power in factors(term))
        for term in formula.split("+")
    )


def _ratio(value: float) -> tuple[int, int]:
    if isinstance(value, int):
        return value, 1
    return Fraction(value).limit_denominator(1000).as_integer_ratio()


def _is_number(name: str) -> bool:
    return name.lstrip("-").isdigit()
