"""What ``pull`` prints, and ``pull --all``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from adaptrix.cli.output import Output, size_text
from adaptrix.cli.progress import progress
from adaptrix.schema.errors import UsageError

if TYPE_CHECKING:
    from adaptrix.registry.reports import PullReport


def pull_line(report: PullReport) -> str:
    """One pulled version."""
    form = f"{report.format}/{report.layout}".removesuffix("/")
    return (
        f"{report.reference}  {report.status}  {report.verdict}  {form}  "
        f"{report.architecture} ({report.confidence:.2f})  {report.modules} modules  "
        f"{size_text(report.bytes)}  {report.fidelity}"
    )


def next_step(report: PullReport) -> str:
    """What one does with a version that is here now."""
    from adaptrix.convert.diffusion.models import is_of_diffusion  # noqa: PLC0415

    name = report.reference.removesuffix(":latest")
    if is_of_diffusion(report.architecture):
        return f"adaptrix export {name} --for diffusers -o FOLDER"
    return f"adaptrix run --adapters {name} -p TEXT"


def pull_everything(
    remote: str, home: Path | None, out: Output, *, name: str | None, force: bool, dry_run: bool
) -> int:
    """Pull all that a remote has; returns the exit status.

    Raises:
        UsageError: a name was given, and there are many.
    """
    if name is not None:
        raise UsageError("--all keeps the names of the remote", where="--as")
    from adaptrix.registry.registry import Registry  # noqa: PLC0415

    with Registry(home) as registry:
        report = registry.pull_all(
            remote.removesuffix("/"),
            dry_run=dry_run,
            force=force,
            progress=progress(human=out.human),
        )
    fields = {name: getattr(report, name) for name in report.__slots__}
    lines = [pull_line(row) for row in report.rows]
    out.document(fields, lines=lines, ids=[row.reference for row in report.rows])
    for row in report.skipped:
        out.note(f"{'error' if row.failed else 'skipped'}: {row.reference}: {row.reason}")
    return 1 if any(row.failed for row in report.skipped) else 0
