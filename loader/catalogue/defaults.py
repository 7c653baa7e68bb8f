"""What a configuration does with fields that it is not given."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from transformers import PretrainedConfig

from adaptrix.loader.catalogue.leaves import Number
from adaptrix.loader.catalogue.solving import term


def nested_configs(
    config: PretrainedConfig, prefix: str = ""
) -> list[tuple[str, PretrainedConfig]]:
    """Configurations inside ``config``, by dotted prefix."""
    found = []
    for name, value in vars(config).items():
        if isinstance(value, PretrainedConfig):
            found.append((f"{prefix}{name}.", value))
            found += nested_configs(value, f"{prefix}{name}.")
    return found


def derived(
    defaults: Mapping[str, Number | str], config: PretrainedConfig, filled: Mapping[str, str]
) -> dict[str, str]:
    """Formulas of the defaults that the configuration's own code computes from other fields."""
    found: dict[str, str] = {}
    for prefix, inner in [("", config), *nested_configs(config)]:
        names = [n.removeprefix(prefix) for n in defaults if n.startswith(prefix)]
        names = [n for n in names if "." not in n and f"{prefix}{n}" not in filled]
        plain = _attributes(inner, {}, names) or {}
        for name, exponents in _followers(inner, plain, names).items():
            constant = Fraction(plain[name])
            for other, power in exponents.items():
                constant /= Fraction(plain[other]) ** power
            if constant.denominator <= 64:
                powers = {f"{prefix}{n}": p for n, p in exponents.items()}
                found[f"{prefix}{name}"] = term(constant, powers)
    return found


def _followers(
    config: PretrainedConfig, plain: Mapping[str, Number], names: list[str]
) -> dict[str, dict[str, int]]:
    """Fields that double, or halve, when another one is given twice its value."""
    powers: dict[str, dict[str, int]] = defaultdict(dict)
    for changing in plain:
        after = _attributes(config, {changing: plain[changing] * 2}, names) or {}
        for name, value in after.items():
            if name != changing and plain.get(name):
                ratio = Fraction(value) / Fraction(plain[name])
                if ratio in (2, Fraction(1, 2)):
                    powers[name][changing] = 1 if ratio == 2 else -1
    return powers


def _attributes(
    config: PretrainedConfig, values: Mapping[str, Number], names: list[str]
) -> dict[str, Number] | None:
    make: Any = type(config)
    try:
        made = make(**values)
    except Exception:  # noqa: BLE001 - a configuration may need arguments
        return None
    # As written, not as attributes: some differ per layer and refuse to be asked.
    tree = made.to_dict()
    found = {name: tree.get(name) for name in names}
    return {
        n: v for n, v in found.items() if isinstance(v, int | float) and not isinstance(v, bool)
    }
