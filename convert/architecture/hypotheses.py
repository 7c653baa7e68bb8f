"""Which families can have an adapter's modules at all, by name; found through the index."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from adaptrix.convert.architecture.catalogue import catalogue
from adaptrix.convert.architecture.experts import of_one_expert, stacked_names
from adaptrix.convert.architecture.family import Family, by_template
from adaptrix.convert.architecture.formula import UNKNOWN_SIZE
from adaptrix.convert.architecture.observed import Seen
from adaptrix.convert.architecture.plain_families import (
    FORMER_NAMES,
    PLAIN_FAMILIES,
    UNBUILT_NAMES,
)
from adaptrix.convert.architecture.shape import Shape, Shapes
from adaptrix.convert.layouts.renames import anonymous, former_owners, moves

_USUAL, _BARE, _FORMER, _RENAMED = "usual", "bare", "former", "renamed"
_MOST_WRAPPERS = 3
_COMMON = 8
"""Families that have a name today, from which on it is nobody's former name."""


@dataclass(slots=True, kw_only=True)
class Hypothesis:
    """One family that has some of the modules.

    Attributes:
        family: Its name.
        shapes: What each of the names can be in it.
        bare: Names that only its headless class has in this form.
        former: Names that it had in earlier classes, or remote code, and has no more.
        renamed: Those of them that need not be of a class of it: no class of it is before them.
        also: Names of the family with the same last parts that were not seen.
        matrices: Linear modules of its body; 0 when not counted.
        wrapper: Prefix in front of all its names that no class of it has.
        saved: What the names of whole weights are in it, those that it has.
    """

    family: str
    shapes: dict[str, Shapes] = field(default_factory=dict)
    bare: set[str] = field(default_factory=set)
    former: set[str] = field(default_factory=set)
    renamed: set[str] = field(default_factory=set)
    also: int = 0
    matrices: int = 0
    wrapper: str = ""
    saved: dict[str, Shapes] = field(default_factory=dict)


def hypotheses(seen: Seen, targets: Iterable[str] = ()) -> Mapping[str, Hypothesis]:
    """Families with at least one of the names; under a foreign prefix only if none has any.

    Args:
        seen: All names.
        targets: Last parts of names that were to be adapted, whether or not they were seen.
    """
    names = list(seen.shapes)
    found = _named(names, "")
    wrapper = ""
    for _ in range(_MOST_WRAPPERS):
        heads = {name.removeprefix(wrapper).partition(".")[0] for name in names}
        if found or len(heads) != 1 or heads == {"{}"}:
            break
        wrapper += f"{heads.pop()}."
        found = _named(names, wrapper)
    _count_others({*(name.rpartition(".")[2] for name in names), *targets}, found)
    for name in seen.saved:
        for family, shapes, _ in _places(name):
            if family in found:
                found[family].saved.setdefault(name, shapes)
    return found


def _named(names: list[str], wrapper: str) -> dict[str, Hypothesis]:
    found: dict[str, Hypothesis] = {}
    for name in names:
        for family, shapes, form in _places(name.removeprefix(wrapper)):
            entry = found.setdefault(family, Hypothesis(family=family, wrapper=wrapper))
            if name not in entry.shapes and form in (_FORMER, _RENAMED):
                entry.former.add(name)
                if form == _RENAMED:
                    entry.renamed.add(name)
            entry.shapes.setdefault(name, shapes)
            if form == _BARE:
                entry.bare.add(name)
    return found


def _places(name: str) -> Iterator[tuple[str, Shapes, str]]:
    """Every family with ``name``: what it is there, and in which form the family has it."""
    for family_name, unbuilt in UNBUILT_NAMES.items():
        if name in unbuilt:
            yield family_name, unbuilt[name], _USUAL
    yield from _in_catalogue(name)
    owners = set(former_owners(name))
    for stacked, is_half in stacked_names(name):
        for family_name, shapes, form in _in_catalogue(stacked):
            # Which families had experts of these names (w1, gate_proj) is mostly known where
            # any is; of the others somebody may have split the parameter.
            is_owner = not owners or family_name in owners
            split = of_one_expert(shapes, is_half=is_half)
            yield family_name, split, form if is_owner else _FORMER
    for family in PLAIN_FAMILIES:
        rooted, bare_shapes = _in_plain(family, name)
        if rooted or bare_shapes:
            yield family.name, rooted or bare_shapes, _USUAL if rooted else _BARE
    for family_name, former in FORMER_NAMES.items():
        if name in former:
            yield family_name, former[name], _FORMER
    yield from _renamed(name)


def _in_catalogue(name: str) -> Iterator[tuple[str, Shapes, str]]:
    every = catalogue()
    first, _, rest = name.partition(".")
    if rest:
        for place in every.occurrences(rest):
            if place.is_body and f"{first}." in every.roots[place.position]:
                yield every.types[place.position], place.shapes, _USUAL
    for place in every.occurrences(name):
        bare = place.is_body and bool(every.roots[place.position])
        yield every.types[place.position], place.shapes, _BARE if bare else _USUAL


def _renamed(name: str) -> Iterator[tuple[str, Shapes, str]]:
    """Families in which transformers gave this module another name.

    Names that many families have today (``model.layers.{}.self_attn.q_proj``) are left to
    those: there a former name tells nothing, and the base decides.
    """
    every = catalogue()
    first, _, rest = name.partition(".")
    rooted = every.occurrences(rest) if rest else ()
    today = sum(f"{first}." in every.roots[place.position] for place in rooted)
    if today + len(every.occurrences(name)) > _COMMON:
        return
    for family in former_owners(name):
        known = every.family(family)
        if known is not None and name not in FORMER_NAMES.get(family, {}):
            own = f"{first}." in known.roots
            yield family, _shapes_today(known, name), _FORMER if own else _RENAMED


def _shapes_today(family: Family, name: str) -> Shapes:
    """Shapes of the module that ``name`` became; of any size where it was joined or cut."""
    for old, move in moves(family.name).items():
        if anonymous(old) == name and move.parts == len(move.to) == 1:
            return family.shapes(move.to[0].replace("{}", "0"))
    return (Shape(sizes=(UNKNOWN_SIZE, UNKNOWN_SIZE)),)


def _in_plain(family: Family, name: str) -> tuple[Shapes, Shapes]:
    rooted = dict(by_template(dict(family.names())))
    return rooted.get(name, ()), family.modules.get(name, ())


def _count_others(lasts: Iterable[str], found: Mapping[str, Hypothesis]) -> None:
    """A short target name selects every module that ends in it: were they all seen?"""
    every = catalogue()
    position = {name: i for i, name in enumerate(every.types)}
    wanted: dict[str, int] = dict.fromkeys(found, 0)
    for last in set(lasts) - {"{}"}:
        counts = every.names_ending(last)
        for family in found:
            wanted[family] += counts.get(position.get(family, -1), 0)
    plain = {family.name: family for family in PLAIN_FAMILIES}
    for family, entry in found.items():
        if family in plain:
            entry.matrices = len(plain[family].modules)
            continue
        here = sum(not name.endswith("{}") and _is_always(s) for name, s in entry.shapes.items())
        entry.also = max(0, wanted[family] - here)
        entry.matrices = every.linears[position[family]]


def _is_always(shapes: Shapes) -> bool:
    return any(not shape.when for shape in shapes)
