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
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from adaptrix.convert.architecture.consistent import consistent
from adaptrix.convert.architecture.families import family_named
from adaptrix.convert.architecture.family import Shapes, template
from adaptrix.convert.architecture.hypotheses import Hypothesis, hypotheses
from adaptrix.convert.architecture.known_bases import KnownBase, bases_of, known_base
from adaptrix.convert.architecture.observed import (
    Claims,
    Observation,
    Seen,
    layer_indices,
    seen_of,
)
from adaptrix.convert.architecture.plain_families import SAME_FAMILY
from adaptrix.convert.architecture.popularity import is_called, share_of
from adaptrix.convert.architecture.shapes import BaseShapes
from adaptrix.convert.architecture.weights import WEIGHTS, Weights
from adaptrix.schema.report import Candidate

__all__ = ["UNKNOWN", "Claims", "Detection", "Observation", "detect", "layer_indices", "template"]

UNKNOWN = "unknown"
_SHOWN = 0.005
_NAMED = 0.6
_HOPELESS = math.log(1e-9)


@dataclass(frozen=True, slots=True, kw_only=True)
class Detection:
    """Outcome: the family when one has most of the probability, else ``unknown``."""

    family: str
    confidence: float
    candidates: tuple[Candidate, ...]
    evidence: tuple[str, ...]
    matches: tuple[KnownBase, ...]


def detect(
    observations: Sequence[Observation], claims: Claims, weights: Weights = WEIGHTS
) -> Detection:
    """Weigh all families against each other and against ``unknown``."""
    seen = seen_of(observations)
    if not seen.shapes:
        return Detection(
            family=UNKNOWN, confidence=0.0, candidates=(), matches=(),
            evidence=_evidence(UNKNOWN, seen, (), claims),
        )  # fmt: skip
    scores, matches = _scores(seen, claims, weights)
    peak = max(scores.values())
    masses = {name: math.exp(score - peak) for name, score in scores.items()}
    total = sum(masses.values())
    ranked = sorted(((mass / total, n) for n, mass in masses.items()), key=lambda p: (-p[0], p[1]))
    best, name = ranked[0]
    family = name if best >= _NAMED else UNKNOWN
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


def _scores(
    seen: Seen, claims: Claims, weights: Weights
) -> tuple[dict[str, float], dict[str, tuple[KnownBase, ...]]]:
    scores = {
        UNKNOWN: math.log(weights.unknown) + len(seen.shapes) * math.log(weights.unknown_name)
    }
    matches: dict[str, tuple[KnownBase, ...]] = {}
    found = hypotheses(seen)
    first = {name: _by_names(h, seen, claims, weights) for name, h in found.items()}
    best = max(first.values(), default=0.0)
    for name, score in first.items():
        if score < best + _HOPELESS:
            scores[name] = score
            continue
        entry = found[name]
        if not consistent((entry.shapes[n], seen.shapes[n]) for n in entry.shapes):
            score += math.log(weights.inconsistent)
        matches[name] = _fitting(entry, seen)
        scores[name] = score + math.log(_by_bases(entry, seen, claims, matches[name], weights))
    return scores, matches


def _by_names(entry: Hypothesis, seen: Seen, claims: Claims, weights: Weights) -> float:
    """Share, names, and what the source says, as far as it needs no shapes."""
    score = math.log(share_of(entry.family))
    foreign = len(seen.shapes) - len(entry.shapes)
    score += foreign * math.log(weights.foreign_name)
    if entry.wrapper:
        score += math.log(weights.wrapper)
    if entry.bare:
        every = len(entry.bare) == len(entry.shapes)
        score += math.log(weights.bare if every else weights.mixed)
    if entry.also:
        more = min(entry.also - 1, weights.also_most)
        score += math.log(weights.also) + more * math.log(weights.also_more)
    elif len(entry.shapes) == entry.matrices > 1 and not foreign:
        score += math.log(weights.all_linear)
    return score + math.log(_stated(entry.family, claims, weights))


def _stated(family: str, claims: Claims, weights: Weights) -> float:
    factor = 1.0
    if claims.base_class and _has_class(family, claims.base_class):
        factor *= weights.base_class
    if claims.architecture and claims.architecture == family:
        factor *= weights.stated
    stated = SAME_FAMILY.get(claims.base_model_type, claims.base_model_type)
    if stated and stated == family:
        factor *= weights.stated
    name = claims.base_name.replace("\\", "/").rstrip("/")[-120:]
    if known_base(claims.base_name) is None and name and is_called(family, name):
        factor *= weights.words
    return factor


def _has_class(family: str, base_class: str) -> bool:
    if family == "phi" and "mixformer" in base_class.lower():
        return True
    known = family_named(family)
    if known is not None and base_class in known.classes:
        return True
    compact = re.sub(r"[-_]", "", family).removesuffix("text")
    return bool(re.match(rf"{re.escape(compact)}(for|model|lm|\d*$)", base_class.lower()))


def _by_bases(
    entry: Hypothesis,
    seen: Seen,
    claims: Claims,
    matches: Sequence[KnownBase],
    weights: Weights,
) -> float:
    factor = 1.0
    if matches:
        factor = max(_coverage(base, seen, weights) for base in matches)
    elif seen.has_sizes and _fits_default(entry, seen):
        factor = weights.default
    declared = known_base(claims.base_name)
    if declared is not None and declared.family == entry.family:
        fits = declared in matches or not seen.has_sizes
        factor *= weights.declared if fits else weights.declared_other
    return factor


def _coverage(base: KnownBase, seen: Seen, weights: Weights) -> float:
    """How well the layers agree: trainers adapt all of them, or the last ones."""
    layers = base.dimensions.layers
    if layers is None or len(seen.layers) == layers:
        return weights.known_base
    return weights.last_layer if seen.layer_count == layers else weights.some_layers


def _fitting(entry: Hypothesis, seen: Seen) -> tuple[KnownBase, ...]:
    if not seen.has_sizes:
        return ()
    return tuple(base for base in bases_of(entry.family) if _fits(base.shapes, entry, seen))


def _fits_default(entry: Hypothesis, seen: Seen) -> bool:
    family = family_named(entry.family)
    if family is None or not family.defaults or not family.classes:
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
