"""How likely a family's models have the shapes that were seen, and which of them it may be.

A model of a family is a known base of the table, its default configuration, or one that
nobody has listed (:mod:`~.novelty`). The probability of what was seen is the sum over all of
them: whether its sizes agree, times how likely an adapter of it has these layers. So a family
of whose many bases none fits is less likely than one whose only base does, and the more sizes
a base explains at once, the more that counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from adaptrix.convert.architecture.claims import of_base
from adaptrix.convert.architecture.consistent import solved
from adaptrix.convert.architecture.dimensions import dimensions_of
from adaptrix.convert.architecture.families import family_named
from adaptrix.convert.architecture.formula import UNKNOWN_SIZE
from adaptrix.convert.architecture.hypotheses import Hypothesis
from adaptrix.convert.architecture.known_bases import KnownBase, bases_of
from adaptrix.convert.architecture.novelty import chance_of_layers, chance_of_sizes
from adaptrix.convert.architecture.observed import Claims, Seen
from adaptrix.convert.architecture.popularity import base_shares
from adaptrix.convert.architecture.shapes import BaseShapes

KNOWN, DEFAULT, NOVEL, INCONSISTENT = "known", "default", "novel", "inconsistent"
_LISTED = 0.95
"""Share of a family's adapters whose base is in the table, when the table has many of it."""
_DEFAULT_ALONE, _DEFAULT_BESIDE = 0.5, 0.1
"""Share of the other bases that have their type's default configuration: without, with a
table of others. A default that is in use is mostly listed."""
_VOCABULARY = "vocab"
_SAME_VOCABULARY, _ANY_VOCABULARY = 0.8, 1e-3
"""Chance that an adapter's tables have the base's rows, and of any one number of rows."""
_ANY_SUM = 1 / 600
"""Chance of any one value for a sum of several sizes."""
_IMPOSSIBLE = 1e-4
"""What is left when no one configuration gives the shapes: the formulas may be wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Likelihood:
    """What the shapes say of one family.

    Attributes:
        content: Probability of what was seen.
        claimed: The same, times how much likelier the declared name is for each base than for
            any other.
        kind: The best explanation: ``known``, ``default``, ``novel`` or ``inconsistent``.
        bases: Known bases that fit, with their part of ``claimed``.
    """

    content: float
    claimed: float
    kind: str
    bases: Mapping[str, float]


def likelihood(entry: Hypothesis, seen: Seen, claims: Claims) -> Likelihood:
    """Sum over the family's models; 1 when no size was seen."""
    if not seen.has_sizes:
        return Likelihood(content=1.0, claimed=1.0, kind=NOVEL, bases={})
    known = bases_of(entry.family)
    entry, seen = _with_saved(entry, seen)
    values = solved((entry.shapes[name], seen.shapes[name]) for name in entry.shapes)
    listed = _LISTED * len(known) / (len(known) + 0.5)
    usual = _DEFAULT_BESIDE if known else _DEFAULT_ALONE
    family = family_named(entry.family)
    parts: list[tuple[float, KnownBase | None, str]] = []
    for base, share in zip(known, base_shares(entry.family), strict=True):
        chance = _fit(base.shapes, entry, seen, base.dimensions.layers)
        parts.append((listed * share * chance, base, KNOWN))
    if family is not None and family.classes:
        layers = dimensions_of(family.defaults).layers
        chance = _fit(BaseShapes(family=family, config={}), entry, seen, layers)
        parts.append(((1 - listed) * usual * chance, None, DEFAULT))
    layers_chance = chance_of_layers(seen.layers, shift=seen.shift, layers=None)
    novel = (1 - listed) * (1 - usual) * layers_chance
    if values is None:
        sizes = [size for name in entry.shapes for pair in seen.shapes[name] for size in pair]
        novel *= _IMPOSSIBLE * chance_of_sizes(dict.fromkeys(filter(None, sizes)))
    else:
        novel *= chance_of_sizes([*_settled(values), *_unexplained(None, entry, seen)])
        novel *= _ANY_SUM ** sum(map(_is_mixed_sum, values))
        novel *= _ANY_VOCABULARY if any(_VOCABULARY in name for name in values) else 1
    parts.append((novel, None, NOVEL if values is not None else INCONSISTENT))
    return _sum(parts, entry.family, claims)


