"""Everything the catalogue says about one model type."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

from transformers import PretrainedConfig

from adaptrix.convert.architecture.formula import UNKNOWN_SIZE, factors, fields_of
from adaptrix.loader.catalogue.building import (
    HEADLESS,
    Entry,
    build,
    default_config,
    entries_of,
    model_classes,
)
from adaptrix.loader.catalogue.defaults import derived, nested_configs
from adaptrix.loader.catalogue.experiment import Experiment, first_index, holds, sizes_of
from adaptrix.loader.catalogue.leaves import (
    LAYERS,
    PUBLISHED,
    Number,
    changed,
    leaves,
    switches,
    unset,
)
from adaptrix.loader.catalogue.solving import term

_MOST_CLASSES = 6
_MOST_LITERALS = 6
_LEAST_SIZE = 8
_VOCABULARY = 1000
_SEED = 20261126
_INDEX = re.compile(r"(?<=\.)\d+(?=\.|$)|^\d+(?=\.)")


@dataclass(frozen=True, slots=True)
class Shape:
    """Kind, formulas of the sizes, how often the name is repeated, under which setting."""

    kind: str
    sizes: tuple[str, ...]
    count: str
    when: str = ""


@dataclass(slots=True, kw_only=True)
class Description:
    """One model type, ready to be written."""

    model_type: str
    classes: list[str] = field(default_factory=list)
    roots: list[str] = field(default_factory=list)
    modules: dict[str, list[Shape]] = field(default_factory=dict)
    heads: dict[str, list[Shape]] = field(default_factory=dict)
    defaults: dict[str, Number | str] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    inner: dict[str, str] = field(default_factory=dict)
    fallbacks: dict[str, Number] = field(default_factory=dict)
    fixed: list[str] = field(default_factory=list)
    unsolved: int = 0
    total: int = 0
    verified: bool = False


def describe(model_type: str) -> Description:
    """Build, vary, solve, verify.

    Raises:
        Exception: whatever transformers raises for a type that does not build.
    """
    config = default_config(model_type)
    try:
        built = _built_classes(model_type, config)
    except Exception:
        # Some leave the vocabulary to whoever makes the configuration.
        empty = {n: _VOCABULARY for n in unset(config.to_dict()) if n.endswith("vocab_size")}
        if not empty:
            raise
        config = changed(config, empty)
        built = _built_classes(model_type, config)
    headless = next((entries for name, (_, entries) in built.items() if HEADLESS in name), {})
    main = max(built, key=lambda name: len(built[name][1]))
    experiment = Experiment(built[main][0], _shallow(*built[main], config))
    experiment.vary()
    experiment, filled = _with_unset(experiment)
    formulas = _Formulas(experiment)
    found = Description(model_type=model_type, verified=formulas.verified)
    found.fixed = [name for name in experiment.failed if experiment.fields[name] >= _LEAST_SIZE]
    found.classes = [cls.__name__ for cls, _ in built.values()]
    found.roots = _roots([(cls, entries) for cls, entries in built.values()], headless)
    for name, (_, entries) in sorted(built.items(), key=lambda pair: pair[0] != main):
        formulas.choose(built[name][0], is_main=name == main)
        own = experiment.entries if name == main else entries
        _add(found, own, formulas, is_main=name == main)
    _add_switched(found, experiment)
    _settle_fields(found, experiment, dict(leaves(config.to_dict())), filled)
    return found


def _add_switched(found: Description, experiment: Experiment) -> None:
    """What a setting that is no number changes: modules that only then are there, other shapes."""
    for name, value in switches(experiment.config.to_dict()):
        sizes = experiment.built({name: value})
        if sizes is None or dict(sizes) == experiment.base:
            continue
        other = Experiment(experiment.model_class, changed(experiment.config, {name: value}))
        other.vary()
        plain = Description(model_type=found.model_type, roots=found.roots)
        _add(plain, other.entries, _Formulas(other), is_main=True)
        when = f"{name}={json.dumps(value)}"
        for target, group in ((found.modules, plain.modules), (found.heads, plain.heads)):
            for template, shapes in group.items():
                known = {replace(shape, when="") for shape in target.get(template, [])}
                fresh = [replace(s, when=when) for s in shapes if s not in known]
                if fresh:
                    target.setdefault(template, []).extend(fresh)
        for field_name, number in other.fields.items():
            found.fallbacks.setdefault(field_name, number)


def _shallow(
    model_class: type[Any], entries: Mapping[str, Entry], config: PretrainedConfig
) -> PretrainedConfig:
    """As few layers as show every name: varying is many builds."""
    names = {_INDEX.sub("{}", path) for path in entries}
    counts = {n: v for n, v in leaves(config.to_dict()) if LAYERS.search(n) and isinstance(v, int)}
    for most in (4, 8):
        fewer = {name: most for name, value in counts.items() if value > most}
        smaller = _with_names(model_class, config, fewer, names)
        if smaller is not None:
            return smaller
    return config


def _with_names(
    model_class: type[Any],
    config: PretrainedConfig,
    values: Mapping[str, Number],
    names: set[str],
) -> PretrainedConfig | None:
    """The changed configuration, when it builds and has exactly ``names``."""
    try:
        smaller = changed(config, values) if values else config
        built = entries_of(build(model_class, smaller))
    except Exception:  # noqa: BLE001 - lists of the same length as the layers, and the like
        return None
    return smaller if {_INDEX.sub("{}", path) for path in built} == names else None


def _built_classes(
    model_type: str, config: PretrainedConfig
) -> dict[str, tuple[type[Any], dict[str, Entry]]]:
    found: dict[str, tuple[type[Any], dict[str, Entry]]] = {}
    first: Exception | None = None
    for name, cls in model_classes(model_type).items():
        if len(found) >= _MOST_CLASSES:
            break
        try:
            found[name] = (cls, entries_of(build(cls, config)))
        except Exception as error:  # noqa: BLE001 - any class may fail for any reason
            first = first or error
    found = {name: pair for name, pair in found.items() if pair[1]}
    if not found:
        raise first or LookupError("no model class, or none with a matrix")
    return found


def _roots(
    classes: list[tuple[type[Any], dict[str, Entry]]], headless: Mapping[str, Entry]
) -> list[str]:
    """Prefixes under which classes with a head keep the body; the commonest first."""
    votes: dict[str, int] = defaultdict(int)
    for cls, entries in classes:
        prefix = f"{getattr(cls, 'base_model_prefix', '') or ''}."
        for candidate in {prefix, "model."} - {"."}:
            inside = {p.removeprefix(candidate) for p in entries if p.startswith(candidate)}
            if (headless and len(inside & headless.keys()) * 2 > len(headless)) or (
                not headless and inside and candidate == prefix
            ):
                votes[candidate] += 1
    return sorted(votes, key=lambda root: -votes[root])


class _Formulas:
    """Formula by size of the main class, as far as a further configuration confirms it."""

    def __init__(self, experiment: Experiment) -> None:
        self.by_key: dict[str, str] = {}
        self._experiment = experiment
        self._pool: dict[tuple[int, int], set[str]] = defaultdict(set)
        self._first: Mapping[str, int] = {}
        self._second: Mapping[str, int] = {}
        self._another = another = experiment.another(_SEED)
        self.verified = another is not None
        for key, size in experiment.base.items():
            formula = experiment.formula(key)
            if formula is not None and another is not None:
                fields, sizes = another
                if key in sizes and not holds(formula, fields, sizes[key]):
                    formula = None
            self.by_key[key] = formula or UNKNOWN_SIZE
            if formula is not None and another is not None and not formula.isdigit():
                self._pool[size, another[1].get(key, 0)].add(formula)

    def choose(self, model_class: type[Any], *, is_main: bool) -> None:
        """The class whose sizes are asked for next, built in both configurations."""
        self._first = self._second = {}
        if is_main or self._another is None:
            return
        values = {k: v for k, v in self._another[0].items() if self._experiment.fields[k] != v}
        try:
            for config in (self._experiment.config, changed(self._experiment.config, values)):
                self._first, self._second = (
                    self._second, sizes_of(entries_of(build(model_class, config))),
                )  # fmt: skip
        except Exception:  # noqa: BLE001 - a class may not take what the main one takes
            self._first = {}

    def of_key(self, key: str) -> str:
        """For a class other than the main one: the one formula that gives both sizes."""
        sizes = self._first.get(key, 0), self._second.get(key, 0)
        found = self._pool.get(sizes, set()) if min(sizes) >= _LEAST_SIZE else set()
        return min(found, key=lambda text: (len(text), text)) if found else UNKNOWN_SIZE


def _add(
    found: Description, entries: Mapping[str, Entry], formulas: _Formulas, *, is_main: bool
) -> None:
    grouped: dict[tuple[bool, str], dict[str, Shape]] = defaultdict(dict)
    for path, entry in entries.items():
        root = next((r for r in found.roots if path.startswith(r)), "")
        body = path.removeprefix(root)
        inside = bool(root) or not found.roots or body in _bodies(found, entries)
        grouped[inside, _INDEX.sub("{}", body)][body] = _shape(
            path, entry, formulas, is_main=is_main
        )
    for (inside, template), shapes in grouped.items():
        target = found.modules if inside else found.heads
        if template in target or (not inside and template in found.modules):
            continue
        for name, alternatives in _templates(template, shapes).items():
            target[name] = alternatives
            if is_main:
                found.total += 1
                found.unsolved += any(UNKNOWN_SIZE in s.sizes for s in alternatives)


def _bodies(found: Description, entries: Mapping[str, Entry]) -> frozenset[str]:
    """A class without any root is the body itself."""
    rooted = any(path.startswith(root) for root in found.roots for path in entries)
    return frozenset() if rooted else frozenset(entries)


def _shape(path: str, entry: Entry, formulas: _Formulas, *, is_main: bool) -> Shape:
    if not is_main:
        sizes = tuple(formulas.of_key(f"{path}#{axis}") for axis in range(len(entry.dims)))
        return Shape(entry.kind, sizes, UNKNOWN_SIZE if "{}" in _INDEX.sub("{}", path) else "")
    sizes = tuple(formulas.by_key[f"{path}#{axis}"] for axis in range(len(entry.dims)))
    place = first_index(path)
    count = ""
    if place is not None:
        tail = path.removeprefix(f"{place[0]}.{place[1]}.")
        count = formulas.by_key.get(f"{place[0]}.*.{tail}", UNKNOWN_SIZE)
    return Shape(entry.kind, sizes, count)


def _templates(template: str, shapes: Mapping[str, Shape]) -> dict[str, list[Shape]]:
    """One template, or one per stage where a stage's index decides the shape."""
    distinct = sorted(set(shapes.values()), key=repr)
    if len(distinct) == 1:
        return {template: distinct}
    split = [_INDEX.findall(path) for path in shapes]
    for position in range(template.count("{}")):
        if position == 0 and any(not shape.count.isdigit() for shape in distinct):
            continue
        by_index: dict[str, set[Shape]] = defaultdict(set)
        for indices, shape in zip(split, shapes.values(), strict=True):
            by_index[indices[position]].add(shape)
        if len(by_index) <= _MOST_LITERALS and all(len(s) == 1 for s in by_index.values()):
            parts = template.split("{}")
            head, tail = "{}".join(parts[: position + 1]), "{}".join(parts[position + 1 :])
            return {f"{head}{index}{tail}": list(s) for index, s in by_index.items()}
    return {template: distinct}


