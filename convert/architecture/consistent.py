"""Can one configuration give all these shapes? Formulas against sizes, without knowing fields.

Every product of fields is taken as one number. Two sizes of the same product must agree, and
a product is a whole number; in a sum, what the other products leave must be one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from functools import cache

from adaptrix.convert.architecture.formula import UNKNOWN_SIZE, factors
from adaptrix.convert.architecture.shape import Shapes

Sum = tuple[tuple[Fraction, str], ...]
Pair = tuple[int, int]


@cache
def products(formula: str) -> Sum:
    """``3*n_embd+2`` as ``((3, "n_embd"), (2, ""))``."""
    found = []
    for term in formula.split("+"):
        constant, names = Fraction(1), []
        for name, power in factors(term):
            if name.lstrip("-").isdigit():
                constant *= Fraction(int(name)) ** power
            else:
                names.append(name if power > 0 else f"/{name}")
        found.append((constant, "*".join(sorted(names))))
    return tuple(found)


def consistent(seen: Iterable[tuple[Shapes, Sequence[Pair]]]) -> bool:
    """Whether the shapes of all modules can be those of one configuration; see :func:`solved`."""
    return solved(seen) is not None


def solved(seen: Iterable[tuple[Shapes, Sequence[Pair]]]) -> Mapping[str, Fraction] | None:
    """Values of all products of fields that the shapes settle; None when they disagree.

    Args:
        seen: For each name, what it can be, and the shapes ``(out, in)`` that were seen;
            a zero is a side that is not known.
    """
    values: dict[str, Fraction] = {"": Fraction(1)}
    open_choices = []
    for shapes, pairs in seen:
        usable = [shape.sizes for shape in shapes if len(shape.sizes) == 2]
        if not usable or any(UNKNOWN_SIZE in sizes for sizes in usable):
            continue
        if len(pairs) > len(usable):
            return None
        if len(usable) == 1:
            if not _settle(usable[0], pairs[0], values):
                return None
        else:
            open_choices += [(usable, pair) for pair in pairs]
    for usable, pair in open_choices:
        for sizes in usable:
            tried = dict(values)
            if _settle(sizes, pair, tried):
                values = tried
                break
        else:
            return None
    return values if _plausible(values) else None


def _settle(sizes: Sequence[str], pair: Pair, values: dict[str, Fraction]) -> bool:
    for formula, size in zip(sizes, pair, strict=True):
        if size and not _agrees(products(formula), size, values):
            return False
    return True


def _agrees(terms: Sum, size: int, values: dict[str, Fraction]) -> bool:
    rest, unknown = Fraction(size), []
    for constant, name in terms:
        if name in values:
            rest -= constant * values[name]
        else:
            unknown.append((constant, name))
    if not unknown:
        return rest == 0
    if len(unknown) > 1:
        # Which part is which is not known; the sum is, and stays the same.
        whole = "+".join(name for _, name in unknown)
        return rest > 0 and values.setdefault(whole, rest) == rest
    constant, name = unknown[0]
    value = rest / constant
    if value <= 0 or value.denominator != 1:
        return False
    values[name] = value
    return True


def _plausible(values: Mapping[str, Fraction]) -> bool:
    """Query heads are a multiple of key/value heads."""
    for name, value in values.items():
        if "num_key_value_heads" not in name or "+" in name:
            continue
        wide = name.replace("num_key_value_heads", "num_attention_heads")
        if "/num_attention_heads" in name:
            wide = "hidden_size"
        if wide in values and (value > values[wide] or values[wide] % value):
            return False
    return True
