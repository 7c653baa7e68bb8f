"""The text of one completion while its tokens arrive, exactly as the tokenizer decodes it.

Text is handed out as soon as no later token can change it: an unfinished multi-byte
character waits for its other bytes, and an end that may become a stop string waits until
it did or did not. No blank is added, dropped or moved.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

UNFINISHED = "\ufffd"
# More tokens than any character has bytes: what is unreadable after these stays so.
CHARACTER_TOKENS = 8


class Completion:
    """One row's new text.

    Attributes:
        ids: New token ids, without the end-of-text token.
        finish: ``""`` while it goes on; ``end`` of text, ``stop`` string, or ``length``.
    """

    def __init__(
        self,
        tokenizer: Any,
        prompt: Sequence[int],
        *,
        stop: Sequence[str] = (),
        sink: Callable[[str], None] | None = None,
    ) -> None:
        """Begin after ``prompt``; each new piece of text goes to ``sink``."""
        self.ids: list[int] = []
        self.finish = ""
        self._tokenizer, self._stop, self._sink = tokenizer, tuple(stop), sink
        # Some tokenizers drop the blank of a first token, so tokens are decoded together
        # with those before them: the prompt's last ones to begin with.
        self._window = list(prompt[-CHARACTER_TOKENS:])
        self._settled = len(self._window)
        self._text = ""
        self._sent = 0

    @property
    def text(self) -> str:
        """All of the text so far, unfinished characters included."""
        return self._cut(self._text + self._pending())

    def add(self, token: int) -> None:
        """Take the next token; may set :attr:`finish`."""
        self.ids.append(token)
        self._window.append(token)
        piece = self._pending()
        waiting = len(self._window) - self._settled
        if piece and (not piece.endswith(UNFINISHED) or waiting > CHARACTER_TOKENS):
            self._settle(piece)
        if any(mark in self._text for mark in self._stop):
            self.end("stop")
        else:
            self._send(len(self._text) - self._held())

    def end(self, finish: str) -> None:
        """No more tokens come; hand out what was held back."""
        self.finish = finish
        piece = self._pending()
        if piece and finish != "stop":
            self._settle(piece)
        if any(mark in self._text for mark in self._stop):
            self.finish = "stop"
        self._text = self._cut(self._text)
        del self._window[self._settled :]
        self._send(len(self._text))

    def _pending(self) -> str:
        """Text of the tokens that are not settled yet."""
        if len(self._window) == self._settled:
            return ""
        before = self._decode(self._window[: self._settled])
        return self._decode(self._window)[len(before) :]

    def _settle(self, piece: str) -> None:
        self._text += piece
        del self._window[: self._settled]
        self._settled = len(self._window)

    def _decode(self, ids: list[int]) -> str:
        return str(
            self._tokenizer.decode(
                ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
        )

    def _cut(self, text: str) -> str:
        ends = [text.find(mark) for mark in self._stop if mark in text]
        return text[: min(ends)] if ends else text

    def _held(self) -> int:
        """Length of the longest end of the text that a stop string begins with."""
        longest = max((len(mark) - 1 for mark in self._stop), default=0)
        for length in range(min(longest, len(self._text)), 0, -1):
            tail = self._text[-length:]
            if any(mark.startswith(tail) for mark in self._stop):
                return length
        return 0

    def _send(self, upto: int) -> None:
        if upto > self._sent:
            piece, self._sent = self._text[self._sent : upto], upto
            if self._sink is not None:
                self._sink(piece)
