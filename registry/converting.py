"""Convert: a source or a stored version, written in another format."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

from adaptrix.convert.reading import refusal
from adaptrix.convert.writing import WrittenFile, write_adapter
from adaptrix.registry.opening import read_source
from adaptrix.registry.recording import note_reading, recorded
from adaptrix.registry.reports import ConvertReport
from adaptrix.registry.requests import PullRequest
from adaptrix.registry.settings import Settings
from adaptrix.schema.errors import AccessDenied, StoreError, UsageError
from adaptrix.schema.report import Fidelity
from adaptrix.store.home import Home
from adaptrix.store.new_folder import appearing, require_new_folder, staging


def convert(
    existing_home: Callable[[], Home | None],
    home: Callable[[], Home],
    settings: Settings,
    request: PullRequest,
    *,
    to: str,
    output: Path,
    layout: str | None = None,
) -> ConvertReport:
    """See :meth:`Registry.convert`.

    The files appear together: they are written beside ``output`` and moved there last.

    Raises:
        UsageError: ``output`` exists and is not empty.
        AdaptrixError: the source cannot be read, or the format cannot hold it.
    """
    log = recorded(existing_home, "convert", request.source, target=to)
    with nullcontext() if request.dry_run else log:
        reading = read_source(existing_home, home, settings, request)
        note_reading(reading.inspection)
        if reading.adapter is None:
            raise refusal(reading)
        written = write_adapter(reading.adapter, to, layout=layout)
        single = len(written.files) == 1 and bool(output.suffix) and not output.is_dir()
        if not request.dry_run:
            with _reported(output):
                _write(written.files, output, single=single)
        source = reading.inspection
        lossless = source.fidelity is Fidelity.EXACT
        return ConvertReport(
            path=str(output),
            format=to,
            source_format=source.format.name,
            fidelity=written.fidelity if lossless else source.fidelity,
            max_abs_error=written.max_abs_error,
            tensors=written.tensors,
            bytes=sum(file.size_bytes for file in written.files),
            files=tuple(file.path for file in written.files),
            verdict=source.verdict,
            problems=(*source.problems, *written.problems),
        )


def _write(files: tuple[WrittenFile, ...], output: Path, *, single: bool) -> None:
    if not single:
        require_new_folder(output)
        with appearing(output) as place:
            _write_to(place, files)
        return
    if output.exists():
        raise UsageError("the file is there already", where=str(output))
    with staging(output) as place:
        _write_to(place, files)
        (place / files[0].path).rename(output)


def _write_to(place: Path, files: tuple[WrittenFile, ...]) -> None:
    for file in files:
        path = place / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as sink:
            for chunk in file.chunks():
                sink.write(chunk)
            sink.flush()
            os.fsync(sink.fileno())


@contextlib.contextmanager
def _reported(output: Path) -> Iterator[None]:
    try:
        yield
    except PermissionError as error:
        raise AccessDenied("may not be written", where=str(output)) from error
    except OSError as error:
        raise StoreError(error.strerror or "cannot be written", where=str(output)) from error
