"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from adaptrix.schema.errors import UsageError


def _exclusive(context: typer.Context, wanted: bool) -> bool:
    """Refuse ``--json`` with ``-q`` before anything is done."""
    if wanted and any(context.params.get(name) for name in ("as_json", "quiet")):
        raise UsageError("--json and --quiet exclude each other", where="command line")
    return wanted


JsonFlag = Annotated[
    bool, typer.Option("--json", callback=_exclusive, help="One JSON document on stdout.")
]
QuietFlag = Annotated[
    bool, typer.Option("--quiet", "-q", callback=_exclusive, help="One identifier per line.")
]
DryRunFlag = Annotated[
    bool, typer.Option("--dry-run", help="Say what would happen; change nothing.")
]
LimitOption = Annotated[
    int, typer.Option("--limit", min=0, help="At most so many; 0 for all.", show_default=False)
]
YesFlag = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
HomeOption = Annotated[
    Path | None,
    typer.Option("--home", help="Registry folder [env: ADAPTRIX_HOME].", show_default=False),
]
BaseOption = Annotated[
    str | None,
    typer.Option("--base", help="Base model: a folder, a config.json, a Hub id or 'sample'."),
]
AlphaOption = Annotated[
    float | None, typer.Option("--alpha", help="LoRA alpha, for formats that do not store it.")
]
LayoutOption = Annotated[
    str | None,
    typer.Option(
        "--source-layout",
        help="Where the file does not tell: phi-l1 … phi-l5, merged-qv …, peft-0.18.",
    ),
]
TargetLayoutOption = Annotated[
    str | None,
    typer.Option(
        "--target-layout",
        help="Other names than those of the base's current class: split, transformers-4, "
        "or a family such as llama or phi3.",
    ),
]
RevisionOption = Annotated[
    str | None, typer.Option("--revision", help="Branch, tag or commit on the Hub.")
]
SourceArgument = Annotated[
    str, typer.Argument(help="org/repo, hf:org/repo@rev, a Hub URL, a file or a folder.")
]
ReferenceArgument = Annotated[str, typer.Argument(help="NAME[:TAG], name~1 or a digest.")]
CarryFlag = Annotated[
    bool, typer.Option("--carry", help="Keep what is known and no LoRA (IA³, OFT …) as it is.")
]
AllFlag = Annotated[bool, typer.Option("--all", help="SOURCE is a remote: pull all that it has.")]
ForceFlag = Annotated[
    bool, typer.Option("--force", help="Let NAME move to what it does not lead to.")
]
