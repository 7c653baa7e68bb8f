"""Examples: prompts, with answers where something is learned from them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from adaptrix.schema.errors import FormatError, NotFound

MAX_BYTES = 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One prompt, and the text that should follow it."""

    prompt: str
    answer: str = ""


def read_examples(path: Path, *, answers: bool) -> tuple[Example, ...]:
    """Read JSON lines with ``prompt`` and ``answer``; other keys are left alone.

    Raises:
        NotFound: there is no such file.
        FormatError: a line is no example, or has no answer where one is needed.
    """
    if not path.is_file():
        raise NotFound("no such file", where=str(path))
    if path.stat().st_size > MAX_BYTES:
        raise FormatError("more than 64 MiB of examples", where=str(path))
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if line.strip():
            found.append(_example(line, f"{path}:{number}", answers=answers))
    if not found:
        raise FormatError("no examples", where=str(path))
    return tuple(found)


def _example(line: str, where: str, *, answers: bool) -> Example:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise FormatError("no JSON", where=where) from error
    needed = ("prompt", "answer") if answers else ("prompt",)
    if not isinstance(row, dict) or any(not isinstance(row.get(key), str) for key in needed):
        raise FormatError(f"expected an object with {' and '.join(needed)}", where=where)
    answer = row.get("answer", "")
    return Example(prompt=row["prompt"], answer=answer if isinstance(answer, str) else "")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Batch:
    """Examples as token ids, padded on the right.

    Attributes:
        ids: ``(n, length)``.
        mask: ``(n, length)``, 1 where a token stands.
        labels: ``(n, length)``: ids of the answers' tokens, -100 elsewhere.
    """

    ids: torch.Tensor
    mask: torch.Tensor
    labels: torch.Tensor


def tokens_of(tokenizer: Any, examples: Sequence[Example], device: torch.device) -> Batch:
    """Prompts with their answers and an end of text, as one batch."""
    rows, starts = [], []
    end = tokenizer.eos_token_id
    for example in examples:
        prompt = tokenizer(example.prompt)["input_ids"]
        text = f"{example.prompt} {example.answer.strip()}" if example.answer else example.prompt
        whole = tokenizer(text)["input_ids"]
        if example.answer and end is not None and whole[-1] != end:
            whole = [*whole, end]
        # A tokenizer may end a prompt with a token of its own: what both share is the prompt.
        pairs = enumerate(zip(prompt, whole, strict=False))
        starts.append(
            next((n for n, (one, two) in pairs if one != two), min(len(prompt), len(whole)))
        )
        rows.append(whole)
    length = max(map(len, rows))
    ids = torch.zeros(len(rows), length, dtype=torch.long)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
    for index, (row, start) in enumerate(zip(rows, starts, strict=True)):
        ids[index, : len(row)] = torch.tensor(row)
        mask[index, : len(row)] = 1
        labels[index, start : len(row)] = torch.tensor(row[start:])
    return Batch(ids=ids.to(device), mask=mask.to(device), labels=labels.to(device))
