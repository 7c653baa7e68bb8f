"""A pickle interpreter that can build plain containers and nothing else.

Python's unpickler imports what a file names and calls it. This one is written the other
way round: ``pickletools`` splits the stream into opcodes, and each opcode that has a row
in a table here pushes numbers, text, lists, dicts and tuples. A name in the stream
becomes a :class:`Global`, which is text; what "calling" one means is decided by the
:class:`Builder` of the caller. An opcode without a row is refused. So nothing has to be
blocked: there is no code here that could import or call something from a file.

Opcodes are described in the standard library's ``pickletools``.
"""

from __future__ import annotations

import pickletools
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any, Protocol, cast

from adaptrix.convert.limits import printable
from adaptrix.schema.errors import FormatError, PolicyRefused

MAX_OPCODES = 2_500_000
_MAX_INTEGER_BITS = 128
_IMPORTED = {"__builtin__": "builtins", "copy_reg": "copyreg"}


class Readable(Protocol):
    """What ``pickletools.genops`` reads from."""

    def read(self, size: int, /) -> bytes:
        """Return up to ``size`` bytes."""

    def readline(self) -> bytes:
        """Return the bytes up to and including the next newline."""


@dataclass(frozen=True, slots=True)
class Global:
    """A name in the stream, never looked up: ``module.name``."""

    module: str
    name: str

    def __str__(self) -> str:
        return printable(f"{self.module}.{self.name}"[:200])


class Ordered(dict[Any, Any]):
    """A dict that stands for a ``collections.OrderedDict``, whose attributes are dropped."""


class Builder(Protocol):
    """What names, calls and persistent ids of a stream mean."""

    def name(self, found: Global) -> object:
        """Value that a name stands for.

        Raises:
            PolicyRefused: the name is on no list.
        """

    def call(self, function: object, arguments: tuple[Any, ...]) -> object:
        """Value of ``function(*arguments)`` for a value that :meth:`name` returned.

        Raises:
            PolicyRefused: it cannot be called.
            FormatError: the arguments do not fit.
        """

    def persistent(self, identifier: object) -> object:
        """Value of a persistent id.

        Raises:
            FormatError: it is none of this builder's.
        """


def unpickle(stream: IO[bytes] | Readable, builder: Builder, where: str) -> object:
    """Read one pickle from ``stream`` and leave the position after it.

    Raises:
        FormatError: ``bad_pickle``: broken or truncated.
        PolicyRefused: ``unsafe_pickle``: it wants to build more than plain containers.
    """
    machine = _Machine(builder, where)
    try:
        with _quietly():
            for count, (opcode, argument, _) in enumerate(
                pickletools.genops(cast(IO[bytes], stream))
            ):
                if count == MAX_OPCODES:
                    raise PolicyRefused("too many pickle opcodes", where=where, code="limit")
                machine.step(opcode.name, argument)
        return machine.result()
    # IndexError: a pop from an empty stack; KeyError: an unknown memo entry.
    except (ValueError, LookupError, TypeError, EOFError, OverflowError) as error:
        raise FormatError(
            "the pickle is damaged or incomplete",
            where=where,
            code="bad_pickle",
            hint="Fetch the file again.",
        ) from error


def looks_like_pickle(head: bytes) -> bool:
    """Whether ``head`` is a pickle that names something, or the beginning of a long one.

    Text falls out at the first letters that are no opcodes; a pickle without a name is
    indistinguishable from text and harmless.
    """
    named, count = False, 0
    try:
        with _quietly():
            for opcode, _, _ in pickletools.genops(head):
                named |= opcode.name in _NAMING
                count += 1
    except ValueError:
        return named and count >= _MANY_OPCODES
    return named


@contextmanager
def _quietly() -> Iterator[None]:
    # pickletools decodes escapes in old strings, and Python warns of unknown ones.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


_MANY_OPCODES = 256
_NAMING = {"GLOBAL", "STACK_GLOBAL", "INST"}
SAVE_AGAIN = "Save the tensors alone, best as safetensors: nothing else is read from a pickle."


