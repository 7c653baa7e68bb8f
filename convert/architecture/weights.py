"""The numbers that detection weighs evidence with; docs/detection.md says how they were fit."""

from __future__ import annotations

import math
from collections.abc import Mapping

UNKNOWN_PRIOR = 0.05
"""Prior of no family at all, on the scale of the shares in ``popularity``."""
UNKNOWN_WORD, UNKNOWN_WORDS = 0.02, 0.1
"""Likelihood of the first word and of each further one in names, when it is no family at all."""
ALIKE = 0.04
"""How far popularity is not relied on: part of the outcome for shares that differ less."""
ALIKE_POWER = 0.2
"""Power of the shares in that part."""
ALIKE_SHAPES = 0.35
"""Power of what shapes are worth in that part."""
HABITS = ("also", "also_more", "all_linear")
"""Kinds of evidence that come from what people usually train; worth nothing in that part."""
UNDECLARED = 0.03
"""Part of the outcome that does not rely on the declared name."""
WRAPPED, WRAPPED_PLAINLY = 1.0, 0.08
"""How much likelier it is that modules behind a foreign prefix are a part of another model, as
odds against the family: for a prefix that means something, and for one of plain code."""
STRANGE = 1.0
"""The same, when all names are foreign; of some of them, in proportion."""
RENAMED = 0.2
"""The same for names of the code that transformers converts from, which others use as well."""
LOOKALIKE, LOOKALIKE_BARE = 6e-5, 2e-4
"""Share of adapters of models of one's own with the names of any one family, as its classes
have them, and without what they put before them."""
LOOKALIKE_MOST = 0.3
RATIOS: Mapping[str, float] = {
    "foreign_name": 1e-6,
    "wrapper": 1e-3,
    "mixed": 1e-2,
    "stated": 1e6,
    "base_class": 1e4,
    "former": 0.1,
    "no_task": 0.1,
    "no_target": 0.01,
    "unsaved": 0.3,
    "bare": 0.10,
    "also": 0.77,
    "also_more": 0.53,
    "all_linear": 2.9,
    "shapes": 2.5,
    "declared": 2.6,
    "another": 1.0,
}
"""Likelihood ratio of each kind of evidence, as ``evidence`` counts it."""


def logarithm(counts: Mapping[str, float], ratios: Mapping[str, float] = RATIOS) -> float:
    """Log likelihood ratio of all evidence together."""
    return sum(count * math.log(ratios[kind]) for kind, count in counts.items())
