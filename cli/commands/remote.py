"""Manage remotes."""

from __future__ import annotations

from typing import Annotated

import typer

from adaptrix.cli.options import DryRunFlag, HomeOption, JsonFlag, QuietFlag
from adaptrix.cli.output import Output, table
from adaptrix.schema.errors import UsageError


def remote(
    action: Annotated[str, typer.Argument(help="add, ls or rm.")] = "ls",
    name: Annotated[str | None, typer.Argument(help="Its name here.")] = None,
    url: Annotated[
        str | None,
        typer.Argument(help="https://host[/prefix], oci://host[/prefix], a folder, or hf:org."),
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Allow plain http beyond this machine.")
    ] = False,
    dry_run: DryRunFlag = False,
    home: HomeOption = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Manage the places that adapters are shared with: add, ls, rm.

    Example: adaptrix remote add team https://registry.example/adapters
    """
    from adaptrix.registry.registry import Registry  # noqa: PLC0415

    out = Output(as_json=as_json, quiet=quiet)
    if (action, name is None, url is None) not in _FORMS:
        raise UsageError("expected add NAME URL, ls, or rm NAME", where=f"remote {action}")
    with Registry(home) as registry:
        if action == "add":
            registry.add_remote(str(name), str(url), insecure=insecure, dry_run=dry_run)
        elif action == "rm":
            registry.remove_remote(str(name), dry_run=dry_run)
        rows = registry.remotes.rows()
    if action == "add" and any(row.name == name and row.kind != "folder" for row in rows):
        out.hint(f"adaptrix login {name}, if it wants to know who you are")
    cells = [
        (r.name, r.kind, r.url, "login" if r.login else "-", "default" if r.default else "")
        for r in rows
    ]
    lines = table(("NAME", "KIND", "URL", "LOGIN", ""), cells) if rows else []
    out.document({"rows": rows}, lines=lines, ids=[row.name for row in rows])
    if action == "ls" and not rows:
        out.hint("none yet: adaptrix remote add NAME URL")


_FORMS = {("add", False, False), ("ls", True, True), ("rm", False, True)}
