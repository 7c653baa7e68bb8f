"""Which family a configuration is made for, when there are no tensors: by what it says alone.

The names that were to be adapted are last parts of module names, and most families have the
usual ones; so this is little more than what the declared base and class are worth.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator

from adaptrix.convert.architecture.catalogue import catalogue
from adaptrix.convert.architecture.claims import told
from adaptrix.convert.architecture.evidence import Counts, by_claims
from adaptrix.convert.architecture.families import family_names
from adaptrix.convert.architecture.observed import Claims
from adaptrix.convert.architecture.plain_families import FORMER_NAMES, PLAIN_FAMILIES

_UNKNOWN_TARGET = 0.3
"""Likelihood of each target's name when it is no family at all."""


def of_claims(claims: Claims) -> tuple[dict[str, Counts], float]:
    """Evidence by family, and the log likelihood of ``unknown``; empty when a name is all that is said."""
    targets = frozenset(claims.targets)
    having = Counter(family for target in targets for family in set(_with(target)))
    families = having if targets else dict.fromkeys(family_names(), 0)
    names = told(families, claims)
    counts: dict[str, Counts] = {}
    for family in families:
        found = by_claims(family, claims) | {"declared": names.get(family, 0.0)}
        if having[family] < len(targets):
            found["no_target"] = len(targets) - having[family]
        counts[family] = found
    if not targets and not any("base_class" in found for found in counts.values()):
        return {}, 0.0
    return counts, len(targets) * math.log(_UNKNOWN_TARGET)


def _with(target: str) -> Iterator[str]:
    """Families with a module whose name ends in ``target``."""
    every = catalogue()
    for position in every.names_ending(target):
        yield every.types[position]
    for family in PLAIN_FAMILIES:
        if any(name.rpartition(".")[2] == target for name in family.modules):
            yield family.name
    for name, former in FORMER_NAMES.items():
        if any(path.rpartition(".")[2] == target for path in former):
            yield name
