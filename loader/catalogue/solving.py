"""Formulas of sizes, from what happens to them when the numbers of a configuration double.

A size is taken for a sum of products of fields and inverse fields. Doubling one field at a
time gives the exponents of a single product; for a sum, doubling every subset of the fields
that matter gives each product's share (the inverse of a tensor product of 2×2 matrices).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from itertools import combinations

from adaptrix.loader.catalogue.leaves import Number

Exponents = Mapping[str, int]
_POWERS = {Fraction(2) ** n: n for n in (-2, -1, 1, 2)}
_MOST_FIELDS = 4


def exact(value: Number) -> Fraction:
    """``value`` as a fraction of small terms."""
    return Fraction(value).limit_denominator(1000)


def monomial(base: int, doubled: Mapping[str, int]) -> Exponents | None:
    """Exponents by field when every field multiplies the size by a power of two."""
    found = {}
    for name, value in doubled.items():
        if value != base:
            power = _POWERS.get(Fraction(value, base)) if value > 0 else None
            if power is None:
                return None
            found[name] = power
    return found


def formula_of_monomial(
    base: int, exponents: Exponents, fields: Mapping[str, Number]
) -> str | None:
    """``2*hidden_size``, ``hidden_size/num_heads``; None when the constant is no plain one."""
    constant = Fraction(base)
    for name, power in exponents.items():
        constant /= exact(fields[name]) ** power
    if constant.denominator > 64 or (exponents and constant.numerator > 64):
        return None
    return term(constant, exponents)


def term(constant: Fraction, exponents: Exponents) -> str:
    """A product as text: the constant first when it is not 1, factors by name."""
    above = [n for n, p in sorted(exponents.items()) for _ in range(p)]
    below = [n for n, p in sorted(exponents.items()) for _ in range(-p)]
    if constant.numerator != 1 or not above:
        above.insert(0, str(constant.numerator))
    if constant.denominator != 1:
        below.append(str(constant.denominator))
    return "/".join(["*".join(above), *below])


def formula_of_sum(
    names: Sequence[str],
    rising: Mapping[str, bool],
    value_of: Callable[[frozenset[str]], int | None],
    fields: Mapping[str, Number],
) -> str | None:
    """A sum of products of ``names``; None when it is none.

    Args:
        names: The fields that matter.
        rising: Whether the size grows with the field; else its inverse is a factor.
        value_of: The size with the fields of a set doubled.
        fields: The fields' values.
    """
    if len(names) > _MOST_FIELDS:
        return None
    shares = _shares(names, rising, value_of)
    terms = []
    for support, share in sorted((shares or {}).items(), key=lambda pair: sorted(pair[0])):
        if share:
            powers = {name: 1 if rising[name] else -1 for name in support}
            constant = share
            for name, power in powers.items():
                constant /= exact(fields[name]) ** power
            if constant.denominator > 64 or abs(constant.numerator) > 4096:
                return None
            terms.append(term(constant, powers))
    return "+".join(terms) or None


def _shares(
    names: Sequence[str],
    rising: Mapping[str, bool],
    value_of: Callable[[frozenset[str]], int | None],
) -> dict[frozenset[str], Fraction] | None:
    """What the products with exactly these fields add to the size, by set of fields."""
    shares: dict[frozenset[str], Fraction] = {}
    for count in range(len(names) + 1):
        for chosen in map(frozenset, combinations(names, count)):
            value = value_of(chosen)
            if value is None:
                return None
            shares[chosen] = Fraction(value)
    for name in names:
        ratio = Fraction(2) if rising[name] else Fraction(1, 2)
        for without in [chosen for chosen in shares if name not in chosen]:
            with_it = without | {name}
            part = (shares[with_it] - shares[without]) / (ratio - 1)
            shares[without], shares[with_it] = shares[without] - part, part
    return shares
