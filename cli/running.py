"""What ``run`` does: registry and loader, joined."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adaptrix.cli.output import Mode, Output
from adaptrix.schema.errors import IncompatibleAdapter, UsageError

if TYPE_CHECKING:
    from adaptrix.loader.generate import GenerateOptions, Generation
    from adaptrix.loader.plan import WeightedAdapter
    from adaptrix.loader.session import Session
    from adaptrix.registry.registry import Registry


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """Adapters that were opened, with the base they agree on."""

    adapters: tuple[WeightedAdapter, ...]
    digests: tuple[dict[str, Any], ...]
    base: str


def _require_distinct(references: Sequence[str]) -> None:
    """Refuse ``math,math:latest``: it would count one adapter twice.

    Raises:
        UsageError: two of them are the same name and tag.
    """
    if len(set(references)) < len(references):
        raise UsageError("an adapter is named twice", where="--adapters")


def choose(registry: Registry, wanted: Sequence[tuple[str, float]], base: str | None) -> Chosen:
    """Open the adapters; without ``--base`` they must declare the same one.

    Raises:
        IncompatibleAdapter: they declare different bases, or none; lists who wants what.
        UsageError: one is named twice.
    """
    from adaptrix.loader.plan import WeightedAdapter  # noqa: PLC0415

    opened = [(registry.open(text), weight) for text, weight in wanted]
    _require_distinct([stored.reference for stored, _ in opened])
    if base is None:
        declared = {stored.reference: stored.adapter.base_name for stored, _ in opened}
        names = set(declared.values())
        if len(names) != 1 or names == {""}:
            wants = ", ".join(
                f"{ref} wants {name or 'nothing declared'}" for ref, name in declared.items()
            )
            raise IncompatibleAdapter(
                f"no one base for all: {wants}", where="base model", hint="Pass --base."
            )
        base = names.pop()
    return Chosen(
        adapters=tuple(
            WeightedAdapter(name=stored.reference, adapter=stored.adapter, weight=weight)
            for stored, weight in opened
        ),
        digests=tuple(
            {"reference": stored.reference, "digest": str(stored.digest), "weight": weight}
            for stored, weight in opened
        ),
        base=base,
    )


def read_prompt(prompt: str | None, *, chat_possible: bool = True) -> str | None:
    """The prompt: ``-`` reads stdin; None on a terminal means a chat.

    Raises:
        UsageError: no prompt, and no terminal or no chat with these options.
    """
    if prompt == "-":
        return sys.stdin.read()
    if prompt is None and not (chat_possible and sys.stdin.isatty()):
        raise UsageError("no prompt", where="run", hint="Pass -p TEXT, or -p - to read stdin.")
    return prompt


def result_document(
    session: Session, chosen: Chosen, options: GenerateOptions, generation: Generation
) -> dict[str, Any]:
    """What ``run --json`` prints."""
    from adaptrix.loader.memory import peak_memory_bytes  # noqa: PLC0415

    base = session.base
    seconds = generation.seconds
    return {
        "text": generation.text,
        "adapters": chosen.digests,
        "base": base.name,
        "base_config_digest": str(base.config_digest),
        "mode": session.mode,
        "dtype": str(base.dtype).removeprefix("torch."),
        "compute_dtype": str(base.compute_dtype).removeprefix("torch."),
        "device": str(base.device),
        "seed": options.seed,
        "tokens": generation.tokens,
        "timings_s": {**session.timings_s, "generate": seconds},
        "tokens_per_s": generation.tokens / seconds if seconds else 0.0,
        "peak_memory_bytes": peak_memory_bytes(),
        "survival": session.check.survival,
        "verdict": session.check.verdict,
        "problems": session.check.problems,
    }


def compare(
    session: Session, chosen: Chosen, prompt: str, options: GenerateOptions
) -> Iterator[tuple[str, str]]:
    """Completions of the base, of each adapter alone, and of all together."""
    sets: list[tuple[str, dict[str, float]]] = [("base", {})]
    sets += [(entry.name, {entry.name: entry.weight}) for entry in chosen.adapters]
    if len(chosen.adapters) > 1:
        together = {entry.name: entry.weight for entry in chosen.adapters}
        sets.append((" + ".join(together), together))
    for label, weights in sets:
        session.use(weights)
        yield label, session.generate([prompt], options)[0].text


def chat(session: Session, options: GenerateOptions, out: Output) -> None:
    """One prompt a line until ``/exit`` or the end of input; Ctrl-C stops an answer."""
    sys.stderr.write("chat: one prompt a line, /exit to leave\n")
    while True:
        sys.stderr.write("> ")
        sys.stderr.flush()
        line = sys.stdin.readline()
        if not line or line.strip() in {"/exit", "/quit"}:
            return
        if not line.strip():
            continue
        started = time.perf_counter()
        try:
            done = session.generate(
                [_templated(session, line.rstrip("\n"))], options, on_text=out.piece
            )
        except KeyboardInterrupt:
            sys.stderr.write("\nstopped\n")
            continue
        out.piece("\n")
        spent = time.perf_counter() - started
        sys.stderr.write(f"({done[0].tokens} tokens, {spent:.1f} s)\n")


def _templated(session: Session, text: str) -> str:
    tokenizer = session.base.tokenizer
    if not getattr(tokenizer, "chat_template", None):
        return text
    message = [{"role": "user", "content": text}]
    return str(tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRequest:
    """What ``run`` was asked for; see the command."""

    adapters: list[tuple[str, float]]
    base: str | None
    prompt: str | None
    mode: str
    compare: bool
    device: str
    dtype: str
    max_new_tokens: int
    temperature: float
    top_p: float
    seed: int
    stop: tuple[str, ...]
    dry_run: bool


def execute(request: RunRequest, home: Path | None, out: Output) -> int:
    """Run it and return the exit status.

    Raises:
        AdaptrixError: it cannot be run.
    """
    # Said before torch is imported, so that a mistake costs no seconds.
    with _registry(home) as registry:
        chosen = choose(registry, request.adapters, request.base)
        quiet_libraries()
        from adaptrix.loader.base import base_structure, parse_device, parse_dtype  # noqa: PLC0415
        from adaptrix.loader.describe import describe_plan  # noqa: PLC0415
        from adaptrix.loader.generate import GenerateOptions  # noqa: PLC0415
        from adaptrix.loader.plan import plan  # noqa: PLC0415
        from adaptrix.loader.session import Session  # noqa: PLC0415

        options = GenerateOptions(
            max_new_tokens=request.max_new_tokens,
            temperature=request.temperature,
            top_p=request.top_p,
            seed=request.seed,
            stop=request.stop,
        )
        device, dtype = parse_device(request.device), parse_dtype(request.dtype)
        if request.dry_run:
            structure = base_structure(chosen.base)
            planned = plan(structure, chosen.adapters, mode=request.mode)
            document, lines = describe_plan(planned, structure, device, dtype)
            out.document(document, lines=lines)
            return 0
        session = Session.open(
            chosen.base, chosen.adapters, mode=request.mode, device=device, dtype=dtype
        )
        return _generate(session, chosen, request, options, out)


def _generate(
    session: Session, chosen: Chosen, request: RunRequest, options: GenerateOptions, out: Output
) -> int:
    session.self_check()
    check = session.check
    out.problems(check.problems)
    if request.prompt is None:
        chat(session, options, out)
        return check.verdict.exit_status
    if request.compare:
        found = list(compare(session, chosen, request.prompt, options))
        rows = [{"adapters": label, "text": text} for label, text in found]
        lines = [line for label, text in found for line in (f"{label}:", *text.splitlines())]
        out.document({"rows": rows, "base": session.base.name}, lines=lines)
        return check.verdict.exit_status
    sink = out.piece if out.mode is not Mode.JSON else None
    generation = session.generate([request.prompt], options, on_text=sink)[0]
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


def quiet_libraries() -> None:
    """Keep the libraries' own bars and advice off stderr."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    from transformers.utils import logging  # noqa: PLC0415

    logging.disable_progress_bar()


def _registry(home: Path | None) -> Registry:
    from adaptrix.registry.registry import Registry  # noqa: PLC0415

    return Registry(home)