class _Machine:
    """Stack, marks and memo of a running pickle."""

    def __init__(self, builder: Builder, where: str) -> None:
        self.builder = builder
        self.where = where
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def step(self, opcode: str, argument: object) -> None:
        action = _ACTIONS.get(opcode)
        if action is None:
            raise PolicyRefused(
                f"pickle opcode {opcode} builds objects",
                where=self.where,
                code="unsafe_pickle",
                hint=SAVE_AGAIN,
            )
        action(self, argument)

    def result(self) -> object:
        (value,) = self.stack
        return value

    def push(self, value: object) -> None:
        self.stack.append(value)

    def integer(self, value: int) -> None:
        if value.bit_length() > _MAX_INTEGER_BITS:
            raise ValueError("huge integer")
        self.stack.append(value)

    def mark(self, _: object) -> None:
        self.marks.append(self.stack)
        self.stack = []

    def popped(self) -> list[Any]:
        above, self.stack = self.stack, self.marks.pop()
        return above

    def pop(self, _: object) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.drop()

    def drop(self) -> None:
        self.stack = self.marks.pop()

    def fold(self, size: int) -> None:
        start = len(self.stack) - size
        if start < 0:
            raise IndexError("stack is too short")
        self.stack[start:] = [tuple(self.stack[start:])]

    def extend(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not list:
            raise TypeError("append to what is no list")
        target.extend(values)

    def update(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict) or len(values) % 2:
            raise TypeError("items for what is no dict")
        target.update(_pairs(values))

    def remember(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def name(self, module: object, name: object) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise TypeError("a name that is no text")
        self.push(self.builder.name(Global(_IMPORTED.get(module, module), name)))

    def stack_name(self, _: object) -> None:
        name = self.stack.pop()
        self.name(self.stack.pop(), name)

    def call(self, _: object) -> None:
        arguments = self.stack.pop()
        if type(arguments) is not tuple:
            raise TypeError("arguments that are no tuple")
        self.stack[-1] = self.builder.call(self.stack[-1], arguments)

    def build(self, _: object) -> None:
        self.stack.pop()
        # A state dict carries its modules' versions as an attribute (``_metadata``).
        if not isinstance(self.stack[-1], Ordered):
            raise PolicyRefused(
                f"attributes for a {type(self.stack[-1]).__name__}",
                where=self.where,
                code="unsafe_pickle",
                hint=SAVE_AGAIN,
            )

    def persistent(self, _: object) -> None:
        self.push(self.builder.persistent(self.stack.pop()))

    def add_elements(self, _: object) -> None:
        values = self.popped()
        target = self.stack[-1]
        if type(target) is not set:
            raise TypeError("elements for what is no set")
        target.update(map(_key, values))


def _key(value: object) -> object:
    # Only scalars: the hash of nested tuples can be made to take for ever.
    if type(value) not in (str, int, float, bool, bytes, type(None)):
        raise TypeError("a key that is no text or number")
    return value


def _pairs(values: list[Any]) -> dict[Any, Any]:
    return {_key(key): value for key, value in zip(values[::2], values[1::2], strict=True)}


def _global(machine: _Machine, argument: str) -> None:
    module, _, name = argument.partition(" ")
    machine.name(module, name)


def _set_item(machine: _Machine, _: object) -> None:
    value = machine.stack.pop()
    key = machine.stack.pop()
    machine.update([key, value])


def _constant(value: object) -> Callable[[_Machine, Any], None]:
    return lambda machine, _: machine.push(value)


_ACTIONS: dict[str, Callable[[_Machine, Any], None]] = {
    "PROTO": lambda machine, _: None,
    "FRAME": lambda machine, _: None,
    "STOP": lambda machine, _: None,
    "MARK": _Machine.mark,
    "POP": _Machine.pop,
    "POP_MARK": lambda machine, _: machine.drop(),
    "DUP": lambda machine, _: machine.push(machine.stack[-1]),
    "NONE": _constant(None),
    "NEWTRUE": _constant(True),
    "NEWFALSE": _constant(False),
    **dict.fromkeys(("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4"), _Machine.integer),
    **dict.fromkeys(
        (
            "FLOAT", "BINFLOAT", "STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE",
            "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES",
            "BINBYTES8", "BYTEARRAY8",
        ),
        _Machine.push,
    ),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "LIST": lambda machine, _: machine.push(machine.popped()),
    "APPEND": lambda machine, _: machine.extend([machine.stack.pop()]),
    "APPENDS": lambda machine, _: machine.extend(machine.popped()),
    "EMPTY_TUPLE": _constant(()),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.popped())),
    "TUPLE1": lambda machine, _: machine.fold(1),
    "TUPLE2": lambda machine, _: machine.fold(2),
    "TUPLE3": lambda machine, _: machine.fold(3),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "DICT": lambda machine, _: machine.push(_pairs(machine.popped())),
    "SETITEM": _set_item,
    "SETITEMS": lambda machine, _: machine.update(machine.popped()),
    "EMPTY_SET": lambda machine, _: machine.push(set()),
    "ADDITEMS": _Machine.add_elements,
    "FROZENSET": lambda machine, _: machine.push(set(map(_key, machine.popped()))),
    **dict.fromkeys(
        ("GET", "BINGET", "LONG_BINGET"),
        lambda machine, index: machine.push(machine.memo[index]),
    ),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), _Machine.remember),
    "MEMOIZE": lambda machine, _: machine.remember(len(machine.memo)),
    "GLOBAL": _global,
    "STACK_GLOBAL": _Machine.stack_name,
    "REDUCE": _Machine.call,
    "BUILD": _Machine.build,
    "BINPERSID": _Machine.persistent,
}  # fmt: skip
"""Every opcode that may occur. INST, OBJ, NEWOBJ, NEWOBJ_EX, EXT* and PERSID have no row."""
