"""Commands of the contract that are not there yet; each says so and exits 2."""

from __future__ import annotations

from typing import Annotated

import typer

from adaptrix.cli.parsing import not_yet

Words = Annotated[list[str] | None, typer.Argument(help="Ignored for now.")]


def serve(words: Words = None) -> None:
    """Serve this registry to a team (not there yet).

    Example: adaptrix serve --port 8080
    """
    raise not_yet("serve")
