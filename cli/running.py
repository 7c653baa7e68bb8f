"""What ``run`` does: registry and loader, joined."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adaptrix.cli.chatting import Chat
from adaptrix.cli.choosing import Chosen, choose
from adaptrix.cli.comparing import compare, comparison_lines
from adaptrix.cli.output import Mode, Output, reader_has_gone
from adaptrix.cli.quieting import quiet_libraries
from adaptrix.cli.saving import save
from adaptrix.schema.errors import UsageError
from adaptrix.store.new_folder import require_new_folder

if TYPE_CHECKING:
    from adaptrix.cli.batch import Job
    from adaptrix.cli.batch_lines import Row
    from adaptrix.loader.generate import GenerateOptions, Generation
    from adaptrix.loader.session import Session
    from adaptrix.registry.registry import Registry


def read_prompt(prompt: str | None, *, chat_possible: bool = True) -> str | None:
    """The prompt: ``-`` reads stdin; None on a terminal means a chat.

    Raises:
        UsageError: no prompt, and no terminal or no chat with these options.
    """
    if prompt == "-":
        try:
            # Bytes, since text mode would turn line ends into others.
            return sys.stdin.buffer.read().decode("utf-8")
        except UnicodeDecodeError as error:
            raise UsageError("stdin is no UTF-8 text", where="--prompt") from error
    if prompt is None and not (chat_possible and sys.stdin.isatty()):
        raise UsageError("no prompt", where="run", hint="Pass -p TEXT, or -p - to read stdin.")
    return prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRequest:
    """What ``run`` was asked for; see the command."""

    adapters: list[tuple[str, float]]
    base: str | None
    prompt: str | None
    batch: str | None
    batch_size: int
    mode: str | None
    compare: bool
    device: str
    dtype: str
    settings: Mapping[str, Any]
    dry_run: bool
    save: Path | None = None


def execute(request: RunRequest, home: Path | None, out: Output) -> int:
    """Run it and return the exit status.

    Raises:
        AdaptrixError: it cannot be run.
    """
    # Not on top: every command imports this file, and only a batch needs its documents.
    from adaptrix.cli.batch import Job  # noqa: PLC0415
    from adaptrix.cli.batch_lines import read_rows  # noqa: PLC0415

    # Said before torch is imported, so that a mistake costs no seconds.
    if request.save is not None:
        require_new_folder(request.save)
    rows = [] if request.batch is None else read_rows(request.batch, request.adapters)
    wanted = [request.adapters if row.adapters is None else row.adapters for row in rows]
    with _registry(home) as registry:
        chosen = choose(registry, wanted or [request.adapters], request.base)
        quiet_libraries()
        from adaptrix.loader.generate import GenerateOptions  # noqa: PLC0415

        options = GenerateOptions(**request.settings)
        jobs = [
            Job(row=row, weights=weights, options=_row_options(options, row))
            for row, weights in zip(rows, chosen.sets, strict=False)
        ]
        if request.dry_run:
            return _dry_run(chosen, request, out)
        session = _open(chosen, request)
        if rows:
            return _batch(session, chosen, jobs, request.batch_size, out)
        return _generate(session, chosen, request, options, out)


def _row_options(options: GenerateOptions, row: Row) -> GenerateOptions:
    try:
        return replace(options, **row.settings())
    except UsageError as error:
        raise UsageError(f"{error.where}: {error.message}", where=row.where) from error


def _mode(chosen: Chosen, request: RunRequest) -> str:
    """Merged, unless rows of a batch use different adapters."""
    return request.mode or ("merged" if len(_distinct(chosen)) == 1 else "attached")


def _dry_run(chosen: Chosen, request: RunRequest, out: Output) -> int:
    from adaptrix.loader.base import base_structure, parse_device, parse_dtype  # noqa: PLC0415
    from adaptrix.loader.describe import describe_plans  # noqa: PLC0415
    from adaptrix.loader.plan import plan  # noqa: PLC0415

    device, dtype = parse_device(request.device), parse_dtype(request.dtype)
    structure, mode = base_structure(chosen.base), _mode(chosen, request)
    known = {entry.name: entry for entry in chosen.adapters}
    plans = [
        plan(
            structure,
            [replace(known[name], weight=weight) for name, weight in weights.items()],
            mode=mode,
        )
        for weights in _distinct(chosen)
    ]
    document, lines = describe_plans(plans, structure, device, dtype)
    out.document(document, lines=lines)
    return 0


def _distinct(chosen: Chosen) -> list[dict[str, float]]:
    return list({tuple(sorted(weights.items())): weights for weights in chosen.sets}.values())


def _open(chosen: Chosen, request: RunRequest) -> Session:
    """The base with the one set that all rows use in effect, or with none yet."""
    from adaptrix.loader.base import parse_device, parse_dtype  # noqa: PLC0415
    from adaptrix.loader.session import Session  # noqa: PLC0415

    device, dtype = parse_device(request.device), parse_dtype(request.dtype)
    several = len(_distinct(chosen)) > 1
    session = Session.open(
        chosen.base,
        () if several else chosen.adapters,
        mode=_mode(chosen, request),
        device=device,
        dtype=dtype,
    )
    session.known = {entry.name: entry for entry in chosen.adapters}
    return session


def _batch(session: Session, chosen: Chosen, jobs: Sequence[Job], size: int, out: Output) -> int:
    from adaptrix.cli.batch import run_batch  # noqa: PLC0415

    rows, seconds, checks = run_batch(session, jobs, chosen.digests, size, out)
    status = max(check.verdict.exit_status for check in checks)
    tokens = sum(row["tokens"] for row in rows)
    document = {
        "rows": rows,
        **setting_fields(session),
        "tokens": tokens,
        "timings_s": {**session.timings_s, "generate": seconds},
        "tokens_per_s": tokens / seconds if seconds else 0.0,
    }
    if out.mode is Mode.JSON:
        out.document(document)
    problems = [problem for check in checks for problem in check.problems]
    out.problems(dict.fromkeys(problems))
    out.note(
        f"{len(rows)} rows, {tokens} tokens, {document['tokens_per_s']:.1f} tokens/s, "
        f"{session.mode}, base {session.base.name}"
    )
    return status


def setting_fields(session: Session) -> dict[str, Any]:
    """What every document of a run says about where it ran."""
    from adaptrix.loader.memory import peak_device_memory_bytes, peak_memory_bytes  # noqa: PLC0415

    base = session.base
    return {
        "base": base.name,
        "base_config_digest": str(base.config_digest),
        "mode": session.mode,
        "dtype": str(base.dtype).removeprefix("torch."),
        "compute_dtype": str(base.compute_dtype).removeprefix("torch."),
        "device": str(base.device),
        "peak_memory_bytes": peak_memory_bytes(),
        "peak_device_memory_bytes": peak_device_memory_bytes(base.device),
    }


def result_document(
    session: Session, chosen: Chosen, options: GenerateOptions, generation: Generation
) -> dict[str, Any]:
    """What ``run --json`` prints."""
    seconds = generation.seconds
    return {
        "text": generation.text,
        "finish": generation.finish,
        "adapters": chosen.used(chosen.sets[0]),
        **setting_fields(session),
        "seed": options.seed,
        "tokens": generation.tokens,
        "timings_s": {**session.timings_s, "generate": seconds},
        "tokens_per_s": generation.tokens / seconds if seconds else 0.0,
        "survival": session.check.survival,
        "verdict": session.check.verdict,
        "problems": session.check.problems,
    }


def _generate(
    session: Session, chosen: Chosen, request: RunRequest, options: GenerateOptions, out: Output
) -> int:
    session.self_check()
    check = session.check
    out.problems(check.problems)
    if request.save is not None:
        saved = save(session, chosen, setting_fields(session), request.save, out)
        if request.prompt is None:
            out.document(saved, ids=[saved["path"]])
            return check.verdict.exit_status
    if request.prompt is None:
        Chat(session, options, out).run()
        return check.verdict.exit_status
    if request.compare:
        found = list(compare(session, chosen.adapters, request.prompt, options))
        document = {"rows": [entry.row() for entry in found], **setting_fields(session)}
        out.document(document, lines=comparison_lines(found))
        return check.verdict.exit_status
    sink = out.piece if out.mode is not Mode.JSON else None
    try:
        generation = session.generate([request.prompt], options, on_text=sink)[0]
    except KeyboardInterrupt:
        if sink is not None:
            # What was said stays, on a line of its own; Ctrl-C stops a reader as well.
            try:
                sink("\n")
            except BrokenPipeError:
                reader_has_gone()
        raise
    document = result_document(session, chosen, options, generation)
    if out.mode is Mode.JSON:
        out.document(document)
    else:
        out.piece("\n")
        out.note(
            f"{generation.tokens} tokens, {document['tokens_per_s']:.1f} tokens/s, "
            f"{session.mode} in {session.timings_s[session.mode]:.2f} s, "
            f"base {session.base.name} ({document['dtype']}, {document['device']})"
        )
    return check.verdict.exit_status


def _registry(home: Path | None) -> Registry:
    from adaptrix.registry.registry import Registry  # noqa: PLC0415

    return Registry(home)
