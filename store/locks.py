"""Advisory locks. They save work and shorten races; no promise of the store rests on them.

Where a file system has no locks, or lies about them, the order of renames and the times
of last use still keep every blob that is needed (see ``store.gc``).
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from adaptrix.store.faults import StoreBusy, translated

_POLL_S = 0.02
_UNSUPPORTED = {errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL}


def try_lock(descriptor: int, *, shared: bool = False) -> bool:
    """Lock an open file without waiting; True also where there are no locks.

    Raises:
        OSError: another error than "held by somebody".
    """
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
    return True


@contextmanager
def locked(path: Path, *, shared: bool = False, timeout_s: float = 60.0) -> Iterator[None]:
    """Hold the lock file ``path`` for the block; the kernel lets go when the process dies.

    Raises:
        StoreBusy: others held it for all of ``timeout_s``.
        StoreReadOnly: the lock file cannot be made.
    """
    with translated(path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    try:
        deadline = time.monotonic() + timeout_s
        while not _try(descriptor, path, shared=shared):
            if time.monotonic() > deadline:
                raise StoreBusy(
                    f"another process has held the store for {timeout_s:g} s",
                    where=str(path),
                    hint="Try again when it is done.",
                )
            time.sleep(_POLL_S)
        yield
    finally:
        os.close(descriptor)


def _try(descriptor: int, path: Path, *, shared: bool) -> bool:
    with translated(path):
        return try_lock(descriptor, shared=shared)
