"""Commands of the contract that are not there yet; each says so and exits 2."""

from __future__ import annotations

from typing import Annotated

import typer

from adaptrix.cli.parsing import not_yet

Words = Annotated[list[str] | None, typer.Argument(help="Ignored for now.")]


def diff(words: Words = None) -> None:
    """Compare two versions by module (not there yet).

    Example: adaptrix diff math~1 math
    """
    raise not_yet("diff")


def remote(words: Words = None) -> None:
    """Manage remotes: add, ls, rm (not there yet).

    Example: adaptrix remote add team https://registry.example
    """
    raise not_yet("remote")


def login(words: Words = None) -> None:
    """Log in to a remote (not there yet).

    Example: adaptrix login team
    """
    raise not_yet("login")


def push(words: Words = None) -> None:
    """Send a version to a remote (not there yet).

    Example: adaptrix push math team
    """
    raise not_yet("push")


def serve(words: Words = None) -> None:
    """Serve this registry to a team (not there yet).

    Example: adaptrix serve --port 8080
    """
    raise not_yet("serve")
