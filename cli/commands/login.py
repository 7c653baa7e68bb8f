"""Log in to a remote."""

from __future__ import annotations

import getpass
import sys
from typing import Annotated

import typer

from adaptrix.cli.options import HomeOption, JsonFlag, QuietFlag
from adaptrix.cli.output import Output
from adaptrix.schema.errors import UsageError

MAX_SECRET = 64 << 10


def login(
    remote: Annotated[str | None, typer.Argument(help="Remote; else the default one.")] = None,
    username: Annotated[
        str, typer.Option("--username", "-u", help="User; without one, a bearer token.")
    ] = "",
    home: HomeOption = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Log in to a remote: the password or token comes from stdin, never from an argument.

    It is tried first, then kept in a file that only you can read.

    Example: adaptrix login team --username me < token.txt
    """
    from adaptrix.registry.registry import Registry  # noqa: PLC0415

    out = Output(as_json=as_json, quiet=quiet)
    with Registry(home) as registry:
        name = remote or registry.remotes.default_name()
        if not name:
            raise UsageError("which remote?", where="login", hint="adaptrix remote ls")
        registry.remotes.get(name)
        url = registry.log_in(name, username=username, secret=_secret(name))
    out.document(
        {"remote": name, "url": url, "username": username},
        lines=[f"logged in to {name} ({url})"],
        ids=[name],
    )


def _secret(name: str) -> str:
    if sys.stdin.isatty():
        text = getpass.getpass(f"Password or token for {name}: ", stream=sys.stderr)
    else:
        text = sys.stdin.read(MAX_SECRET + 1)
    secret = text.strip("\r\n")
    if not secret or len(secret) > MAX_SECRET or not secret.isprintable():
        raise UsageError(
            "expected one line with the password or token on stdin",
            where="login",
            hint="adaptrix login REMOTE < token.txt",
        )
    return secret
