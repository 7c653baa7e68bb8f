"""Entry point: the application, and one place where errors become an exit status."""

from __future__ import annotations

import gc
import io
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from adaptrix.cli import errors
from adaptrix.cli.coercion import Command, Group
from adaptrix.cli.commands import COMMANDS, LATER
from adaptrix.cli.options import HomeOption
from adaptrix.cli.output import reader_has_gone
from adaptrix.schema.errors import AdaptrixError
from adaptrix.schema.version import VERSION

TRUE_WORDS = {"1", "true", "yes", "on"}
EPILOG = """Example: adaptrix demo

\b
Exit status: 0 done, PASS; 1 failed, FAIL; 2 usage or invalid input;
3 INCONCLUSIVE; 4 permission; 5 not found; 6 network or offline;
7 refused by policy; 130 interrupted, store consistent.
"""

app = typer.Typer(
    name="adaptrix",
    cls=Group,
    help="A verified, versioned, composable home for LoRA adapters.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["--help", "-h"]},
    epilog=EPILOG,
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"adaptrix {VERSION}")
        raise typer.Exit


@app.callback()
def root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    home: HomeOption = None,
) -> None:
    """A verified, versioned, composable home for LoRA adapters."""
    if home is not None:
        # Before the verb as well as after it; what stands after it wins.
        context.default_map = {name: {"home": home} for name in _verbs()}


def _verbs() -> tuple[str, ...]:
    return ("list", *(command.__name__ for command in COMMANDS))


for _command in COMMANDS:
    app.command(_command.__name__, cls=Command)(_command)
    if _command.__name__ == "ls":
        app.command("list", cls=Command, hidden=True)(_command)
for _command in LATER:
    app.command(
        _command.__name__,
        context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    )(_command)


def main() -> None:
    """Run the command line; never returns."""
    # What imports allocate is not garbage: looking through it takes a tenth of a command.
    gc.set_threshold(20_000, 50, 50)
    _open_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # Help holds characters that an ASCII terminal lacks.
            stream.reconfigure(errors="backslashreplace")
    sys.exit(run(sys.argv[1:]))


def _open_closed_streams() -> None:
    """A stream that the shell closed (``>&-``) swallows what is written, as in other tools."""
    if sys.stdout is None:
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115


def run(arguments: list[str]) -> int:
    """Run one command and return its exit status."""
    as_json = "--json" in arguments
    _tell_libraries()
    errors.show_warnings(as_json=as_json)
    try:
        result = app(arguments, prog_name="adaptrix", standalone_mode=False)
    except AdaptrixError as error:
        return errors.report(error, as_json=as_json)
    except (KeyboardInterrupt, EOFError, typer.Abort):
        return errors.report_interrupted(as_json=as_json)
    except BrokenPipeError:
        reader_has_gone()
        return 1
    except OSError as error:
        return errors.report_system(error, as_json=as_json)
    except Exception as error:  # noqa: BLE001 - the outermost edge
        bad = next((word for word in arguments if not _is_text(word)), None)
        if bad is not None and not hasattr(error, "exit_code"):
            # A path may hold any bytes; a pattern, a query or a prompt is text.
            return errors.report_usage(f"no valid UTF-8: {bad!r}", as_json=as_json)
        return _foreign(error, as_json=as_json)
    if result == errors.INTERRUPTED:
        # Typer turns an interrupt in some places into this status and says nothing.
        return errors.report_interrupted(as_json=as_json)
    return result if isinstance(result, int) else 0


def _is_text(word: str) -> bool:
    return all(not "\ud800" <= char <= "\udfff" for char in word)


def _tell_libraries() -> None:
    """Hand our switches to the Hub's client, which reads its own ones when it is imported."""
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    # transformers draws bars of its own while it reads a GGUF file.
    os.environ.setdefault("TQDM_DISABLE", "1")
    if os.environ.get("ADAPTRIX_OFFLINE", "").lower() in TRUE_WORDS:
        os.environ["HF_HUB_OFFLINE"] = "1"


def _foreign(error: Exception, *, as_json: bool) -> int:
    """Typer may carry its own copy of click, so its errors are told by their shape."""
    if hasattr(error, "format_message") and hasattr(error, "exit_code"):
        message = str(error.format_message())
        if type(error).__name__ == "NoArgsIsHelpError":
            typer.echo(message)
            return 2
        return errors.report_usage(message, as_json=as_json)
    if type(error).__name__ == "Exit" and hasattr(error, "exit_code"):
        return int(error.exit_code)
    if type(error).__name__ == "Abort":
        return errors.report_interrupted(as_json=as_json)
    return errors.report_unexpected(error, as_json=as_json)


if __name__ == "__main__":
    main()
