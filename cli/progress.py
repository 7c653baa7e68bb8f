"""A progress line on stderr, on a terminal only."""

from __future__ import annotations

import os
import sys
import time

from adaptrix.cli.output import clean, size_text

_WIDTH = 30
_INTERVAL_S = 0.1


class Bar:
    """Draws one line per file; follows ``hub.remote.Progress``."""

    def __init__(self) -> None:
        self._path, self._total, self._done, self._drawn_at = "", 0, 0, 0.0

    def start(self, path: str, total: int, offset: int) -> None:
        """A file begins."""
        self._path, self._total, self._done = clean(path), total, offset
        self._draw(force=True)

    def advance(self, count: int) -> None:
        """More bytes have come."""
        self._done += count
        self._draw(force=False)

    def finish(self) -> None:
        """The file is complete."""
        self._draw(force=True)
        sys.stderr.write("\n")

    def _draw(self, *, force: bool) -> None:
        now = time.monotonic()
        if not force and now - self._drawn_at < _INTERVAL_S:
            return
        self._drawn_at = now
        filled = _WIDTH * self._done // max(1, self._total)
        bar = "#" * filled + "." * (_WIDTH - filled)
        sys.stderr.write(f"\r{self._path[:40]:40} [{bar}] {size_text(self._done)}")
        sys.stderr.flush()


def progress(*, human: bool) -> Bar | None:
    """A bar when people watch a terminal, else None."""
    if not human or not sys.stderr.isatty() or os.environ.get("HF_HUB_DISABLE_PROGRESS_BARS"):
        return None
    return Bar()