def _with_unset(experiment: Experiment) -> tuple[Experiment, dict[str, str]]:
    """Sizes that the default leaves empty, set; and what stands in for them, by field."""
    filled: dict[str, str] = {}
    published = PUBLISHED.get(experiment.config.model_type, ())
    for name in (*unset(experiment.config.to_dict()), *published):
        for value in (96, 128, 2):
            sizes = experiment.built({name: value})
            if sizes is None or sizes.keys() != experiment.base.keys():
                continue
            moved = [key for key, size in experiment.base.items() if sizes[key] != size]
            if moved:
                config = changed(experiment.config, {name: value})
                after = Experiment(experiment.model_class, config)
                after.vary()
                stand_in = _stand_in(experiment.formula(moved[0]), after.formula(moved[0]), name)
                if name in after.relevant and stand_in:
                    filled[name] = stand_in
                    experiment = after
                break
    return experiment, filled


def _stand_in(before: str | None, after: str | None, name: str) -> str | None:
    """The value of ``name`` that makes ``after`` the same product as ``before``."""
    if before is None or after is None or "+" in before or "+" in after:
        return None
    constant = Fraction(1)
    powers: dict[str, int] = defaultdict(int)
    for sign, formula in ((1, before), (-1, after)):
        for factor, power in factors(formula):
            if factor.isdigit():
                constant *= Fraction(int(factor)) ** (sign * power)
            else:
                powers[factor] += sign * power
    own = powers.pop(name, 0)
    return term(constant, {n: p for n, p in powers.items() if p}) if own == -1 else None


def _settle_fields(
    found: Description,
    experiment: Experiment,
    defaults: Mapping[str, Number],
    filled: Mapping[str, str],
) -> None:
    used = {
        name
        for group in (found.modules, found.heads)
        for shapes in group.values()
        for shape in shapes
        for formula in (*shape.sizes, shape.count or UNKNOWN_SIZE)
        for name in fields_of(formula)
    }
    for name in sorted(used):
        if name in filled:
            found.defaults[name] = filled[name]
        else:
            fallback = experiment.fields.get(name, found.fallbacks.get(name))
            found.defaults[name] = defaults.get(name, fallback or 0)
    found.defaults |= derived(found.defaults, experiment.config, filled)
    nested = [("", experiment.config), *nested_configs(experiment.config)]
    for prefix, config in nested:
        for alias, name in (getattr(config, "attribute_map", None) or {}).items():
            if f"{prefix}{name}" in found.defaults:
                found.aliases[f"{prefix}{alias}"] = f"{prefix}{name}"
        if prefix:
            found.inner[prefix[:-1]] = str(getattr(config, "model_type", ""))
