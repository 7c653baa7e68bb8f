"""Fit and measure detection: ``python benchmarks/detection.py`` prints what docs/detection.md says.

``--fit`` fits the ratios of ``convert/architecture/weights.py`` on one set of drawn adapters;
the figures are those of another. ``--write`` writes docs/detection.md and docs/detection.png.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from detection_cases import Case, draw
from detection_report import reliability_diagram, report

from adaptrix.convert.architecture.claims import told
from adaptrix.convert.architecture.detect import UNKNOWN, Weighed, blended, weigh
from adaptrix.convert.architecture.observed import seen_of
from adaptrix.convert.architecture.popularity import share_of
from adaptrix.convert.architecture.weights import RATIOS

TRAIN_SEED, TEST_SEEDS, EVEN_SEEDS = 20261101, (20261102, 31), (20261103, 32)
FRESH_SEEDS = (4711, 777)
"""Nothing was ever chosen by what these show."""
FITTED = ("bare", "also", "also_more", "all_linear", "shapes", "declared", "wrapper")


@dataclass(frozen=True, slots=True)
class Outcome:
    """One case with the evidence of every family."""

    case: Case
    weighed: Weighed
    told: frozenset[str]

    def base(self, ratios: Mapping[str, float] = RATIOS) -> tuple[float, str]:
        """The likeliest known base, of whatever family, and its probability."""
        ranked = [pair for pair in self.ranked(ratios) if pair[1] != UNKNOWN]
        found = self.weighed.matches(ranked, [name for _, name in ranked])
        return (found[0][1], found[0][0].name) if found else (0.0, "")

    def ranked(self, ratios: Mapping[str, float] = RATIOS) -> list[tuple[float, str]]:
        """Families by probability."""
        return blended(self.weighed.counts, self.weighed.unknown, ratios)


def outcomes(cases: Sequence[Case]) -> list[Outcome]:
    """Everything that detection weighs, case by case."""
    found = []
    for case in cases:
        weighed = weigh(seen_of(case.observations), case.claims)
        named = frozenset(told(weighed.counts, case.claims))
        found.append(Outcome(case, weighed, named))
    return found


def fit(train: Sequence[Outcome], *, steps: int = 300, pull: float = 2e-3) -> dict[str, float]:
    """Ratios of greatest likelihood, held near where they start (Adam on the log ratios)."""
    start = np.array([math.log(RATIOS[kind]) for kind in FITTED])
    features, fixed, truth = _stacked([_table(one) for one in train])
    value, first, second = start.copy(), np.zeros_like(start), np.zeros_like(start)
    own = features[np.arange(len(truth)), truth].mean(axis=0)
    for step in range(1, steps + 1):
        scores = fixed + features @ value
        chance = np.exp(scores - scores.max(axis=1, keepdims=True))
        chance /= chance.sum(axis=1, keepdims=True)
        mean = np.einsum("cf,cfk->k", chance, features) / len(truth)
        slope = mean - own + pull * (value - start)
        first = 0.9 * first + 0.1 * slope
        second = 0.999 * second + 0.001 * slope**2
        scaled = (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-9)
        value = value - 0.05 * scaled
    return {**RATIOS, **{kind: float(np.exp(v)) for kind, v in zip(FITTED, value, strict=True)}}


def _stacked(
    tables: Sequence[tuple[np.ndarray, np.ndarray, int]],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All cases as one array; families that a case has not are out of the question there."""
    most = max(len(fixed) for _, fixed, _ in tables)
    features = np.zeros((len(tables), most, len(FITTED)), dtype=np.float32)
    scores = np.full((len(tables), most), -1e9)
    for i, (own, fixed, _) in enumerate(tables):
        features[i, : len(fixed)] = own
        scores[i, : len(fixed)] = fixed
    return features, scores, np.array([truth for _, _, truth in tables])


def _table(one: Outcome) -> tuple[np.ndarray, np.ndarray, int]:
    counts = one.weighed.counts
    names = [name for name in counts if name != UNKNOWN]
    if one.case.family not in names:
        names.append(one.case.family)
    features = np.array(
        [[counts.get(n, {}).get(kind, 0.0) for kind in FITTED] for n in names], dtype=float
    )
    rest = {k: v for k, v in RATIOS.items() if k not in FITTED}
    fixed = np.array(
        [
            math.log(share_of(n))
            + sum(c * math.log(rest[k]) for k, c in counts.get(n, {}).items() if k in rest)
            for n in names
        ]
    )
    return features, fixed, names.index(one.case.family)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=4000)
    parser.add_argument("--fit", action="store_true")
    parser.add_argument("--write", action="store_true")
    chosen = parser.parse_args()
    ratios: Mapping[str, float] = RATIOS
    if chosen.fit:
        ratios = fit(outcomes(draw(TRAIN_SEED, chosen.cases)))
        for kind in FITTED:
            print(f"{kind}: {RATIOS[kind]:.4g} -> {ratios[kind]:.4g}")
    sets = {
        f"by share, {'fresh ' * (seed in FRESH_SEEDS)}seed {seed}": outcomes(
            draw(seed, chosen.cases)
        )
        for seed in (*FRESH_SEEDS, *TEST_SEEDS)
    }
    for seed in EVEN_SEEDS:
        drawn = draw(seed, chosen.cases // 2, evenly=True)
        sets[f"every family alike, seed {seed}"] = outcomes(drawn)
    text = report(sets, ratios, TRAIN_SEED)
    print(text)
    held_out = next(iter(sets.values()))
    print(Counter(one.case.declared for one in held_out))
    if chosen.write:
        docs = Path(__file__).parents[1] / "docs"
        (docs / "detection.md").write_text(text)
        reliability_diagram(held_out, ratios, docs / "detection.png")


if __name__ == "__main__":
    main()
