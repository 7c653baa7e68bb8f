"""Where a command's words go: data to stdout, everything else to stderr.

``--json`` prints one document with ``schema_version``; ``-q`` one identifier per line.
Text from files and servers is escaped, so that it cannot move the cursor or hide.
"""

from __future__ import annotations

import contextlib
import enum
import json
import math
import os
import sys
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from adaptrix.schema.digest import Digest
from adaptrix.schema.problems import Severity
from adaptrix.schema.report import Problem

SCHEMA_VERSION = 1
_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}
_DIRECTION = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
# Characters of our own lines, for terminals that cannot show them.
_ASCII = str.maketrans(
    {
        "…": "...",
        "·": "*",
        "×": "x",
        "→": "->",
        "–": "-",
        "—": "-",
        "‖": "||",
        "░": ".",
        "▒": "o",
        "▓": "O",
        "█": "#",
    }
)


class Mode(enum.StrEnum):
    """How to print."""

    HUMAN = "human"
    JSON = "json"
    QUIET = "quiet"


def clean(text: str) -> str:
    """One line of ``text``: control and direction characters made visible.

    A newline too: the name of a tensor could else print a line that looks like ours.
    """
    return "".join(
        char if char == "\t" or unicodedata.category(char) not in _HIDDEN else _visible(char)
        for char in text
    )


def clean_prose(text: str) -> str:
    """Generated text for a terminal: lines and joiners stay, escapes become visible."""
    return "".join(
        _visible(char)
        if (unicodedata.category(char) == "Cc" and char not in "\n\t")
        or unicodedata.bidirectional(char) in _DIRECTION
        else char
        for char in text
    )


def _visible(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")


def plain(value: Any) -> Any:
    """A value of ours as JSON types; NaN and infinity become null."""
    if isinstance(value, Digest | Path):
        return str(value)
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(entry) for entry in value]
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    return value


class Output:
    """The sink of one command."""

    def __init__(self, *, as_json: bool = False, quiet: bool = False) -> None:
        self.mode = Mode.JSON if as_json else Mode.QUIET if quiet else Mode.HUMAN

    @property
    def human(self) -> bool:
        """Whether people read it."""
        return self.mode is Mode.HUMAN

    def document(
        self, document: Mapping[str, Any], *, lines: Iterable[str] = (), ids: Iterable[str] = ()
    ) -> None:
        """Print one result in the chosen way.

        Args:
            document: For ``--json``; ``schema_version`` is added.
            lines: For people.
            ids: For ``-q``.
        """
        match self.mode:
            case Mode.JSON:
                body = {"schema_version": SCHEMA_VERSION, **plain(dict(document))}
                # ASCII: valid in every locale, and no character of it can steer a terminal.
                _write(sys.stdout, json.dumps(body))
            case Mode.QUIET:
                for line in ids:
                    _write(sys.stdout, clean(line))
            case Mode.HUMAN:
                for line in lines:
                    _write(sys.stdout, clean(line))

    def piece(self, text: str) -> None:
        """Stream generated text: to a pipe as it is, to a terminal without escapes.

        Only what the stream's encoding lacks is written as an escape: the text is the
        model's, so that none of it is put in other words.
        """
        _raw(sys.stdout, clean_prose(text) if sys.stdout.isatty() else text)

    def say(self, text: str) -> None:
        """Lines of ours, printed to people as soon as they are known."""
        if self.human:
            for line in text.split("\n"):
                _write(sys.stdout, clean(line))

    def note(self, text: str) -> None:
        """Say something on stderr, to people only."""
        if self.human:
            _write(sys.stderr, clean(text))

    def hint(self, text: str) -> None:
        """Suggest the next step."""
        self.note(f"hint: {text}")

    def problems(self, problems: Iterable[Problem]) -> None:
        """Print problems on stderr, with what to do; in JSON they are in the document."""
        if self.mode is Mode.JSON:
            return
        for problem in problems:
            if self.mode is Mode.QUIET and problem.severity is Severity.NOTE:
                continue
            place = f" [{problem.where}]" if problem.where else ""
            _write(
                sys.stderr, clean(f"{problem.severity}: {problem.code}{place}: {problem.message}")
            )
            if problem.hint:
                _write(sys.stderr, clean(f"  hint: {problem.hint}"))


def reader_has_gone() -> None:
    """Point stdout elsewhere, so that Python does not complain when it closes it."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def would(dry_run: bool) -> str:
    """What stands before a line that says what a dry run did not do."""
    return "would be: " if dry_run else ""


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """Aligned columns."""
    text = [[str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(len(row[column]) for row in text) for column in range(len(header))]
    return [
        "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()
        for row in text
    ]


def size_text(size_bytes: int) -> str:
    """A size for people."""
    value = float(size_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return ""


def _write(stream: Any, text: str) -> None:
    if not (stream.encoding or "utf-8").lower().replace("-", "").startswith("utf"):
        text = text.translate(_ASCII)
    _raw(stream, text + "\n")


def _raw(stream: Any, text: str) -> None:
    encoding = stream.encoding or "utf-8"
    stream.write(text.encode(encoding, errors="backslashreplace").decode(encoding))
    stream.flush()
