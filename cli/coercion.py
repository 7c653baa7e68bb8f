"""Plain values on the command line, without loading pydantic for them.

Typer turns every value into its type through pydantic, whose import takes longer than most
commands. A value that is absent, or text for a parameter that takes any text or path,
needs no conversion; everything else (numbers, bounds, choices) still goes through Typer.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from typer.core import TyperCommand, TyperGroup


class _Spared:
    """Stands where Typer keeps the converter of a parameter; makes the real one on demand."""

    def __init__(self, parameter: Any, annotation: object) -> None:
        self._parameter, self._annotation = parameter, annotation

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        if value is None and not param.multiple and param.nargs != -1:
            return None
        if self._annotation is str and type(value) is str:
            return value
        if self._annotation is Path and type(value) is str and "\0" not in value:
            return Path(value)
        self._parameter._runtime_param = None
        return self._parameter.get_runtime_param().coerce(value, param=param, ctx=ctx)


def _spare(parameters: list[Any]) -> list[Any]:
    for parameter in parameters:
        descriptor = getattr(parameter, "type_descriptor", None)
        # Another version of Typer has other parts: it costs time there, and nothing else.
        if descriptor is not None and getattr(parameter, "_runtime_param", 0) is None:
            found = descriptor.parameter_info
            own = any(getattr(found, name, None) for name in _OWN_RULES)
            annotation = None if own else descriptor.annotation
            parameter._runtime_param = _Spared(parameter, annotation)
    return parameters


_OWN_RULES = ("parser", "exists", "writable", "resolve_path", "allow_dash", "path_type")
"""What a parameter may ask of its value; one that asks is left to Typer."""


class Command(TyperCommand):
    """A command whose plain parameters need no pydantic."""

    def get_params(self, ctx: Any) -> list[Any]:
        """The parameters, ``--help`` included."""
        return _spare(super().get_params(ctx))


class Group(TyperGroup):
    """Likewise for the options before the command; what the commands do is said in full."""

    def get_params(self, ctx: Any) -> list[Any]:
        """The parameters, ``--help`` included."""
        return _spare(super().get_params(ctx))

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """The commands with the whole first sentence of their help, wrapped."""
        shown = [(name, command) for name, command in self.commands.items() if not command.hidden]
        with formatter.section("Commands"):
            formatter.write_dl(
                [(name, command.get_short_help_str(_WHOLE)) for name, command in shown]
            )


_WHOLE = 1000
"""Characters of a sentence that is not to be cut."""
