"""From errors to words and an exit status: one place."""

from __future__ import annotations

import json
import logging
import os
import sys
import traceback

from adaptrix.cli.output import clean
from adaptrix.schema.errors import AdaptrixError

DEBUG_VARIABLE = "ADAPTRIX_DEBUG"
INTERRUPTED = 130


def debugging() -> bool:
    """Whether tracebacks are wanted."""
    return os.environ.get(DEBUG_VARIABLE, "") not in {"", "0"}


def report(error: AdaptrixError, *, as_json: bool) -> int:
    """Print ``error`` on stderr and return its exit status."""
    if debugging():
        traceback.print_exception(error)
    hint = " ".join(error.hints())
    _say(error.code, error.message, hint, error.where, as_json=as_json)
    return error.exit_status


def show_warnings(*, as_json: bool) -> None:
    """Let what the library warns of (an index that was rebuilt …) reach people on stderr."""
    logging.getLogger("adaptrix").handlers = [
        logging.NullHandler() if as_json else _Warnings(logging.WARNING)
    ]


class _Warnings(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        sys.stderr.write(f"warning: {clean(record.getMessage())}\n")


def report_usage(message: str, *, as_json: bool) -> int:
    """Print a mistake in the arguments."""
    _say("usage", message, "See --help.", "command line", as_json=as_json)
    return 2


def report_unexpected(error: BaseException, *, as_json: bool) -> int:
    """Print an error that nobody foresaw, without a traceback unless it is asked for."""
    if debugging():
        traceback.print_exception(error)
    text = " ".join(f"{type(error).__name__}: {error}".split())[:400]
    hint = f"This is a bug. Set {DEBUG_VARIABLE}=1 for a traceback."
    _say("unexpected", text, hint, "", as_json=as_json)
    return 1


def report_system(error: OSError, *, as_json: bool) -> int:
    """Print what the operating system refused, such as a full disk behind stdout."""
    if debugging():
        traceback.print_exception(error)
    text = error.strerror or " ".join(str(error).split())[:400] or type(error).__name__
    _say("system", text, "", str(error.filename or ""), as_json=as_json)
    return 1


def report_interrupted(*, as_json: bool) -> int:
    """Print that the user stopped it."""
    _say("interrupted", "stopped; the store is consistent", "", "", as_json=as_json)
    return INTERRUPTED


def _say(code: str, message: str, hint: str, where: str, *, as_json: bool) -> None:
    if as_json:
        body = {"error": {"code": code, "message": message, "hint": hint, "where": where}}
        sys.stderr.write(json.dumps(body) + "\n")
        return
    place = f"{where}: " if where else ""
    sys.stderr.write(clean(f"error: {place}{message}") + "\n")
    if hint:
        sys.stderr.write(clean(f"hint: {hint}") + "\n")
