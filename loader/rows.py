"""Batches whose rows use different adapters, in either mode."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from adaptrix.loader.generate import GenerateOptions, Generation, Prompt, generate
from adaptrix.schema.errors import UsageError

if TYPE_CHECKING:
    from adaptrix.loader.session import Session

Weights = Mapping[str, float]


def by_row(
    session: Session,
    prompts: Sequence[Prompt],
    options: GenerateOptions | Sequence[GenerateOptions],
    adapters: Sequence[Weights],
) -> list[Generation]:
    """One completion per prompt, row ``i`` with ``adapters[i]``.

    Raises:
        UsageError: not one set for each prompt.
    """
    if len(adapters) != len(prompts):
        raise UsageError(
            f"expected {len(prompts)} sets of adapters, got {len(adapters)}", where="rows"
        )
    if not prompts:
        return []
    own = [options] * len(prompts) if isinstance(options, GenerateOptions) else list(options)
    sets, at = distinct(adapters)
    if session.mode != "attached":
        return _in_turn(session, prompts, own, sets, at)
    plans = [session.plan_for(weights) for weights in sets]
    with session.rows(plans, at):
        return generate(session.base, prompts, own)


def distinct(adapters: Sequence[Weights]) -> tuple[list[Weights], list[int]]:
    """The different sets, and which of them each row has; weight 0 is absence."""
    found: dict[tuple[tuple[str, float], ...], int] = {}
    at = []
    for weights in adapters:
        key = tuple(sorted((name, weight) for name, weight in weights.items() if weight != 0))
        at.append(found.setdefault(key, len(found)))
    return [dict(key) for key in found], at


def _in_turn(
    session: Session,
    prompts: Sequence[Prompt],
    options: Sequence[GenerateOptions],
    sets: Sequence[Weights],
    at: Sequence[int],
) -> list[Generation]:
    before = session.weights
    found: dict[int, Generation] = {}
    try:
        for index, weights in enumerate(sets):
            members = [row for row, own in enumerate(at) if own == index]
            session.use(weights)
            session.self_check()
            done = generate(
                session.base, [prompts[row] for row in members], [options[row] for row in members]
            )
            found.update(zip(members, done, strict=True))
    finally:
        session.use(before)
    return [found[row] for row in range(len(prompts))]
