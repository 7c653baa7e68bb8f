"""Adapters drawn from the catalogue, as detection sees them: names, shapes, what is declared.

Seeded. A family is drawn by its share (or evenly), then a known base of it or a configuration
of its own, what is trained, how it was saved, which layers, and what its source declares.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from adaptrix.convert.architecture.catalogue import catalogue
from adaptrix.convert.architecture.families import family_named
from adaptrix.convert.architecture.family import Family
from adaptrix.convert.architecture.known_bases import KnownBase, bases_of, known_bases
from adaptrix.convert.architecture.observed import Claims, Observation
from adaptrix.convert.architecture.popularity import base_shares, share_of
from adaptrix.convert.architecture.shape import Shapes
from adaptrix.convert.architecture.shapes import BaseShapes

ATTENTION = (
    "q_proj v_proj", "q_proj k_proj v_proj o_proj", "query value", "q v", "c_attn", "qkv_proj",
    "query_key_value", "Wqkv", "q_lin v_lin", "query_proj value_proj", "q_proj v_proj fc1 fc2",
    "q_proj k_proj v_proj dense", "q_proj k_proj v_proj out_proj", "in_proj", "qkv", "to_q to_v",
)  # fmt: skip
_WIDTHS = ("hidden_size", "intermediate_size", "d_model", "n_embd", "dim")
_TEXT = ("language_model.", "text_model.", "text_decoder.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One drawn adapter and the family it was drawn from."""

    family: str
    observations: tuple[Observation, ...]
    claims: Claims
    declared: str
    saved: str
    base: str


def draw(seed: int, count: int, *, evenly: bool = False) -> list[Case]:
    """``count`` cases; the same for the same seed and catalogue."""
    rng = random.Random(seed)
    families = list(catalogue().types)
    weights = [1.0 if evenly else share_of(name) for name in families]
    found: list[Case] = []
    while len(found) < count:
        (name,) = rng.choices(families, weights)
        case = _case(rng, name)
        if case is not None:
            found.append(case)
    return found


def _case(rng: random.Random, name: str) -> Case | None:
    family = family_named(name)
    if family is None:
        return None
    known = bases_of(name)
    listed = rng.random() < 0.95 * len(known) / (len(known) + 0.5)
    base = rng.choices(known, base_shares(name))[0] if listed else None
    config = _config(rng, family, usual=not known or rng.random() < 0.2)
    shapes = base.shapes if base else BaseShapes(family=family, config=config)
    modules = {
        n: s
        for n, s in family.modules.items()
        if any(shape.kind in ("linear", "conv1d") and not shape.when for shape in s)
    }
    chosen = _chosen(rng, modules)
    saved, prefix = _saved(rng, family)
    rooted = family.roots[0] if family.roots else ""
    observations = []
    for module in chosen:
        for path in _paths(rng, module, modules[module], shapes, rooted):
            sides = next((m.sides for m in shapes.sides(rooted + path) if len(m.sides) == 2), None)
            if sides is not None:
                out, into = (side or 0 for side in sides)
                observations.append(
                    Observation(path=prefix + path, out_features=out, in_features=into)
                )
    if not observations:
        return None
    kind, claims = _claims(rng, name, base)
    return Case(
        family=name, observations=tuple(_layers(rng, observations)), claims=claims,
        declared=kind, saved=saved, base=base.name if base else "",
    )  # fmt: skip


def _config(rng: random.Random, family: Family, *, usual: bool) -> Mapping[str, int | float]:
    """The default configuration, or its widths scaled together, as other models have it."""
    by = rng.choice((1, 1, 1 / 2, 1 / 4) if usual else (1 / 2, 1 / 4, 3 / 4, 5 / 4, 3 / 2, 2, 3))
    scaled = {}
    for name, value in family.defaults.items():
        wide = name in _WIDTHS and not isinstance(value, str) and value * by % 16 == 0
        if wide and value * by >= 64:
            scaled[name] = int(value * by)
    return scaled


def _chosen(rng: random.Random, modules: Mapping[str, Shapes]) -> list[str]:
    """By the last part of the name, as a trainer's list of targets selects modules."""
    lasts = sorted({name.rpartition(".")[2] for name in modules} - {"{}"})
    way = rng.random()
    usual = [set(text.split()) for text in ATTENTION if set(text.split()) <= set(lasts)]
    if way < 0.5 and usual:
        names = rng.choice(usual)
    elif way < 0.8:
        names = set(lasts)
    elif way < 0.95 and lasts:
        names = set(rng.sample(lasts, rng.randint(1, min(4, len(lasts)))))
    else:
        names = {rng.choice(lasts)} if lasts else set()
    found = [name for name in modules if name.rpartition(".")[2] in names]
    text = [name for name in found if name.startswith(_TEXT)]
    return text if text and rng.random() < 0.5 else found


def _saved(rng: random.Random, family: Family) -> tuple[str, str]:
    root = family.roots[0] if family.roots else ""
    way = rng.random()
    if way < 0.9 or not root:
        return "usual", root
    return ("headless", "") if way < 0.98 else ("wrapped", f"inner_model.{root}")


def _paths(
    rng: random.Random, module: str, alternatives: Shapes, shapes: BaseShapes, root: str
) -> list[str]:
    del alternatives
    if "{}" not in module:
        return [module]
    count = shapes.repetitions(root + module.replace("{}", "0")) or 2
    last = rng.randint(0, 1)
    return [
        module.replace("{}", str(i), 1).replace("{}", str(last)) for i in range(min(count, 130))
    ]


def _layers(rng: random.Random, seen: Sequence[Observation]) -> list[Observation]:
    """All of them, or those of some layers."""
    way = rng.random()
    if way < 0.85:
        return list(seen)
    numbers = sorted({_first(one.path) for one in seen} - {None}, key=lambda n: n or 0)
    if len(numbers) < 4:
        return list(seen)
    cut = rng.randint(1, len(numbers) - 1)
    kept = set(numbers[cut:] if way < 0.93 else numbers[: max(1, cut)]) | {None}
    return [one for one in seen if _first(one.path) in kept]


def _first(path: str) -> int | None:
    return next((int(part) for part in path.split(".") if part.isdigit()), None)


def _claims(rng: random.Random, family: str, base: KnownBase | None) -> tuple[str, Claims]:
    way = rng.random()
    if way < 0.3:
        return "absent", Claims()
    if way < 0.32:
        other = rng.choice([b for b in known_bases() if b.family != family])
        return "wrong", Claims(base_name=other.name)
    if base is not None:
        tuned = f"someone/{base.name.rpartition('/')[2]}-tuned"
        return "right", Claims(base_name=base.name if rng.random() < 0.8 else tuned)
    return "right", Claims(base_name=f"someone/{family}-base")
