"""Which adapters a run uses, and the one base that they agree on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from adaptrix.cli.quieting import quiet_libraries
from adaptrix.schema.errors import IncompatibleAdapter, UsageError

if TYPE_CHECKING:
    from adaptrix.loader.plan import WeightedAdapter
    from adaptrix.registry.registry import Registry
    from adaptrix.registry.reports import StoredAdapter


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """Adapters that were opened, with the base they agree on.

    Attributes:
        adapters: All of them, once each.
        digests: Manifest digest by reference.
        sets: What was asked for, by full reference.
        base: The base model.
    """

    adapters: tuple[WeightedAdapter, ...]
    digests: Mapping[str, str]
    sets: tuple[dict[str, float], ...]
    base: str

    def used(self, weights: Mapping[str, float]) -> list[dict[str, Any]]:
        """A set for ``--json``."""
        return [
            {"reference": name, "digest": self.digests[name], "weight": weight}
            for name, weight in weights.items()
        ]


def choose(
    registry: Registry, wanted: Sequence[Sequence[tuple[str, float]]], base: str | None
) -> Chosen:
    """Open the adapters of all sets; without ``--base`` they must declare the same one.

    Raises:
        IncompatibleAdapter: they declare different bases, or none; lists who wants what. Or
            one is for something that is not run here.
        UsageError: one is named twice in a set, or there is neither adapter nor base.
    """
    texts = list(dict.fromkeys(text for names in wanted for text, _ in names))
    opened = {text: registry.open(text) for text in texts}
    for stored in opened.values():
        _require_runnable(stored)
    quiet_libraries()
    # After everything that can be refused: what it imports takes seconds.
    from adaptrix.loader.plan import WeightedAdapter  # noqa: PLC0415

    sets = tuple(_set(opened, names) for names in wanted)
    first: dict[str, float] = {}
    for weights in sets:
        first = {**weights, **first}
    by_reference = {stored.reference: stored for stored in opened.values()}
    return Chosen(
        adapters=tuple(
            WeightedAdapter(name=name, adapter=stored.adapter, weight=first[name])
            for name, stored in by_reference.items()
        ),
        digests={name: str(stored.digest) for name, stored in by_reference.items()},
        sets=sets,
        base=base or _agreed_base(by_reference),
    )


def _set(
    opened: Mapping[str, StoredAdapter], names: Sequence[tuple[str, float]]
) -> dict[str, float]:
    """Weights by full reference; ``math,math:latest`` would count one adapter twice."""
    found = {opened[text].reference: weight for text, weight in names}
    if len(found) < len(names):
        raise UsageError("an adapter is named twice", where="--adapters")
    return found


def _require_runnable(stored: StoredAdapter) -> None:
    """Refuse before a base is looked for, and perhaps fetched."""
    from adaptrix.convert.diffusion.models import is_of_diffusion  # noqa: PLC0415

    name, adapter = stored.reference, stored.adapter
    if adapter.obstacle:
        hint = f"For PEFT: adaptrix export {name} --for peft -o FOLDER"
        raise IncompatibleAdapter(adapter.obstacle, where=name, hint=hint)
    if is_of_diffusion(adapter.family):
        raise IncompatibleAdapter(
            f"an adapter of {adapter.family}: diffusion pipelines are not run here",
            where=name,
            hint=f"For diffusers: adaptrix export {name} --for diffusers -o FOLDER",
        )


def _agreed_base(opened: Mapping[str, StoredAdapter]) -> str:
    if not opened:
        raise UsageError("no adapters", where="run", hint="Pass --adapters, or --base alone.")
    declared = {name: stored.adapter.base_name for name, stored in opened.items()}
    names = set(declared.values())
    if names == {""} and len(declared) == 1:
        (name,) = declared
        raise IncompatibleAdapter("it declares no base model", where=name, hint="Pass --base.")
    if len(names) != 1 or names == {""}:
        wants = ", ".join(
            f"{name} wants {base or 'nothing declared'}" for name, base in declared.items()
        )
        raise IncompatibleAdapter(
            f"no one base for all: {wants}", where="base model", hint="Pass --base."
        )
    return names.pop()
