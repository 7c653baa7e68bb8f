"""Fetch a file into a sink: resumed, retried, and verified on the stream by us.

huggingface_hub checks sizes only; a flipped byte of the right length passes it. Here the
bytes are hashed as they arrive and compared with what the tree announced: large files
(sha256) by the sink, which also continues an interrupted attempt; small ones (git blob
id) here.
"""

from __future__ import annotations

import hashlib
import random
import re
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

from adaptrix.hub.faults import ContentMismatch, RateLimited, Restart, is_temporary
from adaptrix.hub.remote import Progress, Remote, RemoteFile, Silent, Sink, Snapshot
from adaptrix.hub.settings import HubSettings
from adaptrix.schema.errors import AdaptrixError, IntegrityError, RemoteError

_OID = re.compile(r"[0-9a-f]{40}")


def fetch_file(
    remote: Remote,
    snapshot: Snapshot,
    file: RemoteFile,
    open_sink: Callable[[], AbstractContextManager[Sink]],
    *,
    settings: HubSettings,
    progress: Progress | None = None,
    pause: Callable[[float], None] = time.sleep,
) -> int:
    """Fetch ``file``; returns the bytes that travelled.

    Bytes of the right length that hash to something else are fetched anew once.

    Args:
        remote: Where from.
        snapshot: The commit.
        file: The file; it must announce a digest.
        open_sink: Opens the writer for one attempt. Leaving it verifies ``file.sha256``,
            where there is one, and publishes the bytes.
        settings: Attempts and pauses.
        progress: Told of the bytes.
        pause: Sleeps.

    Raises:
        IntegrityError: the bytes are not what was announced, twice.
        AdaptrixError: the last attempt's error.
    """
    where = f"{snapshot.repository}@{snapshot.commit[:12]}:{file.path}"
    if file.sha256 is None and not _OID.fullmatch(file.git_oid or ""):
        raise IntegrityError("the remote announces no digest for this file", where=where)
    watcher = progress or Silent()
    mismatches = attempt = travelled = 0
    while True:
        try:
            travelled += _attempt(remote, snapshot, file, open_sink, watcher, where)
        except IntegrityError:
            mismatches += 1
            if mismatches > 1:
                raise
        except AdaptrixError as error:
            attempt += 1
            if not is_temporary(error) or attempt >= settings.attempts:
                raise
            pause(pause_s(error, attempt, settings))
        else:
            watcher.finish()
            return travelled


def _attempt(
    remote: Remote,
    snapshot: Snapshot,
    file: RemoteFile,
    open_sink: Callable[[], AbstractContextManager[Sink]],
    progress: Progress,
    where: str,
) -> int:
    git = hashlib.sha1(f"blob {file.size_bytes}\0".encode(), usedforsecurity=False)
    travelled = 0
    with open_sink() as sink:
        start = sink.offset
        if file.sha256 is None and start:
            sink.restart()
            start = 0
        progress.start(file.path, file.size_bytes, start)
        try:
            for chunk in remote.stream(snapshot, file, offset=start):
                travelled += len(chunk)
                if start + travelled > file.size_bytes:
                    raise ContentMismatch(
                        where=where,
                        expected=f"{file.size_bytes} bytes",
                        actual="more",
                        size_bytes=start + travelled,
                    )
                git.update(chunk)
                sink.write(chunk)
                progress.advance(len(chunk))
        except Restart:
            sink.restart()
            raise
        if start + travelled < file.size_bytes:
            raise RemoteError(
                f"the connection ended after {start + travelled} of {file.size_bytes} bytes",
                where=where,
                hint="Pull again: it goes on from there.",
                code="truncated",
            )
        if file.sha256 is None and git.hexdigest() != file.git_oid:
            raise ContentMismatch(
                where=where,
                expected=f"git:{file.git_oid}",
                actual=f"git:{git.hexdigest()}",
                size_bytes=travelled,
            )
    return travelled


def pause_s(error: AdaptrixError, attempt: int, settings: HubSettings) -> float:
    """Seconds to wait after the ``attempt``-th failure: what the server asks for, capped."""
    asked = error.pause_s if isinstance(error, RateLimited) else None
    if asked is None:
        asked = settings.backoff_s * 2 ** (attempt - 1) * random.uniform(0.8, 1.2)  # noqa: S311
    return min(asked, settings.longest_pause_s)
