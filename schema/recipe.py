"""How a composed adapter is made: its identity. Rebuilding it gives the same bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from adaptrix.schema.canonical import Json, float_text
from adaptrix.schema.digest import Digest


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipeInput:
    """One parent.

    Attributes:
        name: The reference as the user wrote it, for people.
        digest: Digest of the parent's manifest.
        tensors_digest: Digest of its tensors.
        weight: Its weight in the sum.
    """

    name: str
    digest: Digest
    tensors_digest: Digest
    weight: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Everything that decides a composition's bytes.

    Attributes:
        method: Name of the merge method (``linear``).
        space: ``factor`` (nothing is multiplied out).
        inputs: Parents with weights, in the order given.
        parameters: Settings of the method.
        seed: Seed, or None when the method draws nothing.
    """

    method: str
    inputs: tuple[RecipeInput, ...]
    space: str = "factor"
    parameters: Mapping[str, Json] = field(default_factory=dict)
    seed: int | None = None

    def to_json(self) -> dict[str, Json]:
        """Canonical document; weights as decimal text."""
        return {
            "method": self.method,
            "space": self.space,
            "parameters": dict(self.parameters),
            "seed": self.seed,
            "inputs": [
                {
                    "name": entry.name,
                    "digest": str(entry.digest),
                    "tensorsDigest": str(entry.tensors_digest),
                    "weight": float_text(entry.weight),
                }
                for entry in self.inputs
            ],
        }
