"""``run`` on a terminal without a prompt: a chat."""

from __future__ import annotations

import contextlib
import sys
import time
from typing import TYPE_CHECKING

from adaptrix.cli.output import Output, clean
from adaptrix.cli.parsing import weighted_list
from adaptrix.schema.errors import AdaptrixError, UsageError

if TYPE_CHECKING:
    from adaptrix.loader.generate import GenerateOptions, Prompt
    from adaptrix.loader.session import Session

PROMPT = "> "
HELP = """\
/use A[=w],B[=w]   put these adapters into effect, out of those that were given
/reset             forget the conversation
/exit              leave; so does Ctrl-D. Ctrl-C stops an answer
"""


class Chat:
    """A conversation: with the tokenizer's template where there is one, else line by line."""

    def __init__(self, session: Session, options: GenerateOptions, out: Output) -> None:
        self.session, self.options, self.out = session, options, out
        self.messages: list[dict[str, str]] = []
        self.templated = bool(getattr(session.base.tokenizer, "chat_template", None))

    def run(self) -> None:
        """Until ``/exit`` or the end of input."""
        kind = "it remembers" if self.templated else "this base has no chat template: line by line"
        self._say(f"chat ({kind}); /help for commands, /exit to leave\n")
        while (line := self._line()) is not None:
            if line.strip() in {"/exit", "/quit"}:
                return
            if line.strip():
                try:
                    self._take(line)
                except AdaptrixError as error:
                    self._say(f"{clean(str(error))}\n")

    def _take(self, line: str) -> None:
        word, _, rest = line.strip().partition(" ")
        match word:
            case "/help":
                self._say(HELP)
            case "/reset":
                self.messages.clear()
            case "/use":
                self._use(rest)
            case _ if word.startswith("/") and len(word) > 1 and word[1:].isalpha():
                raise UsageError(f"no command {word}; see /help")
            case _:
                self._answer(line)

    def _use(self, text: str) -> None:
        known = self.session.known
        names = {name.removesuffix(":latest"): name for name in known} | {n: n for n in known}
        wanted = weighted_list(text) if text.strip() else []
        unknown = [name for name, _ in wanted if name not in names]
        if unknown:
            raise UsageError(f"no {unknown[0]} here; there are {', '.join(known) or 'none'}")
        self.session.use({names[name]: weight for name, weight in wanted})
        self.session.self_check()
        used = " + ".join(f"{weight:g}·{names[name]}" for name, weight in wanted)
        self._say(f"(in effect: {used or 'the base alone'})\n")

    def _answer(self, line: str) -> None:
        pieces: list[str] = []

        def show(piece: str) -> None:
            pieces.append(piece)
            self.out.piece(piece)

        prompt = self._prompt(line)
        started = time.perf_counter()
        try:
            tokens = self.session.generate([prompt], self.options, on_text=show)[0].tokens
        except KeyboardInterrupt:
            self.out.piece("\n")
            self._say("(stopped)\n")
        else:
            self.out.piece("\n")
            self._say(f"({tokens} tokens, {time.perf_counter() - started:.1f} s)\n")
        if self.templated:
            # What was shown is what was said, stopped or not.
            self.messages.append({"role": "assistant", "content": "".join(pieces)})

    def _prompt(self, line: str) -> Prompt:
        """The line, or the conversation so far with its oldest turns left out if too long."""
        from adaptrix.loader.generate import encode, templated  # noqa: PLC0415

        if not self.templated:
            return line
        self.messages.append({"role": "user", "content": line})
        while True:
            ids = templated(self.session.base, self.messages)
            try:
                return encode(self.session.base, ids)
            except UsageError:
                if len(self.messages) == 1:
                    self.messages.clear()
                    raise
                del self.messages[:2]
                self._say("(the oldest turn is left out: the conversation is too long)\n")

    def _line(self) -> str | None:
        if sys.stdin.isatty() and sys.stdout.isatty():
            with contextlib.suppress(ImportError):
                # Arrow keys and history, where Python was built with them.
                import readline  # noqa: F401, PLC0415
            try:
                return input(PROMPT)
            except EOFError:
                self._say("\n")
                return None
            except KeyboardInterrupt:
                self._say("\n")
                raise
        self._say(PROMPT)
        line = sys.stdin.readline()
        return line.rstrip("\n") if line else None

    def _say(self, text: str) -> None:
        sys.stderr.write(text)
        sys.stderr.flush()
