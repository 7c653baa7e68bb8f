"""``run --batch``: prompts of a JSONL file, each with its own adapters; JSONL to stdout."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from adaptrix.cli.batch_lines import Row
from adaptrix.cli.output import Mode, Output, plain
from adaptrix.schema.errors import AdaptrixError

if TYPE_CHECKING:
    from adaptrix.loader.checks import SelfCheck
    from adaptrix.loader.generate import GenerateOptions, Generation, Prompt
    from adaptrix.loader.session import Session

Weights = Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One row, ready to run.

    Attributes:
        row: Its line.
        weights: Its adapters, by the name the session knows.
        options: How to generate it.
    """

    row: Row
    weights: Weights
    options: GenerateOptions


def run_batch(
    session: Session,
    jobs: Sequence[Job],
    digests: Mapping[str, str],
    size: int,
    out: Output,
) -> tuple[list[dict[str, Any]], float, list[SelfCheck]]:
    """Generate every row; rows are printed in order, as soon as all before them are there.

    Returns:
        The rows, the seconds spent generating, and the checks of every set.
    """
    prompts = [_prompt(session, job) for job in jobs]
    done: dict[int, dict[str, Any]] = {}
    checks: list[SelfCheck] = []
    printed, seconds = 0, 0.0
    for members in _chunks(session.mode, jobs, size):
        found = _generate(
            session, [jobs[at] for at in members], [prompts[at] for at in members], checks
        )
        seconds += found[0].seconds
        for at, generation in zip(members, found, strict=True):
            done[at] = _document(at, jobs[at], generation, digests)
        while printed in done:
            if out.mode is not Mode.JSON:
                out.piece(json.dumps(plain(done[printed])) + "\n")
            printed += 1
    return [done[at] for at in range(len(jobs))], seconds, checks


def _prompt(session: Session, job: Job) -> Prompt:
    """Token ids, so that a line that cannot be run is found before the first is."""
    from adaptrix.loader.generate import encode, templated  # noqa: PLC0415

    line = job.row.line
    try:
        if line.messages is None:
            return encode(session.base, line.prompt or "")
        messages = [message.model_dump() for message in line.messages]
        return encode(session.base, templated(session.base, messages))
    except AdaptrixError as error:
        error.where = job.row.where
        raise


def _chunks(mode: str, jobs: Sequence[Job], size: int) -> Iterator[list[int]]:
    """Rows that run together: neighbours; merged, neighbours among those of one set."""
    groups: dict[tuple[tuple[str, float], ...], list[int]] = {}
    for at, job in enumerate(jobs):
        key = tuple(sorted(job.weights.items())) if mode == "merged" else ()
        groups.setdefault(key, []).append(at)
    for members in groups.values():
        for start in range(0, len(members), size):
            yield members[start : start + size]


def _generate(
    session: Session, jobs: Sequence[Job], prompts: Sequence[Prompt], checks: list[SelfCheck]
) -> list[Generation]:
    options = [job.options for job in jobs]
    first = jobs[0].weights
    if session.mode == "merged" or all(job.weights == first for job in jobs):
        if session.weights != first:
            session.use(first)
        checks.append(session.self_check())
        return session.generate(prompts, options)
    found = session.generate(prompts, options, adapters=[job.weights for job in jobs])
    checks += session.row_checks
    return found


def _document(
    index: int, job: Job, generation: Generation, digests: Mapping[str, str]
) -> dict[str, Any]:
    named = {} if job.row.line.id is None else {"id": job.row.line.id}
    return {
        "index": index,
        **named,
        "text": generation.text,
        "adapters": [
            {"reference": name, "digest": digests[name], "weight": weight}
            for name, weight in job.weights.items()
        ],
        "seed": job.options.seed,
        "tokens": generation.tokens,
        "finish": generation.finish,
    }
