"""The numbers that detection weighs evidence with; docs/detection.md says how they were fit."""

from __future__ import annotations

import math
from collections.abc import Mapping

UNKNOWN_PRIOR = 0.05
"""Prior of no family at all, on the scale of the shares in ``popularity``."""
UNKNOWN_NAME = 1e-3
"""Likelihood of each name when it is no family at all."""
RATIOS: Mapping[str, float] = {
    "foreign_name": 1e-6,
    "wrapper": 1e-3,
    "mixed": 1e-2,
    "inconsistent": 1e-4,
    "stated": 1e6,
    "base_class": 1e4,
    "bare": 0.076,
    "also": 0.24,
    "also_more": 0.84,
    "all_linear": 4.8,
    "known_base": 180.0,
    "last_layer": 20.0,
    "some_layers": 5.8,
    "default": 36.0,
    "words": 380.0,
    "named": 1.3e4,
    "declared": 7800.0,
    "declared_other": 27.0,
}
"""Likelihood ratio of each kind of evidence, as ``evidence`` counts it."""


def logarithm(counts: Mapping[str, float], ratios: Mapping[str, float] = RATIOS) -> float:
    """Log likelihood ratio of all evidence together."""
    return sum(count * math.log(ratios[kind]) for kind, count in counts.items())
