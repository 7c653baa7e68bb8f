"""Send a version to a remote."""

from __future__ import annotations

from typing import Annotated

import typer

from adaptrix.cli.options import DryRunFlag, HomeOption, JsonFlag, QuietFlag, ReferenceArgument
from adaptrix.cli.output import Output, size_text
from adaptrix.cli.progress import progress


def push(
    reference: ReferenceArgument,
    remote: Annotated[
        str, typer.Argument(help="REMOTE, REMOTE/NAME[:TAG] or oci://HOST/NAME[:TAG].")
    ] = "",
    tag: Annotated[str, typer.Option("--tag", help="Tag there; else the one here.")] = "",
    force: Annotated[
        bool, typer.Option("--force", help="Move a tag that points to something else.")
    ] = False,
    dry_run: DryRunFlag = False,
    home: HomeOption = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Send a version and what it descends from to a remote; only what is missing travels.

    Example: adaptrix push math team --tag v1
    """
    from adaptrix.registry.registry import Registry  # noqa: PLC0415

    out = Output(as_json=as_json, quiet=quiet)
    with Registry(home) as registry:
        report = registry.push(
            reference,
            remote,
            tag=tag,
            force=force,
            dry_run=dry_run,
            progress=progress(human=out.human),
        )
    sent = "would upload" if dry_run else "uploaded"
    line = (
        f"{report.remote}  {report.status}  {report.digest.short}  "
        f"{sent} {size_text(report.uploaded_bytes)}, "
        f"saved {size_text(report.skipped_bytes)}, {report.versions} version(s)"
    )
    fields = {name: getattr(report, name) for name in report.__slots__}
    out.document(fields, lines=[line], ids=[str(report.digest)])
    if report.ancestors_missing:
        out.note(f"note: {report.ancestors_missing} ancestor(s) are not here and did not travel")
