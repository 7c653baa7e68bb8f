"""The lines of ``run --batch``: one JSON object each, checked before anything is loaded."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError, model_validator

from adaptrix.cli.parsing import weighted, weighted_list
from adaptrix.schema.errors import FormatError, NotFound, UsageError

Weight = Annotated[float, Field(allow_inf_nan=False)]


class Message(BaseModel):
    """One turn of a conversation, for bases with a chat template."""

    model_config = ConfigDict(extra="allow")

    role: str
    content: str


class BatchLine(BaseModel):
    """One line; what it leaves out is as the command line says.

    ``adapters`` is a list or a comma-separated text of ``NAME[=WEIGHT]``, or an object of
    weights; empty is the base alone. ``weights`` gives them apart: a list in the same
    order, or an object.
    """

    model_config = ConfigDict(extra="forbid")

    prompt: str | None = None
    messages: list[Message] | None = None
    adapters: str | list[str] | dict[str, Weight] | None = None
    weights: list[Weight] | dict[str, Weight] | None = None
    max_new_tokens: int | None = Field(
        default=None, validation_alias=AliasChoices("max_new_tokens", "max_tokens")
    )
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    id: Any = None

    @model_validator(mode="after")
    def _one_prompt(self) -> BatchLine:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("expected either prompt or messages")
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A line with its place.

    Attributes:
        where: File and line number, for messages.
        line: What it says.
        adapters: Names with weights; None where the command line's hold.
    """

    where: str
    line: BatchLine
    adapters: tuple[tuple[str, float], ...] | None

    def settings(self) -> dict[str, Any]:
        """What it says about generation."""
        line = self.line
        given = {
            "max_new_tokens": line.max_new_tokens,
            "temperature": line.temperature,
            "top_p": line.top_p,
            "top_k": line.top_k,
            "seed": line.seed,
        }
        found: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        if line.stop is not None:
            found["stop"] = (line.stop,) if isinstance(line.stop, str) else tuple(line.stop)
        return found


def read_rows(path: str, default: Sequence[tuple[str, float]]) -> list[Row]:
    """Every line of a JSONL file, or of stdin for ``-``; empty lines count for nothing.

    Args:
        path: The file.
        default: The command line's adapters, which a line's ``weights`` may speak of.

    Raises:
        NotFound: no such file.
        FormatError: a line is no JSON object of these fields; says which.
    """
    rows = []
    for number, text in enumerate(_lines(path), start=1):
        if not text.strip():
            continue
        where = f"{'stdin' if path == '-' else path}:{number}"
        try:
            line = BatchLine.model_validate_json(text)
        except ValidationError as error:
            raise FormatError(_first(error), where=where, hint="See run --help.") from error
        try:
            rows.append(Row(where=where, line=line, adapters=_adapters(line, default)))
        except UsageError as error:
            raise UsageError(error.message, where=where, hint=error.hint) from error
    if not rows:
        raise FormatError("no lines", where=path)
    return rows


def _lines(path: str) -> Iterator[bytes]:
    if path == "-":
        yield from sys.stdin.buffer
        return
    file = Path(path)
    if not file.is_file():
        raise NotFound("no such file", where=path)
    with file.open("rb") as stream:
        yield from stream


def _first(error: ValidationError) -> str:
    found = error.errors()[0]
    place = ".".join(str(part) for part in found["loc"])
    message = str(found["msg"]).removeprefix("Value error, ")
    return f"{place}: {message}" if place else message


def _adapters(
    line: BatchLine, default: Sequence[tuple[str, float]]
) -> tuple[tuple[str, float], ...] | None:
    given = line.adapters
    named: list[tuple[str, float]] | None
    if given is None:
        named = None if line.weights is None else list(default)
    elif isinstance(given, str):
        named = weighted_list(given) if given.strip() else []
    elif isinstance(given, list):
        named = [weighted(text) for text in given]
    else:
        named = list(given.items())
    if named is None:
        return None
    names = [name for name, _ in named]
    if len(set(names)) < len(names):
        raise UsageError("an adapter is named twice", where="adapters")
    return tuple(_reweighted(named, line.weights))


def _reweighted(
    named: list[tuple[str, float]], weights: Sequence[float] | Mapping[str, float] | None
) -> list[tuple[str, float]]:
    if weights is None:
        return named
    if isinstance(weights, Mapping):
        unknown = sorted(set(weights) - {name for name, _ in named})
        if unknown:
            raise UsageError(f"a weight for {unknown[0]}, which is not used", where="weights")
        return [(name, weights.get(name, weight)) for name, weight in named]
    if len(weights) != len(named):
        raise UsageError(f"{len(weights)} weights for {len(named)} adapters", where="weights")
    return [(name, weight) for (name, _), weight in zip(named, weights, strict=True)]
