"""Which diffusion model an adapter is made for, from the names and shapes of its modules.

Bayes' rule over the published models of the table: a model whose modules have all the names
and shapes keeps its prior, one with the names only a ten-thousandth of it, and each name it
lacks a millionth; one that has more layers of the same kinds a tenth, for trainers mostly adapt
all; a family that the file states counts a thousandfold. Anything else has 1e-5 of
probability, for what is in no table.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

from adaptrix.convert.architecture.detect import Detection, Observation
from adaptrix.convert.architecture.dimensions import Dimensions
from adaptrix.convert.architecture.known_bases import KnownBase
from adaptrix.convert.diffusion.models import (
    NUMBER,
    Module,
    Pipeline,
    component_of,
    modules,
    pipelines,
)
from adaptrix.convert.draft import Factors
from adaptrix.schema.report import Candidate

_BLOCKS = re.compile(r"(down_blocks|up_blocks|mid_block|(?:single_)?transformer_blocks)\.")
"""How paths of a bare network begin that no language model has."""
_UNNAMED, _MISSHAPEN, _OTHER, _STATED, _PARTIAL = 1e-6, 1e-4, 1e-5, 1e3, 0.1
_SHOWN = 0.005
Kinds: TypeAlias = Mapping[str, set[str]]
"""Paths with ``{}`` for numbers, by component."""
_FEW = 0.1
"""Largest share of names that the nearest model lacks, for it to be of that family."""
_NAMED = 0.5


def detect_diffusion(observations: Sequence[Observation], stated: str = "") -> Detection | None:
    """The model family, or None when the paths are not those of a diffusion model.

    Args:
        observations: Modules with canonical paths, or those of one bare network.
        stated: Family that the file's metadata or its tool names, or ``""``.
    """
    if not observations or not all(component_of(placed_path(o.path)) for o in observations):
        return None
    placed = [_placed(o) for o in observations]
    kinds = _kinds(placed)
    weights = {
        p.name: _weight(p, placed, kinds) + math.log(_STATED if _is_stated(p, stated) else 1)
        for p in pipelines()
    }
    best = max(weights.values())
    if min(_lacking(p, placed) for p in pipelines()) > len(placed) * _FEW:
        return _unknown(placed)
    scores = {name: math.exp(w - best) for name, w in weights.items()}
    total = sum(scores.values()) + _OTHER
    families: dict[str, float] = {}
    for pipeline in pipelines():
        share = scores[pipeline.name] / total
        families[pipeline.family] = families.get(pipeline.family, 0.0) + share
    ranked = sorted(families.items(), key=lambda entry: (-entry[1], entry[0]))
    family, confidence = ranked[0]
    fitting = [p for p in pipelines() if _fits(p, placed)]
    if not fitting:
        confidence = min(confidence, 0.9)  # a model of this kind, of other sizes than published
    certain = family if confidence >= _NAMED else "unknown"
    return Detection(
        family=certain,
        confidence=round(confidence, 4) if certain == family else 0.0,
        candidates=tuple(
            Candidate(family=name, probability=round(min(p, confidence), 4))
            for name, p in ranked[:8]
            if p >= _SHOWN
        ),
        evidence=_evidence(placed, fitting),
        matches=tuple(
            KnownBase(name=p.name, family=p.family, dimensions=Dimensions()) for p in fitting
        ),
    )


def _is_stated(pipeline: Pipeline, stated: str) -> bool:
    """Hunyuan's image model and its later video model have the names of the first one."""
    family = "hunyuan-video" if pipeline.family == "hunyuan-image" else pipeline.family
    return bool(stated) and (family == stated or family.startswith(f"{stated}-1"))


def placed_path(path: str) -> str:
    """A canonical path; one of a bare network gets the component that its class is."""
    if component_of(path) or not (match := _BLOCKS.match(path)):
        return path
    return ("transformer." if "transformer_blocks" in match[1] else "unet.") + path


def _placed(seen: Observation) -> Observation:
    return Observation(
        path=placed_path(seen.path),
        out_features=seen.out_features,
        in_features=seen.in_features,
    )


def _weight(pipeline: Pipeline, seen: Sequence[Observation], kinds: Kinds) -> float:
    """Logarithm of prior times likelihood."""
    known = [pipeline.module(o.path) for o in seen]
    misshapen = any(
        module is not None and not _same(module, o) for module, o in zip(known, seen, strict=True)
    )
    score = math.log(pipeline.prior) + min(_lacking(pipeline, seen), 40) * math.log(_UNNAMED)
    # Whether all layers of the kinds that were seen were seen.
    whole = sum(pipeline.layers_of(*kind) for kind in kinds.items()) == len(seen)
    score += 0.0 if whole else math.log(_PARTIAL)
    return score + (math.log(_MISSHAPEN) if misshapen else 0.0)


def _kinds(seen: Sequence[Observation]) -> Kinds:
    kinds: dict[str, set[str]] = {}
    for component, _, rest in (o.path.partition(".") for o in seen):
        kinds.setdefault(component, set()).add(NUMBER.sub("{}", rest))
    return kinds


def _lacking(pipeline: Pipeline, seen: Iterable[Observation]) -> int:
    return sum(pipeline.module(o.path) is None for o in seen)


def _same(module: Module, seen: Observation) -> bool:
    area = math.prod(module.kernel)
    inputs = {module.in_features, module.in_features * area}
    return not seen.out_features or (
        module.out_features == seen.out_features and seen.in_features in inputs
    )


def _fits(pipeline: Pipeline, seen: Iterable[Observation]) -> bool:
    found = ((pipeline.module(o.path), o) for o in seen)
    return all(module is not None and _same(module, o) for module, o in found)


def _unknown(placed: Sequence[Observation]) -> Detection:
    parts = ", ".join(sorted({component_of(o.path) for o in placed}))
    return Detection(
        family="unknown",
        confidence=0.0,
        candidates=(),
        evidence=(f"modules of a diffusion pipeline ({parts}) that is in no table",),
        matches=(),
    )


def _evidence(placed: Sequence[Observation], fitting: Sequence[Pipeline]) -> tuple[str, ...]:
    counts: dict[str, int] = {}
    for seen in placed:
        component = component_of(seen.path)
        counts[component] = counts.get(component, 0) + 1
    parts = ", ".join(f"{count} of {name}" for name, count in sorted(counts.items()))
    found = [f"modules of a diffusion pipeline: {parts}"]
    if fitting:
        found.append(f"names and shapes fit {', '.join(p.name for p in fitting[:4])}")
    return tuple(found)


def kernel_of(path: str) -> tuple[int, ...]:
    """Kernel of the module at a canonical path when all models that have it agree."""
    found = {m.kernel for p in pipelines() if (m := p.module(path)) is not None}
    return found.pop() if len(found) == 1 else ()


def best_pipelines(pairs: Sequence[Factors]) -> list[Mapping[str, tuple[int, ...]]]:
    """Kernels by canonical path, of the models that the pairs fit."""
    seen = [
        Observation(path=p.path, out_features=p.b.shape[0], in_features=p.a.shape[1])
        for p in pairs
        if len(p.a.shape) >= 2 and p.b.shape
    ]
    return [
        {f"{component}.{path}": m.kernel for component, network in p.networks.items()
         for path, m in modules(network).items()}
        for p in pipelines()
        if seen and _fits(p, seen)
    ]  # fmt: skip
