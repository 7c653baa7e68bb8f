"""What speaks for and against one family, counted by kind; the kinds are those of ``weights``.

``foreign_name``: a name that the family does not have. ``bare``: all names only as its
headless class has them; ``mixed``: some. ``wrapper``: a prefix that no class of it has.
``also``, ``also_more``: modules with the same short names that were not seen, the first and
the further ones. ``all_linear``: exactly the linear modules of its body. ``inconsistent``:
shapes that no one configuration gives. ``known_base``, ``last_layer``, ``some_layers``: a
known base with these shapes, and all its layers, the last ones, others. ``default``: shapes
of its default configuration, a part of it when layers are missing. ``words``: the declared name is one of its models',
``named``: and has the whole model type in it.
``declared``, ``declared_other``: the declared name is a known base of it that fits, or not.
``base_class``: the producer names a class of it. ``stated``: the content, or ``--base``, does.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from adaptrix.convert.architecture.consistent import consistent
from adaptrix.convert.architecture.dimensions import dimensions_of
from adaptrix.convert.architecture.families import family_named
from adaptrix.convert.architecture.hypotheses import Hypothesis
from adaptrix.convert.architecture.known_bases import KnownBase, bases_of, known_base
from adaptrix.convert.architecture.observed import Claims, Seen
from adaptrix.convert.architecture.plain_families import SAME_FAMILY
from adaptrix.convert.architecture.popularity import is_called, is_named
from adaptrix.convert.architecture.shape import Shapes
from adaptrix.convert.architecture.shapes import BaseShapes

_MOST_MORE = 6
_SOME_LAYERS = 0.4
"""Part of the weight of default shapes that some layers have: less than a known base's."""
Counts = dict[str, float]


def by_names(entry: Hypothesis, seen: Seen, claims: Claims) -> Counts:
    """Evidence that needs no shapes."""
    foreign = len(seen.shapes) - len(entry.shapes)
    found: Counts = {"foreign_name": foreign} if foreign else {}
    if entry.wrapper:
        found["wrapper"] = 1
    if entry.bare:
        found["bare" if len(entry.bare) == len(entry.shapes) else "mixed"] = 1
    if entry.also:
        found["also"] = 1
        found["also_more"] = min(entry.also - 1, _MOST_MORE)
    elif len(entry.shapes) == entry.matrices > 1 and not foreign:
        found["all_linear"] = 1
    return found | _by_claims(entry.family, claims)


def _by_claims(family: str, claims: Claims) -> Counts:
    found: Counts = {}
    if claims.base_class and _has_class(family, claims.base_class):
        found["base_class"] = 1
    model_type = SAME_FAMILY.get(claims.base_model_type, claims.base_model_type)
    stated = (claims.architecture == family) + (model_type == family)
    if stated:
        found["stated"] = stated
    name = claims.base_name.replace("\\", "/").rstrip("/")[-120:]
    if name and known_base(claims.base_name) is None:
        if is_named(family, name):
            found["named"] = 1
        elif is_called(family, name):
            found["words"] = 1
    return found


def _has_class(family: str, base_class: str) -> bool:
    if family == "phi" and "mixformer" in base_class.lower():
        return True
    known = family_named(family)
    if known is not None and base_class in known.classes:
        return True
    compact = re.sub(r"[-_]", "", family).removesuffix("text")
    return bool(re.match(rf"{re.escape(compact)}(for|model|lm|\d*$)", base_class.lower()))


def by_shapes(
    entry: Hypothesis, seen: Seen, claims: Claims
) -> tuple[Counts, tuple[KnownBase, ...]]:
    """Evidence of shapes, and the known bases that fit."""
    matches = _fitting(entry, seen)
    found: Counts = {}
    if not consistent((entry.shapes[name], seen.shapes[name]) for name in entry.shapes):
        found["inconsistent"] = 1
    if matches:
        found[min((_layers(base, seen) for base in matches), key=_LAYERS.index)] = 1
    elif seen.has_sizes and _fits_default(entry, seen):
        found["default"] = 1 if _has_all_layers(entry, seen) else _SOME_LAYERS
    declared = known_base(claims.base_name)
    if declared is not None and declared.family == entry.family:
        fits = declared in matches or not seen.has_sizes
        found["declared" if fits else "declared_other"] = 1
    return found, matches


_LAYERS = ("known_base", "last_layer", "some_layers")


def _layers(base: KnownBase, seen: Seen) -> str:
    """How well the layers agree: trainers adapt all of them, or the last ones."""
    layers = base.dimensions.layers
    if layers is None or len(seen.layers) == layers:
        return "known_base"
    return "last_layer" if seen.layer_count == layers else "some_layers"


def _has_all_layers(entry: Hypothesis, seen: Seen) -> bool:
    family = family_named(entry.family)
    layers = dimensions_of(family.defaults).layers if family is not None else None
    return layers is None or len(seen.layers) == layers


def _fitting(entry: Hypothesis, seen: Seen) -> tuple[KnownBase, ...]:
    if not seen.has_sizes:
        return ()
    return tuple(base for base in bases_of(entry.family) if _fits(base.shapes, entry, seen))


def _fits_default(entry: Hypothesis, seen: Seen) -> bool:
    family = family_named(entry.family)
    if family is None or not family.classes:
        return False
    return _fits(BaseShapes(family=family, config={}), entry, seen)


def _fits(base: BaseShapes, entry: Hypothesis, seen: Seen) -> bool:
    checked = 0
    for name, shapes in entry.shapes.items():
        if not _has_layer(base, shapes, seen.last.get(name, 0) - seen.shift):
            return False
        for pair in seen.shapes[name]:
            agreed = [_agree(base, shape.sizes, pair) for shape in shapes]
            if agreed and max(agreed) < 0:
                return False
            checked += max(agreed, default=0)
    return checked > 0


def _has_layer(base: BaseShapes, shapes: Shapes, last: int) -> bool:
    counts = [base.size(shape.count) for shape in shapes if shape.count]
    known = [count for count in counts if count is not None]
    return not known or last < max(known)


def _agree(base: BaseShapes, sizes: Sequence[str], pair: tuple[int, int]) -> int:
    """Sides that are known and equal, or -1 when one differs; vocabularies may be resized."""
    if len(sizes) != 2:
        return 0
    equal = 0
    for formula, size in zip(sizes, pair, strict=True):
        wanted = base.size(formula) if size else None
        if wanted is not None:
            equal += 1
            if wanted != size and "vocab" not in formula:
                return -1
    return equal
