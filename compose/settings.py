"""Parameters of merge methods: named, bounded, with defaults; and the values of one merge."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from adaptrix.schema.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """One parameter of a method.

    Attributes:
        name: Its name on the command line and in recipes.
        summary: One line.
        default: Its value when none is given; None means "not used".
        low: Least value.
        high: Greatest value.
        whole: Whether it is a whole number.
        neutral: The value at which a single adapter with weight 1 comes out as it went in;
            None where every value does.
    """

    name: str
    summary: str
    default: float | None
    low: float = -math.inf
    high: float = math.inf
    whole: bool = False
    neutral: float | None = None

    def check(self, value: float) -> float:
        """``value``, when it may be used.

        Raises:
            UsageError: it is out of bounds or not whole.
        """
        inside = math.isfinite(value) and self.low <= value <= self.high
        if not inside or (self.whole and value != int(value)):
            kind = "a whole number" if self.whole else "a number"
            raise UsageError(
                f"expected {kind} from {self.low:g} to {self.high:g}, got {value:g}",
                where=self.name,
            )
        return int(value) if self.whole else float(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The values of a method's parameters in one merge.

    Attributes:
        values: By name; parameters that are not used are missing.
        seed: Seed of what is drawn at random.
    """

    values: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0

    def __getitem__(self, name: str) -> float:
        return self.values[name]

    def get(self, name: str) -> float | None:
        """The value, or None when the parameter is not used."""
        return self.values.get(name)


RANK = Parameter(
    name="rank", summary="greatest rank of a module of the result", default=None, low=1, high=65536,
    whole=True,
)  # fmt: skip
ENERGY = Parameter(
    name="energy", summary="share of the squared singular values that is kept", default=None,
    low=1e-6, high=1.0,
)  # fmt: skip
DENSITY = Parameter(
    name="density", summary="share of the entries that is kept", default=0.5, low=1e-4, high=1.0,
    neutral=1.0,
)  # fmt: skip
SCALE = Parameter(name="scale", summary="factor on the result", default=1.0, neutral=1.0)


def resolve(
    parameters: Sequence[Parameter], given: Mapping[str, float], *, method: str, seed: int = 0
) -> Settings:
    """The settings of one merge: what is given, else the defaults.

    Raises:
        UsageError: the method has no such parameter, or a value is out of bounds.
    """
    known = {parameter.name: parameter for parameter in parameters}
    for name in given:
        if name not in known:
            listed = ", ".join(known) or "none"
            raise UsageError(
                f"{method} has no parameter {name!r}", where=name, hint=f"It has: {listed}."
            )
    if {"rank", "energy"} <= given.keys():
        raise UsageError("give a rank or an energy, not both", where="rank")
    values = {p.name: p.check(given.get(p.name, p.default or 0.0))
              for p in parameters if p.name in given or p.default is not None}  # fmt: skip
    return Settings(values=values, seed=seed)
