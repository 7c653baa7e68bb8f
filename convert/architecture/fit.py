"""Does the adapter fit a base model? Every shape against the base's own dimensions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from adaptrix.convert.architecture.base import given_modules
from adaptrix.convert.architecture.dimensions import Dimensions, dimensions_of
from adaptrix.convert.architecture.family import first_number, template
from adaptrix.convert.architecture.known_bases import known_base
from adaptrix.convert.architecture.observed import layer_indices
from adaptrix.convert.architecture.popularity import POPULARITY, called_at, is_called
from adaptrix.convert.architecture.shapes import (
    BaseModules,
    BuiltModules,
    ModuleSides,
    is_task_head,
)
from adaptrix.convert.draft import Factors
from adaptrix.convert.layouts.experts import slice_of
from adaptrix.convert.layouts.heads import experts_of
from adaptrix.convert.options import ReadOptions
from adaptrix.schema.adapter import ModuleKind, Replacement
from adaptrix.schema.errors import AdaptrixError
from adaptrix.schema.report import Problem

_MOST = 8
_UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """Whether it fits; None when that could not be checked."""

    compatible: bool | None
    problems: tuple[Problem, ...] = ()


def check_fit(
    factors: Sequence[Factors],
    replacements: Iterable[Replacement],
    family: str,
    declared: str,
    options: ReadOptions,
) -> Fit:
    """Compare with ``--base`` when given, else with the declared base when it is known."""
    if options.base_config is not None:
        return _fit_given(factors, replacements, family, options)
    base = known_base(declared)
    if base is None:
        return Fit(compatible=None, problems=_another_family(family, declared))
    wrong = _mismatches(factors, base.shapes, layers=base.dimensions.layers)
    if family not in (base.family, _UNKNOWN):
        wrong = [f"modules are those of {family}, {base.name} is {base.family}", *wrong]
    if not wrong:
        return Fit(compatible=True)
    message = f"declared {declared[:80]}, but {'; '.join(wrong[:3])}"
    return Fit(compatible=False, problems=(Problem.of("declared_base_differs", message),))


def _another_family(family: str, declared: str) -> tuple[Problem, ...]:
    """A base that is in no table, whose name is that of a family with other modules."""
    name = declared.replace("\\", "/").rstrip("/").rpartition("/")[2]
    called = [other for other in POPULARITY if name and is_called(other, name)]
    if family == _UNKNOWN or not called or called_at(family, name) is not None:
        return ()
    if any(_stem(other) == _stem(family) for other in called):
        return ()
    message = f"declared {declared[:80]}, named as {called[0]}, but modules are those of {family}"
    return (Problem.of("declared_base_differs", message),)


def _stem(family: str) -> str:
    """``gemma`` of ``gemma3_text``: relatives share names, and are often called alike."""
    match = re.match(r"[a-z]+", family)
    return match[0] if match else family


def _fit_given(
    factors: Sequence[Factors],
    replacements: Iterable[Replacement],
    family: str,
    options: ReadOptions,
) -> Fit:
    base = given_modules(options)
    if base is None:
        return Fit(compatible=None)
    name = options.base_name or base.family_name or "the base"
    sizes = dimensions_of(options.base_config or {})
    replacements = tuple(replacements)
    wrong = _wrong_modules(factors, replacements, base, sizes)
    if family not in (base.family_name, _UNKNOWN):
        wrong.insert(0, f"modules are those of {family}, {name} is {base.family_name}")
    elif wrong and (built := _built(base, options)) is not None:
        wrong = _wrong_modules(factors, replacements, built, sizes)
    wrong += _beyond(factors, experts_of(options.base_config or {}))
    problems = [Problem.of("wrong_base", text) for text in wrong[:_MOST]]
    resized = [_resized(r, sizes) for r in replacements]
    problems += [Problem.of("replaces_base_weights", text) for text in resized if text]
    problems += _missing_layers(factors, base, sizes)
    return Fit(compatible=not wrong, problems=tuple(problems))


def _wrong_modules(
    factors: Sequence[Factors],
    replacements: Sequence[Replacement],
    base: BaseModules,
    sizes: Dimensions,
) -> list[str]:
    wrong = _mismatches(factors, base, layers=sizes.layers)
    return wrong + _wrong_replacements(replacements, base)


def _beyond(factors: Sequence[Factors], experts: int | None) -> list[str]:
    """The first expert that the base does not have."""
    for pair in factors if experts is not None else ():
        part = slice_of(pair.path) if pair.kind is ModuleKind.PARAMETER else None
        if part is not None and part[1] >= (experts or 0):
            return [f"{pair.path} is not one of the base's {experts} experts"]
    return []


def _built(base: BaseModules, options: ReadOptions) -> BuiltModules | None:
    """The base's real modules: a configuration may say more than the catalogue's formulas."""
    if options.base_build is None or isinstance(base, BuiltModules):
        return None
    try:
        modules = options.base_build()
    except AdaptrixError:
        return None
    if not modules:
        return None
    return BuiltModules(family_name=base.family_name, modules=modules, others=base)


def _mismatches(factors: Sequence[Factors], base: BaseModules, *, layers: int | None) -> list[str]:
    found = []
    for pair in factors:
        sides = base.sides(pair.path)
        expected = [module for module in sides if len(module.sides) == 2]
        if not sides:
            if not is_task_head(pair.path):
                found.append(f"{base.family_name} has no module {pair.path}")
            continue
        got = (pair.b.shape[0], pair.a.shape[1])
        if expected and not any(module.fits(got) for module in expected):
            shown = " or ".join(dict.fromkeys(map(_shown, expected)))
            found.append(f"{pair.path} is {got[0]}×{got[1]}, the base has {shown}")
    return _outside(factors, base, layers=layers) + found


def _shown(module: ModuleSides) -> str:
    return "×".join("?" if side is None else str(side) for side in module.sides)


def _outside(factors: Sequence[Factors], base: BaseModules, *, layers: int | None) -> list[str]:
    """The highest number of a name that the base does not repeat so often."""
    highest: dict[str, tuple[int, str]] = {}
    for pair in factors:
        span = first_number(pair.path)
        if span is not None:
            number = int(pair.path[slice(*span)])
            name = template(pair.path)
            if name not in highest or number > highest[name][0]:
                highest[name] = number, pair.path
    found: dict[str, None] = {}
    for number, path in highest.values():
        count = base.repetitions(path)
        if count is None and layer_indices([path]) == (number,):
            count = layers
        if count is not None and number >= count:
            found[f"layer {number}, the base has {count}"] = None
    return list(found)


def _wrong_replacements(replacements: Iterable[Replacement], base: BaseModules) -> list[str]:
    found = []
    for entry in replacements:
        module, _, leaf = entry.parameter.rpartition(".")
        expected = base.sides(module)
        shape = entry.tensor.shape
        if not expected or leaf != "weight" or len(shape) != 2:
            continue
        if not any(_replaces(wanted, shape) for wanted in expected):
            widths = dict.fromkeys(_width(wanted, shape) for wanted in expected)
            width = " or ".join(str(width) for width in widths)
            found.append(f"{entry.parameter} is {list(shape)}, the base has width {width}")
    return found


def _replaces(wanted: ModuleSides, shape: Sequence[int]) -> bool:
    """Tables of a resized vocabulary keep their width."""
    return not _differing(wanted, shape)


def _width(wanted: ModuleSides, shape: Sequence[int]) -> int | None:
    differing = _differing(wanted, shape)
    return differing[0] if differing else None


def _differing(wanted: ModuleSides, shape: Sequence[int]) -> list[int]:
    sides = list(zip(wanted.sides, wanted.resizable, strict=True))
    if wanted.kind == "embedding":
        sides.reverse()
    return [
        side
        for (side, resizable), got in zip(sides, shape, strict=False)
        if side is not None and not resizable and side != got
    ]


def _resized(replacement: Replacement, sizes: Dimensions) -> str:
    name, shape = replacement.parameter, replacement.tensor.shape
    if not name.endswith(("embed_tokens.weight", "lm_head.weight")) or len(shape) != 2:
        return ""
    if sizes.vocabulary in (None, shape[0]):
        return ""
    return f"{name} has {shape[0]} rows, the base's vocabulary {sizes.vocabulary}"


def _missing_layers(
    factors: Sequence[Factors], base: BaseModules, sizes: Dimensions
) -> list[Problem]:
    indices = layer_indices(pair.path for pair in factors)
    layers = sizes.layers
    if layers is None and factors:
        layers = base.repetitions(factors[0].path)
    if layers is None or not indices or len(indices) >= layers or indices[-1] >= layers:
        return []
    missing = sorted(set(range(layers)) - set(indices))
    message = f"no tensors for {len(missing)} of {layers} layers, first layer {missing[0]}"
    hint = "Nothing to do when only some layers were trained."
    return [Problem.of("unused_target", message, hint=hint)]
