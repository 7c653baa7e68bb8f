"""Values that need no conversion get none; all others are Typer's."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from adaptrix.cli.coercion import Command, Group

_SHOWN = {"source", "names", "path", "alpha", "limit", "flag"}


def invoked(*arguments):
    """Exit status of a command, and what it gets from ``arguments``."""
    found = {}
    app = typer.Typer(cls=Group)

    @app.command(cls=Command)
    def verb(
        source: str,
        names: Annotated[list[str] | None, typer.Option("--name")] = None,
        path: Annotated[Path | None, typer.Option()] = None,
        alpha: Annotated[float | None, typer.Option()] = None,
        limit: Annotated[int, typer.Option(min=0)] = 3,
        here: Annotated[Path | None, typer.Option(exists=True)] = None,
        flag: Annotated[bool, typer.Option("--flag")] = False,
    ):
        found.update(locals())

    @app.command(cls=Command)
    def other():
        pass

    result = CliRunner().invoke(app, ["verb", *arguments])
    return result.exit_code, {name: found[name] for name in found if name in _SHOWN}


def test_plain_values_and_their_absence():
    assert invoked("x") == (0, {
        "source": "x", "names": None, "path": None, "alpha": None, "limit": 3, "flag": False,
    })  # fmt: skip


def test_values_with_a_type():
    status, found = invoked(
        "1", "--path", "a/b", "--alpha", "1.5", "--limit", "7", "--flag", "--name", "n"
    )
    assert status == 0
    assert found == {
        "source": "1", "names": ["n"], "path": Path("a/b"), "alpha": 1.5, "limit": 7, "flag": True,
    }  # fmt: skip


@pytest.mark.parametrize(
    "arguments",
    [[], ["x", "--alpha", "two"], ["x", "--limit", "-1"], ["x", "--here", "/nowhere/at/all"]],
)
def test_mistakes_are_still_found(arguments):
    assert invoked(*arguments) == (2, {})
