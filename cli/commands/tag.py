"""Give a version one more tag."""

from __future__ import annotations

from typing import Annotated

import typer

from adaptrix.cli.options import DryRunFlag, HomeOption, JsonFlag, QuietFlag, ReferenceArgument
from adaptrix.cli.output import Output, would


def tag(
    reference: ReferenceArgument,
    new_tag: Annotated[str, typer.Argument(metavar="TAG", help="The new tag.")],
    dry_run: DryRunFlag = False,
    home: HomeOption = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Give a version one more tag.

    Example: adaptrix tag math v1
    """
    from adaptrix.registry.registry import Registry  # noqa: PLC0415

    with Registry(home) as registry:
        made = registry.tag(reference, new_tag, dry_run=dry_run)
        digest = registry.digest(reference)
    Output(as_json=as_json, quiet=quiet).document(
        {"reference": made, "digest": digest},
        lines=[f"{would(dry_run)}{made}  {digest}"],
        ids=[made],
    )
