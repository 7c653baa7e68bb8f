"""What was seen of an adapter: names, shapes, layers, and what its source claims."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from adaptrix.convert.architecture.family import first_number, template

_LAYER = re.compile(r"(?:^|\.)(?:layers|h|layer|blocks|block)\.(\d{1,5})(?=\.)")
_OLDEST_EMBEDDING = "layers.0.wte"
Pair = tuple[int, int]


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
class Seen:
    """All observations of one adapter, names with every number as ``{}``.

    Attributes:
        shapes: Distinct shapes by name.
        paths: One path by name, for names whose shape hangs on a number.
        layers: Distinct layer numbers, ascending.
        last: Highest number by name.
    """

    shapes: Mapping[str, tuple[Pair, ...]]
    paths: Mapping[str, str]
    layers: tuple[int, ...]
    last: Mapping[str, int] = field(default_factory=dict)

    @property
    def has_sizes(self) -> bool:
        """Whether any side of any shape is known."""
        return any(size for pairs in self.shapes.values() for pair in pairs for size in pair)

    @property
    def shift(self) -> int:
        """The oldest naming of Phi numbers its blocks from 1."""
        return int(any(name.startswith("layers.{}.mixer") for name in self.shapes))

    @property
    def layer_count(self) -> int:
        """Layers that the base has at least."""
        return self.layers[-1] - self.shift + 1 if self.layers else 0


def layer_indices(paths: Iterable[str]) -> tuple[int, ...]:
    """Distinct layer numbers in module paths, ascending."""
    found = {int(match[1]) for path in paths if (match := _LAYER.search(path))}
    return tuple(sorted(found))


def seen_of(observations: Sequence[Observation]) -> Seen:
    """Observations by name."""
    shapes: dict[str, dict[Pair, None]] = {}
    paths: dict[str, str] = {}
    last: dict[str, int] = {}
    for one in observations:
        name = one.path if one.path == _OLDEST_EMBEDDING else template(one.path)
        shapes.setdefault(name, {})[one.out_features, one.in_features] = None
        paths.setdefault(name, one.path)
        span = first_number(one.path)
        if span is not None:
            last[name] = max(last.get(name, 0), int(one.path[slice(*span)]))
    return Seen(
        shapes={name: tuple(pairs) for name, pairs in shapes.items()},
        paths=paths,
        layers=layer_indices(one.path for one in observations),
        last=last,
    )
