"""Threads that each run torch on one core.

Work on large weights goes tile by tile through a scratch that stays in a core's cache.
Split inside every operation, as torch does, a tile would be handed from core to core and
each of its steps would end in a barrier; split by tiles, no thread waits for another.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import cache
from typing import TypeVar

import torch

SCRATCH_ELEMENTS = 1 << 18
"""Elements of one scratch: 1 MiB of float32. Four of them leave a core's L2 for the cache
behind it; quarters that fit lose more to calls than they gain."""

T = TypeVar("T")
_own = threading.local()


class Workers:
    """A fixed number of threads, started at once."""

    def __init__(self, count: int) -> None:
        self.count = count
        mine = torch.get_num_threads()
        self._pool = ThreadPoolExecutor(count, "adaptrix", initializer=_one_thread)
        started = threading.Barrier(count + 1)
        for _ in range(count):
            self._pool.submit(started.wait)
        started.wait()
        # Setting it in a thread also sets what later threads of the process begin with.
        torch.set_num_threads(mine)

    def run(self, tasks: Sequence[Callable[[], T]], sizes: Sequence[int] = ()) -> list[T]:
        """Run all tasks, the largest of ``sizes`` first; returns their results in order.

        Returns or raises only when no task is running any more, so that nothing is written
        behind the caller's back after a failure or an interrupt.
        """
        inference = torch.is_inference_mode_enabled()
        order = list(range(len(tasks)))
        if sizes:
            # A large one begun last would keep one thread busy and the others waiting.
            order.sort(key=lambda number: -sizes[number])
        futures = {n: self._pool.submit(_in_mode, tasks[n], inference) for n in order}
        try:
            return [futures[number].result() for number in range(len(tasks))]
        except BaseException:
            _stop(list(futures.values()))
            raise


def _stop(futures: list[Future[T]]) -> None:
    for future in futures:
        future.cancel()
    wait(futures)


def _one_thread() -> None:
    # The first question in a thread takes over what the process has; later it would undo ours.
    torch.get_num_threads()
    torch.set_num_threads(1)


def _in_mode(task: Callable[[], T], inference: bool) -> T:
    # Grad and inference mode belong to a thread.
    with torch.inference_mode(inference), torch.no_grad():
        return task()


@cache
def _workers(count: int) -> Workers:
    return Workers(count)


def workers() -> Workers:
    """As many as torch uses threads."""
    return _workers(torch.get_num_threads())


def scratch(number: int, dtype: torch.dtype, elements: int = SCRATCH_ELEMENTS) -> torch.Tensor:
    """This thread's scratch of that number and dtype, at least ``elements`` long.

    Its content is whatever the last user left.
    """
    held: dict[tuple[int, torch.dtype], torch.Tensor] = _own.__dict__.setdefault("scratch", {})
    found = held.get((number, dtype))
    if found is None or len(found) < elements:
        # An inference tensor could not be written outside inference mode later.
        with torch.inference_mode(False):
            found = held[number, dtype] = torch.empty(max(elements, SCRATCH_ELEMENTS), dtype=dtype)
    return found
