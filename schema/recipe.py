"""How a composed adapter is made: its identity. Rebuilding it gives the same bytes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from adaptrix.schema.canonical import Json, float_text
from adaptrix.schema.digest import Digest
from adaptrix.schema.errors import FormatError
from adaptrix.schema.version import VERSION

_LAYER = re.compile(r"\.(\d+)(?:\.|$)")


def layer_of(path: str) -> int | None:
    """The layer that a module is in: the first number of its path."""
    found = _LAYER.search(path)
    return int(found[1]) if found else None


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightRule:
    """Another weight for some modules.

    Attributes:
        weight: The weight there, instead of the input's own.
        pattern: A glob on the module path: ``*.mlp.*``, ``*.q_proj``.
        layers: First and last layer, both included; None for all.
    """

    weight: float
    pattern: str = "*"
    layers: tuple[int, int] | None = None

    def fits(self, path: str) -> bool:
        """Whether it is about the module at ``path``; a layer is the path's first number."""
        if not fnmatchcase(path, self.pattern):
            return False
        if self.layers is None:
            return True
        layer = layer_of(path)
        return layer is not None and self.layers[0] <= layer <= self.layers[1]

    def to_json(self) -> dict[str, Json]:
        """Canonical document."""
        layers: Json = None if self.layers is None else list(self.layers)
        return {"weight": float_text(self.weight), "pattern": self.pattern, "layers": layers}


@dataclass(frozen=True, slots=True, kw_only=True)
class Baking:
    """How a DoRA parent was made plain.

    Attributes:
        base: Name of the base model whose weights were used.
        config_digest: Digest of its configuration.
        rank: Greatest rank of a module that could not be made plain exactly.
    """

    base: str
    config_digest: Digest
    rank: int

    def to_json(self) -> dict[str, Json]:
        """Canonical document."""
        return {"base": self.base, "configDigest": str(self.config_digest), "rank": self.rank}


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipeInput:
    """One parent.

    Attributes:
        name: The reference as the user wrote it, for people and for a rebase.
        digest: Digest of the parent's manifest.
        tensors_digest: Digest of its tensors.
        weight: Its weight.
        rules: Other weights for some modules; the last one that fits wins.
        grams: Digest of the file of Gram matrices, for methods that need them.
        baked: How it was made plain, for DoRA.
    """

    name: str
    digest: Digest
    tensors_digest: Digest
    weight: float
    rules: tuple[WeightRule, ...] = ()
    grams: Digest | None = None
    baked: Baking | None = None

    def to_json(self) -> dict[str, Json]:
        """Canonical document."""
        document: dict[str, Json] = {
            "name": self.name,
            "digest": str(self.digest),
            "tensorsDigest": str(self.tensors_digest),
            "weight": float_text(self.weight),
        }
        if self.rules:
            document["rules"] = [rule.to_json() for rule in self.rules]
        if self.grams is not None:
            document["grams"] = str(self.grams)
        if self.baked is not None:
            document["baked"] = self.baked.to_json()
        return document


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Everything that decides a composition's bytes.

    Attributes:
        method: Name of the merge method (``linear``).
        space: ``factor`` where nothing is multiplied out, else where entries are looked at.
        inputs: Parents with weights, in the order given.
        parameters: Settings of the method, defaults included.
        seed: Seed, or None when the method draws nothing.
        tool: Name and version of the tool.
    """

    method: str
    inputs: tuple[RecipeInput, ...]
    space: str = "factor"
    parameters: Mapping[str, float] = field(default_factory=dict)
    seed: int | None = None
    tool: str = f"adaptrix {VERSION}"

    def to_json(self) -> dict[str, Json]:
        """Canonical document; numbers as decimal text."""
        parameters: dict[str, Json] = {
            name: float_text(value) for name, value in self.parameters.items()
        }
        return {
            "method": self.method,
            "space": self.space,
            "parameters": parameters,
            "seed": self.seed,
            "tool": self.tool,
            "inputs": [entry.to_json() for entry in self.inputs],
        }

    @classmethod
    def from_json(cls, document: Mapping[str, object]) -> Recipe:
        """Inverse of :meth:`to_json`.

        Raises:
            FormatError: it is no recipe.
        """
        try:
            return cls(
                method=str(document["method"]),
                space=str(document["space"]),
                parameters={k: float(v) for k, v in _mapping(document["parameters"]).items()},
                seed=None if document["seed"] is None else int(str(document["seed"])),
                tool=str(document.get("tool", "")),
                inputs=tuple(_input(entry) for entry in _sequence(document["inputs"])),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise FormatError(f"no recipe: {error}", where="recipe") from error


def _input(document: object) -> RecipeInput:
    entry = _mapping(document)
    return RecipeInput(
        name=str(entry["name"]),
        digest=Digest.parse(entry["digest"]),
        tensors_digest=Digest.parse(entry["tensorsDigest"]),
        weight=float(entry["weight"]),
        rules=tuple(_rule(_mapping(rule)) for rule in _sequence(entry.get("rules", []))),
        grams=Digest.parse(entry["grams"]) if "grams" in entry else None,
        baked=_baking(_mapping(entry["baked"])) if "baked" in entry else None,
    )


def _baking(entry: Mapping[str, str]) -> Baking:
    return Baking(
        base=str(entry["base"]),
        config_digest=Digest.parse(entry["configDigest"]),
        rank=int(entry["rank"]),
    )


def _rule(entry: Mapping[str, str]) -> WeightRule:
    layers = entry["layers"]
    bounds = None if layers is None else [int(str(value)) for value in _sequence(layers)]
    return WeightRule(
        weight=float(entry["weight"]),
        pattern=entry["pattern"],
        layers=None if bounds is None else (bounds[0], bounds[1]),
    )


def _mapping(value: object) -> Mapping[str, str]:
    if not isinstance(value, Mapping):
        raise TypeError(f"expected an object, got {value!r}")
    return value


def _sequence(value: object) -> Sequence[object]:
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise TypeError(f"expected a list, got {value!r}")
    return value
