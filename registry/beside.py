"""Digests beside the work: SHA-256 runs without the interpreter's lock, on a core of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Generic, Self, TypeAlias, TypeVar

T = TypeVar("T")
OnBytes: TypeAlias = Callable[[int], None]


class _Left(Exception):
    """The block was left with an error."""


class Beside(Generic[T]):
    """A call in a thread of its own, for as long as the ``with`` block lasts.

    The call is given a function that it has to call with the number of bytes of each piece: when
    the block is left with an error, also one of the keyboard, the call ends at the next piece.
    """

    def __init__(self, call: Callable[[OnBytes], T]) -> None:
        self._call = call
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._run, name="adaptrix-digest", daemon=True)
        self._found: list[T] = []
        self._error: BaseException | None = None

    def result(self) -> T:
        """What the call returned; waits for it.

        Raises:
            Exception: whatever the call raised.
        """
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._found[0]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None:
            self._left.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            self._found.append(self._call(self._on_bytes))
        except BaseException as error:  # noqa: BLE001 - raised again where the result is wanted
            self._error = error

    def _on_bytes(self, _: int) -> None:
        if self._left.is_set():
            raise _Left
