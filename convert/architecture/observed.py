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
    """One module: its path and the shape of its update; zeros where it is not known.

    Attributes:
        path: Its path.
        out_features, in_features: Its shape; of a whole weight, as the file has it.
        saved: Whether a whole weight is in the file, and no factors: a head, an embedding.
    """

    path: str
    out_features: int = 0
    in_features: int = 0
    saved: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Claims:
    """What the source says about its base beyond its keys.

    Attributes:
        base_name: Declared base model.
        base_class: Class that was adapted.
        library: Python module of that class.
        architecture: Family that the content states.
        base_model_type: ``model_type`` of ``--base``.
        task_type: PEFT's task type.
        targets: Last parts of the names that were to be adapted.
    """

    base_name: str = ""
    base_class: str = ""
    library: str = ""
    architecture: str = ""
    base_model_type: str = ""
    task_type: str = ""
    targets: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """All observations of one adapter, names with every number as ``{}``.

    Attributes:
        shapes: Distinct shapes by name.
        paths: One path by name, for names whose shape hangs on a number.
        layers: Distinct layer numbers, ascending.
        last: Highest number by name.
        saved: Shapes of whole weights by name.
    """

    shapes: Mapping[str, tuple[Pair, ...]]
    paths: Mapping[str, str]
    layers: tuple[int, ...]
    last: Mapping[str, int] = field(default_factory=dict)
    saved: Mapping[str, Pair] = field(default_factory=dict)

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
    adapted = [one for one in observations if not one.saved]
    for one in adapted:
        name = one.path if one.path == _OLDEST_EMBEDDING else template(one.path)
        shapes.setdefault(name, {})[one.out_features, one.in_features] = None
        paths.setdefault(name, one.path)
        span = first_number(one.path)
        if span is not None:
            last[name] = max(last.get(name, 0), int(one.path[slice(*span)]))
    return Seen(
        shapes={name: tuple(pairs) for name, pairs in shapes.items()},
        paths=paths,
        layers=layer_indices(one.path for one in adapted),
        last=last,
        saved={template(o.path): (o.out_features, o.in_features) for o in observations if o.saved},
    )
