"""Which family is it? Bayes' rule over the catalogue.

A hypothesis is a family that has some of the names. Its probability is its share of public
adapters, times what the evidence is worth (:mod:`~.weights`): names it does not have, names
it has besides under the same short name, shapes that one configuration cannot give, known
bases that fit, and what the source says of its base. ``unknown`` competes with every name. A
declared name is evidence, never proof. Families with the same names and the same shapes come
out with their shares: they cannot be told apart, and nothing is guessed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from adaptrix.convert.architecture.evidence import Counts, by_names, by_shapes
from adaptrix.convert.architecture.family import template
from adaptrix.convert.architecture.hypotheses import hypotheses
from adaptrix.convert.architecture.known_bases import KnownBase
from adaptrix.convert.architecture.observed import (
    Claims,
    Observation,
    Seen,
    layer_indices,
    seen_of,
)
from adaptrix.convert.architecture.popularity import share_of
from adaptrix.convert.architecture.weights import RATIOS, UNKNOWN_NAME, UNKNOWN_PRIOR, logarithm
from adaptrix.schema.report import Candidate

__all__ = ["UNKNOWN", "Claims", "Detection", "Observation", "detect", "layer_indices", "template"]

UNKNOWN = "unknown"
_SHOWN = 0.005
_NAMED = 0.6
_NAMED_AMONG_TWINS = 0.8
"""Where another family has the very same evidence, only popularity speaks: ask for more."""
_HOPELESS = math.log(1e-9)


@dataclass(frozen=True, slots=True, kw_only=True)
class Detection:
    """Outcome: the family when one has most of the probability, else ``unknown``."""

    family: str
    confidence: float
    candidates: tuple[Candidate, ...]
    evidence: tuple[str, ...]
    matches: tuple[KnownBase, ...]


def detect(observations: Sequence[Observation], claims: Claims) -> Detection:
    """Weigh all families against each other and against ``unknown``."""
    seen = seen_of(observations)
    if not seen.shapes:
        return Detection(
            family=UNKNOWN, confidence=0.0, candidates=(), matches=(),
            evidence=_evidence(UNKNOWN, seen, (), claims),
        )  # fmt: skip
    counts, matches = weigh(seen, claims)
    ranked = probabilities(scores_of(counts, len(seen.shapes)))
    best, name = ranked[0]
    twins = sum(found == counts.get(name) for found in counts.values()) > 1
    family = name if best >= (_NAMED_AMONG_TWINS if twins else _NAMED) else UNKNOWN
    candidates = tuple(
        Candidate(family=n, probability=math.floor(p * 1e4) / 1e4)
        for p, n in ranked[:8]
        if p >= _SHOWN and n != UNKNOWN
    )
    return Detection(
        family=family,
        confidence=math.floor(best * 1e4) / 1e4 if family != UNKNOWN else 0.0,
        candidates=candidates,
        evidence=_evidence(family, seen, matches.get(family, ()), claims),
        matches=matches.get(family) or _of_all(matches, candidates),
    )


def _of_all(
    matches: Mapping[str, tuple[KnownBase, ...]], candidates: Sequence[Candidate]
) -> tuple[KnownBase, ...]:
    """Bases that fit, of every family that it may be, the likeliest first."""
    return tuple(base for c in candidates for base in matches.get(c.family, ()))[:8]


def weigh(seen: Seen, claims: Claims) -> tuple[dict[str, Counts], dict[str, tuple[KnownBase, ...]]]:
    """The evidence of every family that is not hopeless, and the known bases that fit."""
    found = hypotheses(seen)
    counts = {name: by_names(entry, seen, claims) for name, entry in found.items()}
    first = {name: math.log(share_of(name)) + logarithm(c) for name, c in counts.items()}
    best = max(first.values(), default=0.0)
    matches = {}
    for name, score in first.items():
        if score >= best + _HOPELESS:
            shaped, matches[name] = by_shapes(found[name], seen, claims)
            counts[name] |= shaped
    return counts, matches


def scores_of(
    counts: Mapping[str, Counts], names: int, ratios: Mapping[str, float] = RATIOS
) -> dict[str, float]:
    """Log of each family's weight, and of ``unknown``'s for so many names."""
    scores = {
        name: math.log(share_of(name)) + logarithm(found, ratios) for name, found in counts.items()
    }
    scores[UNKNOWN] = math.log(UNKNOWN_PRIOR) + names * math.log(UNKNOWN_NAME)
    return scores


def probabilities(scores: Mapping[str, float]) -> list[tuple[float, str]]:
    """Probability and name, the likeliest first."""
    peak = max(scores.values())
    masses = {name: math.exp(score - peak) for name, score in scores.items()}
    total = sum(masses.values())
    return sorted(((mass / total, n) for n, mass in masses.items()), key=lambda p: (-p[0], p[1]))


def _evidence(
    family: str, seen: Seen, matches: Sequence[KnownBase], claims: Claims
) -> tuple[str, ...]:
    found = [f"modules {', '.join(sorted(seen.shapes)[:6])}"] if seen.shapes else []
    if matches:
        found.append(f"shapes fit {', '.join(base.name for base in matches[:4])}")
    if claims.base_name:
        found.append(f"declared base {claims.base_name[:120]} (not proof)")
    if claims.base_class:
        found.append(f"base class {claims.base_class[:80]}")
    if claims.architecture == family:
        found.append(f"the content states architecture {family}")
    if claims.base_model_type:
        found.append(f"the base's model_type is {claims.base_model_type[:40]}")
    return tuple(found)