def _sum(
    parts: Sequence[tuple[float, KnownBase | None, str]], family: str, claims: Claims
) -> Likelihood:
    claimed = [chance * of_base(claims, family, base) for chance, base, _ in parts]
    kinds = [kind for chance, _, kind in parts if chance > 0]
    return Likelihood(
        content=sum(chance for chance, _, _ in parts),
        claimed=sum(claimed),
        kind=kinds[0] if kinds else INCONSISTENT,
        bases={
            base.name: chance
            for (_, base, _), chance in zip(parts, claimed, strict=True)
            if base is not None and chance > 0
        },
    )


def _with_saved(entry: Hypothesis, seen: Seen) -> tuple[Hypothesis, Seen]:
    """Whole weights among the modules, their shapes as those of updates."""
    if not entry.saved:
        return entry, seen
    pairs = {
        name: seen.saved[name][::-1] if shapes[0].kind == "embedding" else seen.saved[name]
        for name, shapes in entry.saved.items()
    }
    return (
        replace(entry, shapes=entry.saved | entry.shapes),
        replace(seen, shapes={n: (pair,) for n, pair in pairs.items()} | dict(seen.shapes)),
    )


def _settled(values: Mapping[str, Fraction]) -> list[Fraction]:
    return [
        value
        for name, value in values.items()
        if name and _VOCABULARY not in name and not _is_mixed_sum(name)
    ]


def _is_mixed_sum(name: str) -> bool:
    """Whether it is a sum of sizes without a common factor, which is no round number."""
    terms = [set(term.split("*")) for term in name.split("+")]
    return len(terms) > 1 and not set.intersection(*terms)


def _unexplained(base: BaseShapes | None, entry: Hypothesis, seen: Seen) -> Iterator[int]:
    """Sizes that the base's dimensions, or the settled values, do not give: one a formula."""
    found: dict[str, int] = {}
    for name, shapes in entry.shapes.items():
        usable = [shape.sizes for shape in shapes if len(shape.sizes) == 2]
        sides = list(zip(*usable, strict=True)) or [(UNKNOWN_SIZE,)] * 2
        if base is None and not any(UNKNOWN_SIZE in formulas for formulas in sides):
            continue
        for pair in seen.shapes[name]:
            for formulas, size in zip(sides, pair, strict=True):
                if size and (base is None or all(base.size(f) is None for f in formulas)):
                    key = str(size) if formulas[0] == UNKNOWN_SIZE else formulas[0]
                    found.setdefault(key, size)
    yield from found.values()


def _fit(base: BaseShapes, entry: Hypothesis, seen: Seen, layers: int | None) -> float:
    """Probability of what was seen, when this is the base; 0 when a size differs."""
    checked = 0
    counts: list[int] = []
    rows: set[bool] = set()
    for name, shapes in entry.shapes.items():
        repeated = [c for c in (base.size(s.count) for s in shapes if s.count) if c is not None]
        if repeated and seen.last.get(name, 0) - seen.shift >= max(repeated):
            return 0.0
        counts += repeated
        for pair in seen.shapes[name]:
            agreed = [_agree(base, shape.sizes, pair, rows) for shape in shapes]
            if agreed and max(agreed) < 0:
                return 0.0
            checked += max(agreed, default=0)
    if not checked:
        return 0.0
    count = max(counts, default=layers)
    chance = chance_of_layers(seen.layers, shift=seen.shift, layers=count)
    if rows:
        chance *= _SAME_VOCABULARY if True in rows else (1 - _SAME_VOCABULARY) * _ANY_VOCABULARY
    return chance * chance_of_sizes(_unexplained(base, entry, seen))


def _agree(base: BaseShapes, sizes: Sequence[str], pair: tuple[int, int], rows: set[bool]) -> int:
    """Sides that are known and equal, or -1 when one differs; vocabularies may be resized."""
    if len(sizes) != 2:
        return 0
    equal = 0
    for formula, size in zip(sizes, pair, strict=True):
        wanted = base.size(formula) if size else None
        if wanted is not None and _VOCABULARY in formula:
            rows.add(wanted == size)
        elif wanted is not None and wanted != size:
            return -1
        equal += wanted is not None
    return equal
