"""Which family is it, and which model? Bayes' rule over the catalogue.

A hypothesis is a family that has some of the names. Its probability is its share of public
adapters, times what the evidence is worth (:mod:`~.weights`): names it does not have, names
it has besides under the same short name, how likely its models have these shapes, and what the
source says of its base. ``unknown`` competes with every name. A declared name is evidence,
never proof, and neither is popularity: the outcome is a mixture (:func:`blended`) with what
holds if the declaration is worth nothing, and if families are more alike than their shares.
Families with the same names and the same shapes share the probability: nothing is guessed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from adaptrix.convert.architecture.claims import told
from adaptrix.convert.architecture.evidence import Counts, by_another, by_names, by_shapes
from adaptrix.convert.architecture.family import template
from adaptrix.convert.architecture.hypotheses import hypotheses
from adaptrix.convert.architecture.known_bases import KnownBase, known_base, known_bases
from adaptrix.convert.architecture.likelihood import KNOWN, Likelihood
from adaptrix.convert.architecture.novelty import chance_of_layers, chance_of_sizes
from adaptrix.convert.architecture.observed import (
    Claims,
    Observation,
    Seen,
    layer_indices,
    seen_of,
)
from adaptrix.convert.architecture.popularity import share_of
from adaptrix.convert.architecture.unseen import of_claims
from adaptrix.convert.architecture.weights import (
    ALIKE,
    ALIKE_POWER,
    ALIKE_SHAPES,
    HABITS,
    RATIOS,
    UNDECLARED,
    UNKNOWN_PRIOR,
    UNKNOWN_WORD,
    UNKNOWN_WORDS,
    logarithm,
)
from adaptrix.schema.report import Candidate

__all__ = ["UNKNOWN", "Claims", "Detection", "Observation", "detect", "layer_indices", "template"]

UNKNOWN = "unknown"
_SHOWN = 0.005
_NAMED = 0.6
_NAMED_AMONG_TWINS = 0.8
"""Where another family fits as well, only popularity speaks: ask for more."""
_MOST_BASES = 8
_CONTRADICTED = math.log(0.2)
_HOPELESS = math.log(1e-12)


@dataclass(frozen=True, slots=True, kw_only=True)
class Detection:
    """Outcome: the family when one has most of the probability, else ``unknown``.

    Attributes:
        family: Its name.
        confidence: Probability that it is right; 0 for ``unknown``.
        candidates: Families with their probability, the likeliest first.
        evidence: What speaks for it, in words.
        matches: Known bases of it that fit, the likeliest first; of all candidates when the
            family is unknown.
        chances: Probability of each of them.
    """

    family: str
    confidence: float
    candidates: tuple[Candidate, ...]
    evidence: tuple[str, ...]
    matches: tuple[KnownBase, ...]
    chances: tuple[float, ...] = ()


def detect(observations: Sequence[Observation], claims: Claims) -> Detection:
    """Weigh all families against each other and against ``unknown``."""
    seen = seen_of(observations)
    weighed = weigh(seen, claims) if seen.shapes else _unseen(claims)
    ranked = blended(weighed.counts, weighed.unknown) if weighed.counts else [(0.0, UNKNOWN)]
    best, name = ranked[0]
    family = name if best >= (_NAMED_AMONG_TWINS if weighed.rivals(name) else _NAMED) else UNKNOWN
    candidates = tuple(
        Candidate(family=n, probability=math.floor(p * 1e4) / 1e4)
        for p, n in ranked[:8]
        if p >= _SHOWN and n != UNKNOWN
    )
    among = [family] if family != UNKNOWN else [c.family for c in candidates]
    matches = weighed.matches(ranked, among)[: _MOST_BASES if family == UNKNOWN else None]
    return Detection(
        family=family,
        confidence=math.floor(best * 1e4) / 1e4 if family != UNKNOWN else 0.0,
        candidates=candidates,
        evidence=_evidence(family, seen, [base for base, _ in matches], claims),
        matches=tuple(base for base, _ in matches),
        chances=tuple(math.floor(p * 1e4) / 1e4 for _, p in matches),
    )


def _unseen(claims: Claims) -> Weighed:
    counts, unknown = of_claims(claims)
    return Weighed(counts=counts, shapes={}, unknown=unknown)


@dataclass(frozen=True, slots=True, kw_only=True)
class Weighed:
    """The evidence of every family that is not hopeless, and what its shapes may be.

    Attributes:
        counts: Evidence by family.
        shapes: What the shapes say, by family.
        unknown: Log likelihood of names and shapes when it is no family at all.
    """

    counts: Mapping[str, Counts]
    shapes: Mapping[str, Likelihood]
    unknown: float

    def matches(
        self, ranked: Sequence[tuple[float, str]], families: Sequence[str]
    ) -> list[tuple[KnownBase, float]]:
        """Known bases that fit, with the probability of each, the likeliest first."""
        bases = {base.name: base for base in known_bases()}
        found = [
            (bases[name], chance * part / self.shapes[family].claimed)
            for chance, family in ranked
            if family in families and family in self.shapes
            for name, part in self.shapes[family].bases.items()
        ]
        return sorted(found, key=lambda match: -match[1])

    def rivals(self, family: str) -> tuple[str, ...]:
        """Other families that have all names, and shapes in the same way."""
        if family not in self.shapes:
            return ()
        return tuple(
            name for name, found in self.shapes.items()
            if name != family and "foreign_name" not in self.counts[name]
            and found.kind == self.shapes[family].kind
        )  # fmt: skip


def weigh(seen: Seen, claims: Claims) -> Weighed:
    """Names first; shapes for what is not out of the question then."""
    found = hypotheses(seen, claims.targets)
    names = told(found, claims)
    saved = len({name for entry in found.values() for name in entry.saved})
    counts = {name: by_names(entry, seen, claims, saved) for name, entry in found.items()}
    first = {
        name: math.log(share_of(name)) + logarithm(c) + names.get(name, 0.0)
        for name, c in counts.items()
    }
    best = max(first.values(), default=0.0)
    shapes = {}
    for name, score in first.items():
        if score >= best + _HOPELESS:
            more, shapes[name] = by_shapes(found[name], seen, claims, names.get(name, 0.0))
            told_by = names.get(name, 0.0)
            counts[name] |= more | {
                "another": by_another(found[name], seen, shapes[name].kind, told_by)
            }
        else:
            del counts[name]
    _contradict(counts, shapes, claims)
    return Weighed(counts=counts, shapes=shapes, unknown=_unknown(seen))


def _contradict(
    counts: Mapping[str, Counts], shapes: Mapping[str, Likelihood], claims: Claims
) -> None:
    """A declared base that does not fit is worth less where another family's base does."""
    declared = known_base(claims.base_name)
    own = shapes.get(declared.family) if declared is not None else None
    if declared is None or own is None or own.kind == KNOWN:
        return
    explained = (
        f for f, s in shapes.items() if s.kind == KNOWN and "foreign_name" not in counts[f]
    )
    if any(explained):
        counts[declared.family]["declared"] += _CONTRADICTED


