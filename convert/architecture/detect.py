"""Which family is it? Bayes' rule over a small, explicit table.

Each family has a prior (its share of public adapters) and a likelihood: a module name of
its vocabulary weighs 0.1, the same name without the root that headless classes lack 0.03,
a foreign name 1e-7; shapes that contradict each other 1e-3; a known base that fits 25 (all
layers), 8 (up to the last) or 2; a base name with the family's words 60, a known base by name 200; the
class that the producer names 1e4; the architecture that the content states, or ``--base``,
1e6. ``unknown`` competes with 1e-4 for every name. A declared name is evidence, never proof:
it cannot make up for keys that do not fit.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from adaptrix.convert.architecture.dimensions import Dimensions, terms
from adaptrix.convert.architecture.families import FAMILIES, Family, family_of_model_type
from adaptrix.convert.architecture.known_bases import KNOWN_BASES, KnownBase, known_base
from adaptrix.schema.report import Candidate

UNKNOWN = "unknown"
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.|$)|^\d+(?=\.)")
_LAYER = re.compile(r"(?:^|\.)(?:layers|h|layer|blocks|block)\.(\d{1,5})(?=\.)")
_SHOWN = 0.005
_NAMED = 0.6


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """One module: its path and the shape of its update; zeros where it is not known."""

    path: str
    out_features: int = 0
    in_features: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Claims:
    """What the source says about its base beyond its keys."""

    base_name: str = ""
    base_class: str = ""
    architecture: str = ""
    base_model_type: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Detection:
    """Outcome: the family when one has most of the probability, else ``unknown``."""

    family: str
    confidence: float
    candidates: tuple[Candidate, ...]
    evidence: tuple[str, ...]
    matches: tuple[KnownBase, ...]


def template(path: str) -> str:
    """``model.layers.3.mlp.fc1`` as ``model.layers.{}.mlp.fc1``."""
    return _NUMBER.sub("{}", path)


def layer_indices(paths: Iterable[str]) -> tuple[int, ...]:
    """Distinct layer numbers in module paths, ascending."""
    found = {int(match[1]) for path in paths if (match := _LAYER.search(path))}
    return tuple(sorted(found))


def shape_of(family: Family, path: str) -> str | None:
    """Shape of module ``path`` in symbols, or None when the family has no such module."""
    for name in (template(path), path):
        for candidate in (name, family.root + name):
            if candidate in family.modules:
                return family.modules[candidate]
    return None


def detect(observations: Sequence[Observation], claims: Claims) -> Detection:
    """Weigh all families against each other and against ``unknown``."""
    shapes = _distinct(observations)
    indices = layer_indices(o.path for o in observations)
    scores: dict[str, float] = {UNKNOWN: math.log(0.05) + len(shapes) * math.log(1e-4)}
    matches: dict[str, tuple[KnownBase, ...]] = {}
    for family in FAMILIES:
        matches[family.name] = _fitting(family, shapes, indices)
        scores[family.name] = _score(family, shapes, indices, claims, matches[family.name])
    peak = max(scores.values())
    weights = {name: math.exp(score - peak) for name, score in scores.items()}
    total = sum(weights.values())
    ranked = sorted(((w / total, n) for n, w in weights.items()), key=lambda p: (-p[0], p[1]))
    best, name = ranked[0]
    family_name = name if best >= _NAMED and shapes else UNKNOWN
    candidates = tuple(
        Candidate(family=n, probability=round(p, 4))
        for p, n in ranked[:8]
        if p >= _SHOWN and n != UNKNOWN
    )
    return Detection(
        family=family_name,
        confidence=round(best, 4) if family_name != UNKNOWN else 0.0,
        candidates=candidates if shapes else (),
        evidence=_evidence(family_name, shapes, matches.get(family_name, ()), claims),
        matches=matches.get(family_name) or _of_all(matches, candidates if shapes else ()),
    )


def _of_all(
    matches: Mapping[str, tuple[KnownBase, ...]], candidates: Sequence[Candidate]
) -> tuple[KnownBase, ...]:
    """Bases that fit, of every family that it may be, the likeliest first."""
    return tuple(base for c in candidates for base in matches.get(c.family, ()))[:8]


Shapes = Mapping[str, frozenset[tuple[int, int]]]


def _distinct(observations: Sequence[Observation]) -> Shapes:
    found: dict[str, set[tuple[int, int]]] = {}
    for seen in observations:
        path = seen.path if seen.path == "layers.0.wte" else template(seen.path)
        found.setdefault(path, set()).add((seen.out_features, seen.in_features))
    return {path: frozenset(shapes) for path, shapes in found.items()}


def _score(
    family: Family,
    shapes: Shapes,
    indices: Sequence[int],
    claims: Claims,
    matches: Sequence[KnownBase],
) -> float:
    score = math.log(family.prior)
    for path in shapes:
        known = path in family.modules
        headless = family.root + path in family.modules
        score += math.log(0.1 if known else 0.03 if headless else 1e-7)
    if not _consistent(family, shapes):
        score += math.log(1e-3)
    if matches:
        score += math.log(max(_coverage(base, shapes, indices) for base in matches))
    return score + math.log(_claimed(family, claims))


def _coverage(base: KnownBase, shapes: Shapes, indices: Sequence[int]) -> float:
    """How well the layers agree: trainers adapt all of them, or the last ones."""
    layers = base.dimensions.layers
    if layers is None or len(indices) == layers:
        return 25.0
    return 8.0 if indices and indices[-1] - _shift(shapes) == layers - 1 else 2.0


def _shift(shapes: Shapes) -> int:
    """The oldest naming of Phi numbers its blocks from 1."""
    return int(any(path.startswith("layers.{}.mixer") for path in shapes))


def _claimed(family: Family, claims: Claims) -> float:
    factor = 1.0
    declared = known_base(claims.base_name)
    if declared is not None:
        factor *= 200 if declared.family == family.name else 1
    elif family.words.search(claims.base_name.replace("\\", "/").rstrip("/")[-120:]):
        factor *= 60
    compact = family.name.replace("-", "").replace("_", "").removesuffix("text")
    if re.match(rf"{re.escape(compact)}(for|model|lm|\d*$)", claims.base_class.lower()):
        factor *= 1e4
    if family.name == "phi" and "mixformer" in claims.base_class.lower():
        factor *= 1e4
    if claims.architecture == family.name:
        factor *= 1e6
    stated = family_of_model_type(claims.base_model_type)
    if stated is not None and stated.name == family.name:
        factor *= 1e6
    return factor


def _consistent(family: Family, shapes: Shapes) -> bool:
    """Whether one value per symbol explains every shape."""
    values: dict[str, int] = {}
    for path, found in shapes.items():
        symbols = family.modules.get(path) or family.modules.get(family.root + path)
        if symbols is None:
            continue
        if len(found) > 1 and "?" not in symbols:
            return False
        for size, side in zip(next(iter(found)), symbols.split(","), strict=True):
            known = terms(side)
            if len(known) != 1 or not size:
                continue
            factor, name = known[0]
            if size % factor or values.setdefault(name, size // factor) != size // factor:
                return False
    return True


def _fitting(family: Family, shapes: Shapes, indices: Sequence[int]) -> tuple[KnownBase, ...]:
    if not any(size for found in shapes.values() for pair in found for size in pair):
        return ()
    return tuple(
        base
        for base in KNOWN_BASES
        if base.family == family.name and _fits(family, base.dimensions, shapes, indices)
    )


def _fits(family: Family, sizes: Dimensions, shapes: Shapes, indices: Sequence[int]) -> bool:
    if indices and sizes.layers is not None and indices[-1] - _shift(shapes) >= sizes.layers:
        return False
    checked = 0
    for path, found in shapes.items():
        symbols = family.modules.get(path) or family.modules.get(family.root + path)
        if symbols is None:
            return False
        for shape in found:
            for size, side in zip(shape, symbols.split(","), strict=True):
                wanted = sizes.evaluate(side)
                if wanted is not None and size:
                    checked += 1
                    # A vocabulary may have been resized by the trainer.
                    if wanted != size and "v" not in side:
                        return False
    return checked > 0


def _evidence(
    family: str, shapes: Shapes, matches: Sequence[KnownBase], claims: Claims
) -> tuple[str, ...]:
    found = [f"modules {', '.join(sorted(shapes)[:6])}"] if shapes else []
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
