"""What speaks for and against one family, counted by kind; the kinds are those of ``weights``.

``foreign_name``: a name that the family does not have. ``bare``: all names only as its
headless class has them; ``mixed``: some. ``wrapper``: a prefix that no class of it has.
``former``: some names that only former classes of it had. ``also``, ``also_more``: modules with the same short names that were not seen, the first and
the further ones. ``all_linear``: exactly the linear modules of its body. ``shapes``: log
probability of the shapes and layers (:mod:`~.likelihood`). ``declared``: log likelihood ratio
of the declared name (:mod:`~.claims`). ``base_class``: the producer names a class of it, or
its Python module. ``stated``: the content, or ``--base``, names the family. ``no_task``: it has
no class for the stated task. ``no_target``: it has no module of a name that was to be adapted,
where no tensors are there. ``another``: odds that it is another model, which has such modules
(:func:`by_another`); it weighs nothing itself. ``unsaved``: whole weights that others have, and it has not.
"""

from __future__ import annotations

import math

from adaptrix.convert.architecture.claims import has_class, has_module, has_task
from adaptrix.convert.architecture.hypotheses import Hypothesis
from adaptrix.convert.architecture.likelihood import INCONSISTENT, NOVEL, Likelihood, likelihood
from adaptrix.convert.architecture.observed import Claims, Seen
from adaptrix.convert.architecture.plain_families import SAME_FAMILY
from adaptrix.convert.architecture.popularity import share_of
from adaptrix.convert.architecture.weights import (
    LOOKALIKE,
    LOOKALIKE_BARE,
    LOOKALIKE_MOST,
    RENAMED,
    STRANGE,
    WRAPPED,
    WRAPPED_PLAINLY,
)

_MOST_MORE = 6
_PLAIN_WRAPPERS = frozenset(
    [
        "model",
        "module",
        "inner_model",
        "base_model",
        "backbone",
        "base",
        "net",
        "network",
        "wrapped",
    ]
)
"""Prefixes of code that puts a whole model into another class."""
Counts = dict[str, float]


def by_names(entry: Hypothesis, seen: Seen, claims: Claims, saved: int = 0) -> Counts:
    """Evidence that needs no shapes; ``saved`` is how many whole weights some family has."""
    foreign = len(seen.shapes) - len(entry.shapes)
    found: Counts = {"foreign_name": foreign} if foreign else {}
    if entry.wrapper:
        found["wrapper"] = 1
    if entry.bare:
        found["bare" if len(entry.bare) == len(entry.shapes) else "mixed"] = 1
    if entry.former:
        found["former"] = 1
    if entry.also:
        found["also"] = 1
        found["also_more"] = min(entry.also - 1, _MOST_MORE)
    elif len(entry.shapes) == entry.matrices > 1 and not foreign:
        found["all_linear"] = 1
    if len(entry.saved) < saved:
        found["unsaved"] = saved - len(entry.saved)
    return found | by_claims(entry.family, claims)


def by_claims(family: str, claims: Claims) -> Counts:
    """Evidence of what the source says, besides the base's name."""
    found: Counts = {}
    if has_class(family, claims.base_class) or has_module(family, claims.library):
        found["base_class"] = 1
    if claims.task_type and not has_task(family, claims.task_type):
        found["no_task"] = 1
    model_type = SAME_FAMILY.get(claims.base_model_type, claims.base_model_type)
    stated = (claims.architecture == family) + (model_type == family)
    if stated:
        found["stated"] = stated
    return found


def by_shapes(
    entry: Hypothesis, seen: Seen, claims: Claims, told: float
) -> tuple[Counts, Likelihood]:
    """Evidence of shapes and of the declared name, whose worth for the family is ``told``."""
    found = likelihood(entry, seen, claims)
    return {
        "shapes": math.log(found.content),
        "declared": told + math.log(found.claimed / found.content),
    }, found


def by_another(entry: Hypothesis, seen: Seen, kind: str, told: float) -> float:
    """Odds, against the family, of a model that nobody has listed and that has such modules.

    Models of one's own are put together from known parts: behind a prefix, beside modules that
    the family has not, or with the names of code that its classes were made from. A name that
    says the family leaves the first two only.
    """
    odds = 0.0
    if entry.wrapper:
        plain = set(entry.wrapper.rstrip(".").split(".")) <= _PLAIN_WRAPPERS
        odds += WRAPPED_PLAINLY if plain else WRAPPED
    odds += STRANGE * (1 - len(entry.shapes) / len(seen.shapes))
    if told:
        return odds
    if entry.renamed:
        odds += RENAMED
    if seen.has_sizes and kind in (NOVEL, INCONSISTENT):
        share = LOOKALIKE_BARE if entry.bare else LOOKALIKE
        odds += min(LOOKALIKE_MOST, share / share_of(entry.family))
    return odds