def _unknown(seen: Seen) -> float:
    """Log likelihood of names and shapes when it is no family at all."""
    words = {word for name in seen.shapes for word in name.split(".")} - {"{}"}
    sizes = dict.fromkeys(s for pairs in seen.shapes.values() for pair in pairs for s in pair if s)
    chance = chance_of_sizes(sizes) * chance_of_layers(seen.layers, shift=seen.shift, layers=None)
    names = math.log(UNKNOWN_WORD) + (len(words) - 1) * math.log(UNKNOWN_WORDS)
    return names + math.log(chance)


def scores_of(
    counts: Mapping[str, Counts],
    unknown: float,
    ratios: Mapping[str, float] = RATIOS,
    power: float = 1.0,
) -> dict[str, float]:
    """Log of each family's weight, and of ``unknown``'s, whose log likelihood is given."""
    scores = {
        name: power * math.log(share_of(name)) + logarithm(found, ratios)
        for name, found in counts.items()
    }
    # A model of one's own: of unheard-of modules, or of those of some family.
    likely = [power * math.log(UNKNOWN_PRIOR) + unknown]
    likely += [
        scores[name] + math.log(odds)
        for name, found in counts.items() if (odds := found.get("another", 0.0))
    ]  # fmt: skip
    peak = max(likely)
    scores[UNKNOWN] = peak + math.log(sum(math.exp(one - peak) for one in likely))
    return scores


def blended(
    counts: Mapping[str, Counts], unknown: float, ratios: Mapping[str, float] = RATIOS
) -> list[tuple[float, str]]:
    """Probability and name, the likeliest first: a mixture of what may be taken for granted."""
    plain = _chances(scores_of(counts, unknown, ratios))
    alike = _chances(scores_of(counts, unknown, {**ratios, **_alike(ratios)}, ALIKE_POWER))
    parts = [(1 - ALIKE, plain), (ALIKE, alike)]
    if any(found.get("declared") for found in counts.values()):
        unsaid = {
            n: {k: c for k, c in found.items() if k != "declared"} for n, found in counts.items()
        }
        content = _chances(scores_of(unsaid, unknown, ratios))
        parts = [(weight * (1 - UNDECLARED), part) for weight, part in parts]
        parts.append((UNDECLARED, content))
    masses = {name: sum(weight * part[name] for weight, part in parts) for name in plain}
    return sorted(((mass, n) for n, mass in masses.items()), key=lambda p: (-p[0], p[1]))


def _alike(ratios: Mapping[str, float]) -> dict[str, float]:
    """Ratios where habits tell nothing, and no table of bases is thought to be complete."""
    return {"shapes": ratios["shapes"] ** ALIKE_SHAPES, **dict.fromkeys(HABITS, 1.0)}


def _chances(scores: Mapping[str, float]) -> dict[str, float]:
    peak = max(scores.values())
    masses = {name: math.exp(score - peak) for name, score in scores.items()}
    total = sum(masses.values())
    return {name: mass / total for name, mass in masses.items()}


def _evidence(
    family: str, seen: Seen, matches: Sequence[KnownBase], claims: Claims
) -> tuple[str, ...]:
    found = [f"modules {', '.join(sorted(seen.shapes)[:6])}"] if seen.shapes else []
    if matches:
        found.append(f"shapes fit {', '.join(base.name for base in matches[:4])}")
    if claims.base_name:
        found.append(f"declared base {claims.base_name[:120]} (not proof)")
    if claims.library or claims.base_class:
        found.append(f"base class {f'{claims.library} {claims.base_class}'.strip()[:120]}")
    if claims.architecture == family:
        found.append(f"the content states architecture {family}")
    if claims.base_model_type:
        found.append(f"the base's model_type is {claims.base_model_type[:40]}")
    return tuple(found)
