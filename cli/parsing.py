"""Small parsers for the command line."""

from __future__ import annotations

import math
import sys

import typer

from adaptrix.schema.errors import UsageError


def weighted(text: str) -> tuple[str, float]:
    """``NAME`` or ``NAME=WEIGHT``.

    Raises:
        UsageError: the weight is no finite number, or the name is missing.
    """
    name, equals, weight_text = text.partition("=")
    if not name:
        raise UsageError("expected NAME[=WEIGHT]", where=repr(text))
    if not equals:
        return name, 1.0
    try:
        weight = float(weight_text)
    except ValueError as error:
        raise UsageError(f"{weight_text!r} is no number", where=name) from error
    if not math.isfinite(weight):
        raise UsageError("a weight must be a finite number", where=name)
    return name, weight


def setting(text: str) -> tuple[str, float]:
    """``NAME=VALUE``.

    Raises:
        UsageError: it is not, or the value is no finite number.
    """
    name, equals, _ = text.partition("=")
    if not name or not equals:
        raise UsageError("expected NAME=VALUE", where=repr(text))
    return weighted(text)


def weighted_list(text: str) -> list[tuple[str, float]]:
    """``A[=w],B[=w]``; each name once.

    Raises:
        UsageError: empty, or a name twice.
    """
    found = [weighted(part.strip()) for part in text.split(",") if part.strip()]
    if not found:
        raise UsageError("expected NAME[=WEIGHT],…", where="--adapters")
    names = [name for name, _ in found]
    if len(set(names)) < len(names):
        raise UsageError("an adapter is named twice", where="--adapters")
    return found


def not_yet(what: str) -> UsageError:
    """The error of a command that belongs to a later release."""
    return UsageError(
        f"{what} is not there yet", code="not_yet", hint="The README lists what there is."
    )


def confirm(question: str, *, yes: bool) -> None:
    """Ask on a terminal; elsewhere ``--yes`` is needed.

    Raises:
        UsageError: no terminal, and no ``--yes``.
        typer.Abort: the answer is no.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError("not confirmed", hint="Pass --yes.")
    # typer.confirm writes a space to stdout, where data belongs.
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in {"y", "yes"}:
        raise typer.Abort
