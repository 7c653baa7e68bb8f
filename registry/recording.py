"""What was converted, and how it went: every pull and convert leaves a row in the log."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime

from adaptrix.schema.errors import (
    AdaptrixError,
    FormatError,
    IncompatibleAdapter,
    PolicyRefused,
    Refused,
)
from adaptrix.schema.report import Inspection
from adaptrix.store.conversions import Conversion, log_conversion
from adaptrix.store.home import INDEX_FILE, Home

_REFUSALS = (FormatError, IncompatibleAdapter, PolicyRefused, Refused)
"""Errors that the content of a source causes."""
MAX_SOURCE_CHARACTERS = 500


@dataclass(slots=True, kw_only=True)
class Attempt:
    """A conversion under way.

    Attributes:
        target: Format that is to be written.
        inspection: What the source turned out to be; None until it is read.
    """

    target: str
    inspection: Inspection | None = None


_CURRENT: ContextVar[Attempt | None] = ContextVar("attempt", default=None)


def note_reading(inspection: Inspection) -> None:
    """Tell the attempt under way, if there is one, what its source is."""
    attempt = _CURRENT.get()
    if attempt is not None:
        attempt.inspection = inspection


@contextmanager
def recorded(
    home: Callable[[], Home | None], verb: str, source: str, *, target: str = "peft"
) -> Iterator[None]:
    """Log the conversion that the block makes; a block that reads no source logs nothing.

    Args:
        home: The home whose log it is, or None when there is none.
        verb: ``pull`` or ``convert``.
        source: As the user named it.
        target: Format that is written.
    """
    attempt, started = Attempt(target=target), time.perf_counter()
    token = _CURRENT.set(attempt)
    failure: AdaptrixError | None = None
    try:
        yield
    except AdaptrixError as error:
        failure = error
        raise
    finally:
        _CURRENT.reset(token)
        if failure is not None or attempt.inspection is not None:
            seconds = time.perf_counter() - started
            _log(home, _row(attempt, failure, verb=verb, source=source, seconds=seconds))


def _log(home: Callable[[], Home | None], row: Conversion) -> None:
    with suppress(AdaptrixError):  # the log never fails what it is about
        opened = home()
        if opened is None or opened.read_only:
            return
        path = opened.path / INDEX_FILE
        if not path.exists():
            opened.index.last_move()  # opening makes it
        log_conversion(path, row)


def _row(
    attempt: Attempt, failure: AdaptrixError | None, *, verb: str, source: str, seconds: float
) -> Conversion:
    seen = attempt.inspection
    return Conversion(
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        verb=verb,
        # A path may hold bytes that are no text.
        source=source[:MAX_SOURCE_CHARACTERS].encode("utf-8", "backslashreplace").decode(),
        target=attempt.target,
        outcome=_outcome(attempt, failure),
        code=failure.code if failure else "",
        format=seen.format.name if seen else "",
        method=seen.format.method if seen else "",
        architecture=seen.architecture.family if seen else "",
        fidelity=str(seen.fidelity) if seen else "",
        verdict=str(seen.verdict) if seen else "",
        modules=len(seen.modules) if seen else 0,
        bytes=seen.bytes if seen else 0,
        seconds=seconds,
    )


def _outcome(attempt: Attempt, failure: AdaptrixError | None) -> str:
    if failure is None:
        return "done"
    stopped = attempt.inspection is not None and not attempt.inspection.convertible
    return "refused" if stopped or isinstance(failure, _REFUSALS) else "failed"
