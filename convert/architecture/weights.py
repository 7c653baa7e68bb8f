"""The numbers that detection weighs evidence with; docs/detection.md says how they were fit."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """Likelihood ratios.

    Attributes:
        foreign_name: A name that the family does not have.
        unknown: Prior of no family at all.
        unknown_name: Each name, when it is no family at all.
        bare: All names as only the headless class has them.
        mixed: Some names with the root and some without.
        wrapper: A prefix that no class of the family has.
        also: A module of the same short name that was not seen, the first one.
        also_more: Each further one, at most :attr:`also_most` of them.
        also_most: See above.
        all_linear: Exactly all linear modules of the body.
        inconsistent: Shapes that no one configuration gives.
        known_base: A known base whose shapes and number of layers are these.
        last_layer: The same, and the base's last layer is there but not all.
        some_layers: The same, with other layers.
        default: The family's default configuration has these shapes.
        words: The declared name has the family's words.
        declared: The declared name is a known base of the family, and its shapes fit.
        declared_other: The same, and its shapes do not fit.
        base_class: The producer names a class of the family.
        stated: The content, or ``--base``, states the family.
    """

    foreign_name: float = 1e-6
    unknown: float = 0.05
    unknown_name: float = 1e-3
    bare: float = 0.1
    mixed: float = 1e-2
    wrapper: float = 1e-3
    also: float = 0.1
    also_more: float = 0.6
    also_most: int = 6
    all_linear: float = 3.0
    inconsistent: float = 1e-4
    known_base: float = 25.0
    last_layer: float = 8.0
    some_layers: float = 2.0
    default: float = 3.0
    words: float = 200.0
    declared: float = 1e4
    declared_other: float = 60.0
    base_class: float = 1e4
    stated: float = 1e6


WEIGHTS = Weights()
