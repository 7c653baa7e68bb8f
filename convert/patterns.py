"""Regular expressions from other people's files, matched in linear time.

``rank_pattern`` and ``alpha_pattern`` are regular expressions that come with an adapter.
Python's ``re`` backtracks, so a short hostile pattern can hold a process for hours. This
matcher simulates an automaton instead (Thompson 1968): literals, ``.``, escapes, classes,
groups, ``|``, ``* + ?``, ``{m,n}``, ``^``, ``$``. Everything else is refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

from adaptrix.schema.errors import FormatError

MAX_PATTERN_CHARACTERS = 1024
_MAX_STATES = 4096
_SPECIAL = frozenset("\\[](){}*+?|^$")
Test: TypeAlias = "Callable[[str], bool]"


@dataclass(slots=True)
class _State:
    """A state: consumes one character that passes ``test``, or passes on at once."""

    test: Test | None = None
    anchor: str = ""
    out: list[int] = field(default_factory=list)


class Pattern:
    """A pattern that is matched against whole texts."""

    def __init__(self, text: str) -> None:
        """Compile ``text``.

        Raises:
            FormatError: ``unsupported_pattern``.
        """
        self.text = text
        if len(text) > MAX_PATTERN_CHARACTERS:
            raise _unsupported(text, "is too long")
        # Nearly every pattern is a module path: a dot in it stands for any character.
        self._literal = not (_SPECIAL & set(text))
        self._states: list[_State] = []
        self._start = self._end = -1
        if not self._literal:
            parser = _Parser(text, self._states)
            self._start, self._end = parser.parse()

    def fullmatch(self, text: str) -> bool:
        """Whether all of ``text`` matches."""
        if self._literal:
            return self._same(text)
        return self._run(text, anywhere=False)

    def matches_suffix(self, text: str, *, needs_dot: bool = False) -> bool:
        r"""Whether ``(.*\.)?(pattern)$`` matches, or ``.*\.pattern$`` with ``needs_dot``."""
        if self._literal:
            size = len(self.text)
            tail, before = text[len(text) - size :], text[: max(len(text) - size, 0)]
            if len(tail) != size or not self._same(tail):
                return False
            return before.endswith(".") if before else not needs_dot
        if not needs_dot and self._run(text, anywhere=False):
            return True
        return self._run(text, anywhere=True)

    def _same(self, text: str) -> bool:
        if text == self.text:
            return True
        same_length = len(text) == len(self.text)
        return same_length and all(p in (".", c) for p, c in zip(self.text, text, strict=True))

    def _run(self, text: str, *, anywhere: bool) -> bool:
        """Simulate; with ``anywhere`` a match may begin after any dot."""
        current: set[int] = set() if anywhere else self._close({self._start}, 0, len(text))
        for position, character in enumerate(text, start=1):
            nexts = {
                target
                for state in current
                if (test := self._states[state].test) is not None and test(character)
                for target in self._states[state].out
            }
            if anywhere and character == ".":
                nexts.add(self._start)
            current = self._close(nexts, position, len(text))
        return self._end in current

    def _close(self, states: set[int], position: int, length: int) -> set[int]:
        seen, stack = set(states), list(states)
        while stack:
            state = self._states[stack.pop()]
            if state.test is not None or not _anchored(state.anchor, position, length):
                continue
            fresh = [target for target in state.out if target not in seen]
            seen.update(fresh)
            stack.extend(fresh)
        return seen


def _anchored(anchor: str, position: int, length: int) -> bool:
    return (anchor != "^" or position == 0) and (anchor != "$" or position == length)


class _Parser:
    """Recursive descent; every production returns the first and last state of its part."""

    def __init__(self, text: str, states: list[_State]) -> None:
        self.text, self.at, self.states, self.depth = text, 0, states, 0

    def parse(self) -> tuple[int, int]:
        part = self._choice()
        if self.at != len(self.text):
            raise _unsupported(self.text, "has an unbalanced ')'")
        return part

    def _new(self, test: Test | None = None, anchor: str = "") -> int:
        if len(self.states) >= _MAX_STATES:
            raise _unsupported(self.text, "is too large")
        self.states.append(_State(test, anchor))
        return len(self.states) - 1

    def _join(self, start: int, end: int) -> None:
        self.states[start].out.append(end)

    def _choice(self) -> tuple[int, int]:
        self.depth += 1
        if self.depth > 20:
            raise _unsupported(self.text, "is nested too deeply")
        first, last = self._new(), self._new()
        while True:
            begin, end = self._sequence()
            self._join(first, begin)
            self._join(end, last)
            if self._peek() != "|":
                self.depth -= 1
                return first, last
            self.at += 1

    def _sequence(self) -> tuple[int, int]:
        first = last = self._new()
        while self._peek() not in ("", "|", ")"):
            begin_at, (begin, end) = self.at, self._atom()
            begin, end = self._repeat(begin_at, begin, end)
            self._join(last, begin)
            last = end
        return first, last

    def _peek(self) -> str:
        return self.text[self.at : self.at + 1]

    def _atom(self) -> tuple[int, int]:
        character = self._peek()
        self.at += 1
        if character == "(":
            return self._group()
        if character in "^$":
            first = self._new(anchor=character)
            last = self._new()
            self._join(first, last)
            return first, last
        if character in "*+?{":
            raise _unsupported(self.text, f"repeats nothing with {character!r}")
        first, last = self._new(self._test(character)), self._new()
        self._join(first, last)
        return first, last

    def _group(self) -> tuple[int, int]:
        if self._peek() == "?":
            if self.text[self.at : self.at + 2] != "?:":
                raise _unsupported(self.text, "looks ahead or behind")
            self.at += 2
        part = self._choice()
        if self._peek() != ")":
            raise _unsupported(self.text, "has an unbalanced '('")
        self.at += 1
        return part

    def _test(self, character: str) -> Test:
        if character == ".":
            return lambda c: c != "\n"
        if character == "[":
            return self._class()
        if character == "\\":
            return self._escape()
        return character.__eq__

    def _escape(self) -> Test:
        character = self._peek()
        self.at += 1
        if character in ("d", "w", "D", "W"):
            one = re.compile(f"\\{character}")
            return lambda c: one.match(c) is not None
        if not character or character.isalnum():
            raise _unsupported(self.text, f"has the escape '\\{character}'")
        return character.__eq__

    def _class(self) -> Test:
        end = self.text.find("]", self.at + 1)
        inside = self.text[self.at : end]
        plain = re.fullmatch(r"\^?[\w.\-\\d]+", inside) and "--" not in inside
        if end < 0 or not plain:
            raise _unsupported(self.text, "has a class that is not supported")
        self.at = end + 1
        try:
            one = re.compile(f"[{inside}]")
        except re.error as error:  # [z-a], or a backslash before the bracket
            raise _unsupported(self.text, "has a class that is none") from error
        return lambda c: one.match(c) is not None

    def _repeat(self, begin_at: int, begin: int, end: int) -> tuple[int, int]:
        mark, stop = self._peek(), self.at
        if mark not in ("*", "+", "?", "{"):
            return begin, end
        if mark == "{":
            bounds = re.match(r"\{(\d{1,3})(,(\d{1,3})?)?\}", self.text[self.at :])
            if bounds is None:
                raise _unsupported(self.text, "has a stray '{'")
            least = int(bounds[1])
            most = least if bounds[2] is None else int(bounds[3]) if bounds[3] else None
            self.at += bounds.end()
        else:
            least, most = int(mark == "+"), 1 if mark == "?" else None
            self.at += 1
        if self._peek() in ("*", "+", "?", "{"):
            raise _unsupported(self.text, "has a doubled repetition")
        return self._copies(begin_at, stop, least, most)

    def _copies(self, begin_at: int, stop: int, least: int, most: int | None) -> tuple[int, int]:
        """Parse the part at ``begin_at`` again as often as it is repeated."""
        after = self.at
        first = last = self._new()
        exit_ = self._new()
        count = max(least, 1) if most is None else most
        for number in range(count):
            self.at = begin_at
            begin, end = self._atom()
            if number >= least:
                self._join(last, exit_)
            self._join(last, begin)
            if most is None and number == count - 1:
                if least == 0:
                    self._join(last, exit_)
                self._join(end, begin)
            last = end
        self._join(last, exit_)
        self.at = after
        return first, exit_


def _unsupported(text: str, problem: str) -> FormatError:
    return FormatError(
        f"pattern {text[:60]!r} {problem}",
        where="adapter_config.json",
        code="unsupported_pattern",
        hint="Name the modules by their full paths.",
    )
