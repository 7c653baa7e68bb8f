"""``run --compare``: the base, each adapter and all together, side by side."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from adaptrix.cli.output import clean_prose

if TYPE_CHECKING:
    from adaptrix.loader.generate import GenerateOptions
    from adaptrix.loader.plan import WeightedAdapter
    from adaptrix.loader.session import Session

GAP = "  "
NARROWEST = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """One completion of a comparison.

    Attributes:
        label: The set of adapters.
        text: What it writes.
        tokens: How many tokens that is.
        kl_nats: KL divergence from the base, at the first positions of the base's own text.
    """

    label: str
    text: str
    tokens: int
    kl_nats: tuple[float, ...]

    @property
    def mean_kl(self) -> float:
        """Mean over the positions."""
        return sum(self.kl_nats) / len(self.kl_nats)

    @property
    def title(self) -> str:
        """Label and divergence for people."""
        return self.label if self.label == "base" else f"{self.label} (KL {self.mean_kl:.3g})"

    def row(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "adapters": self.label,
            "text": self.text,
            "tokens": self.tokens,
            "kl_nats": self.kl_nats,
            "mean_kl_nats": self.mean_kl,
        }


def compare(
    session: Session, adapters: Sequence[WeightedAdapter], prompt: str, options: GenerateOptions
) -> Iterator[Compared]:
    """Completions of the base, of each adapter alone, and of all together."""
    from adaptrix.loader.divergence import divergence, log_shares  # noqa: PLC0415
    from adaptrix.loader.generate import encode  # noqa: PLC0415

    sets: list[tuple[str, dict[str, float]]] = [("base", {})]
    sets += [(_label(entry), {entry.name: entry.weight}) for entry in adapters]
    if len(adapters) > 1:
        together = {entry.name: entry.weight for entry in adapters}
        sets.append((" + ".join(_label(entry) for entry in adapters), together))
    ids = encode(session.base, prompt)
    led: list[int] = []
    base = None
    for label, weights in sets:
        session.use(weights)
        session.self_check()
        done = session.generate([ids], options)[0]
        if base is None:
            led = list(done.ids)
        shares = log_shares(session.base, ids, led)
        base = shares if base is None else base
        yield Compared(
            label=label,
            text=done.text,
            tokens=done.tokens,
            kl_nats=tuple(divergence(shares, base)),
        )


def _label(entry: WeightedAdapter) -> str:
    return entry.name if entry.weight == 1 else f"{entry.weight:g}·{entry.name}"


def comparison_lines(found: Sequence[Compared]) -> list[str]:
    """Columns where the terminal is wide enough for them, else one below the other."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
    column = (width - len(GAP) * (len(found) - 1)) // max(len(found), 1)
    if column < NARROWEST:
        return [
            line
            for number, entry in enumerate(found)
            for line in (*([""] if number else []), f"{entry.title}:", *entry.text.splitlines())
        ]
    titles = [_cut(entry.title, column) for entry in found]
    deepest = max(map(len, titles))
    columns = [
        [
            *title,
            *[""] * (deepest - len(title)),
            "-" * column,
            *_cut(clean_prose(entry.text), column),
        ]
        for title, entry in zip(titles, found, strict=True)
    ]
    height = max(map(len, columns))
    padded = [[*lines, *[""] * (height - len(lines))] for lines in columns]
    return [
        GAP.join(cell.ljust(column) for cell in row).rstrip() for row in zip(*padded, strict=True)
    ]


def _cut(text: str, width: int) -> list[str]:
    """Lines of at most ``width`` characters; blanks stay as they are."""
    found = []
    for line in text.expandtabs(4).split("\n"):
        found += [line[at : at + width] for at in range(0, len(line), width)] or [""]
    return found
