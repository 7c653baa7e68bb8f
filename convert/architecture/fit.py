"""Does the adapter fit a base model? Every shape against the base's own dimensions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from adaptrix.convert.architecture.detect import layer_indices, shape_of
from adaptrix.convert.architecture.dimensions import Dimensions, dimensions_of
from adaptrix.convert.architecture.families import BY_NAME, Family, family_of_model_type
from adaptrix.convert.architecture.known_bases import known_base
from adaptrix.convert.draft import Factors
from adaptrix.convert.layouts.experts import base_path
from adaptrix.convert.options import ReadOptions
from adaptrix.schema.adapter import Replacement
from adaptrix.schema.report import Problem

_MOST = 8


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
    config = options.base_config
    if config is not None:
        return _fit_given(factors, replacements, family, options)
    base = known_base(declared)
    if base is None:
        return Fit(compatible=None)
    wrong = _mismatches(factors, BY_NAME[base.family], base.dimensions)
    if family not in (base.family, "unknown"):
        wrong = [f"modules are those of {family}, {base.name} is {base.family}", *wrong]
    if not wrong:
        return Fit(compatible=True)
    message = f"declared {declared[:80]}, but {'; '.join(wrong[:3])}"
    return Fit(compatible=False, problems=(Problem.of("declared_base_differs", message),))


def _fit_given(
    factors: Sequence[Factors],
    replacements: Iterable[Replacement],
    family: str,
    options: ReadOptions,
) -> Fit:
    config = options.base_config or {}
    model_type = str(config.get("model_type", ""))
    name = options.base_name or model_type or "the base"
    base_family = family_of_model_type(model_type)
    if base_family is None:
        return Fit(compatible=None)
    wrong = []
    if family not in (base_family.name, "unknown"):
        wrong.append(f"modules are those of {family}, {name} is {base_family.name}")
    sizes = dimensions_of(config)
    wrong += _mismatches(factors, base_family, sizes)
    wrong += _wrong_replacements(replacements, base_family, sizes)
    problems = [Problem.of("wrong_base", text) for text in wrong[:_MOST]]
    resized = [_resized(r, sizes) for r in replacements]
    problems += [Problem.of("replaces_base_weights", text) for text in resized if text]
    problems += _missing_layers(factors, sizes)
    return Fit(compatible=not wrong, problems=tuple(problems))


def _mismatches(factors: Sequence[Factors], family: Family, sizes: Dimensions) -> list[str]:
    found = []
    for pair in factors:
        symbols = shape_of(family, base_path(pair))
        if symbols is None:
            if pair.path.split(".")[0] not in {"score", "classifier"}:
                found.append(f"{family.name} has no module {pair.path}")
            continue
        wanted = [sizes.evaluate(side) for side in symbols.split(",")]
        got = [pair.b.shape[0], pair.a.shape[1]]
        if any(w is not None and w != g for w, g in zip(wanted, got, strict=True)):
            shown = "×".join("?" if w is None else str(w) for w in wanted)
            found.append(f"{pair.path} is {got[0]}×{got[1]}, the base has {shown}")
    indices = layer_indices(pair.path for pair in factors)
    if indices and sizes.layers is not None and indices[-1] >= sizes.layers:
        found.insert(0, f"layer {indices[-1]}, the base has {sizes.layers}")
    return found


def _wrong_replacements(
    replacements: Iterable[Replacement], family: Family, sizes: Dimensions
) -> list[str]:
    found = []
    for entry in replacements:
        module, _, leaf = entry.parameter.rpartition(".")
        symbols = shape_of(family, module)
        if symbols is None or leaf != "weight" or len(entry.tensor.shape) != 2:
            continue
        # Tables of a resized vocabulary keep their width.
        sides = symbols.split(",")
        if entry.parameter.endswith("embed_tokens.weight"):
            sides = sides[::-1]
        for side, got in zip(sides, entry.tensor.shape, strict=True):
            wanted = sizes.evaluate(side)
            if "v" not in side and wanted is not None and wanted != got:
                shape = list(entry.tensor.shape)
                found.append(f"{entry.parameter} is {shape}, the base has width {wanted}")
    return found


def _resized(replacement: Replacement, sizes: Dimensions) -> str:
    name, shape = replacement.parameter, replacement.tensor.shape
    if not name.endswith(("embed_tokens.weight", "lm_head.weight")) or len(shape) != 2:
        return ""
    if sizes.vocabulary in (None, shape[0]):
        return ""
    return f"{name} has {shape[0]} rows, the base's vocabulary {sizes.vocabulary}"


def _missing_layers(factors: Sequence[Factors], sizes: Dimensions) -> list[Problem]:
    indices = layer_indices(pair.path for pair in factors)
    if sizes.layers is None or not indices or len(indices) >= sizes.layers:
        return []
    if indices[-1] >= sizes.layers:
        return []
    missing = sorted(set(range(sizes.layers)) - set(indices))
    message = f"no tensors for {len(missing)} of {sizes.layers} layers, first layer {missing[0]}"
    hint = "Nothing to do when only some layers were trained."
    return [Problem.of("unused_target", message, hint=hint)]
