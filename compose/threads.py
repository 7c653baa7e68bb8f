"""One thread for small matrices: many fight over them, and on a busy machine all lose.

numpy's own OpenBLAS is asked through the symbol that numpy's builds carry; a build without
it is left alone.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable, Iterator
from functools import cache

import numpy as np

_PREFIXES = ("scipy_openblas_", "openblas_")
_SUFFIXES = ("64_", "")


@cache
def _switch() -> tuple[Callable[[], int], Callable[[int], None]] | None:
    """How many threads numpy's OpenBLAS has, and how to change that; None if it has none."""
    library = np.linalg._umath_linalg.__file__
    try:
        loaded = ctypes.CDLL(library)
    except OSError:
        return None
    for prefix in _PREFIXES:
        for suffix in _SUFFIXES:
            try:
                get = getattr(loaded, f"{prefix}get_num_threads{suffix}")
                change = getattr(loaded, f"{prefix}set_num_threads{suffix}")
            except AttributeError:
                continue
            return get, change
    return None


@contextlib.contextmanager
def one_blas_thread() -> Iterator[None]:
    """Within it, numpy multiplies on one thread."""
    switch = _switch()
    if switch is None:
        yield
        return
    get, change = switch
    before = get()
    change(1)
    try:
        yield
    finally:
        change(before)
