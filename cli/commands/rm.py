"""Remove a name."""

from __future__ import annotations

from adaptrix.cli.options import (
    DryRunFlag,
    HomeOption,
    JsonFlag,
    QuietFlag,
    ReferenceArgument,
    YesFlag,
)
from adaptrix.cli.output import Output
from adaptrix.cli.parsing import confirm


def rm(
    reference: ReferenceArgument,
    yes: YesFlag = False,
    dry_run: DryRunFlag = False,
    home: HomeOption = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Remove a name; the version itself stays until gc, after a grace period.

    Example: adaptrix rm math:v1 --yes
    """
    from adaptrix.registry.registry import Registry  # noqa: PLC0415

    with Registry(home) as registry:
        name = registry.rm(reference, dry_run=True)
        if not dry_run:
            confirm(f"Remove {name}?", yes=yes)
            registry.rm(reference)
    Output(as_json=as_json, quiet=quiet).document(
        {"reference": name, "removed": not dry_run},
        lines=[f"{'would remove' if dry_run else 'removed'} {name}"],
        ids=[name],
    )
