r"""Rank and alpha of each module by the rule of the PEFT version that wrote the file.

Since 0.14 every pattern is matched on its own, as ``(.*\.)?(key)$``, first hit in the
file's order. Versions 0.6 to 0.13 looked for one winning key among both patterns, as
``.*\.key$``, and read both values from that key alone. The ranks of the tensors can tell
which of the two was at work; where nothing tells and they disagree, that is said.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from adaptrix.convert.contents import CONFIG_NAME
from adaptrix.convert.formats.peft_config import PeftConfig
from adaptrix.convert.patterns import Pattern
from adaptrix.schema.errors import FormatError
from adaptrix.schema.report import Problem

_MOST_MATCHES = 20_000_000


@dataclass(frozen=True, slots=True)
class Setting:
    """Rank and alpha that the configuration gives one module; None where it is silent."""

    rank: int | None
    alpha: float | None


class Settings:
    """Settings of modules by path, under both matching rules."""

    def __init__(self, config: PeftConfig) -> None:
        """Compile the patterns.

        Raises:
            FormatError: ``unsupported_pattern``.
        """
        self._config = config
        keys = dict.fromkeys([*config.rank_pattern, *config.alpha_pattern])
        self._patterns = {key: Pattern(key) for key in keys}

    def new(self, path: str) -> Setting:
        """By PEFT 0.14 and later (``get_pattern_key``)."""
        rank_key = self._first(self._config.rank_pattern, path)
        alpha_key = self._first(self._config.alpha_pattern, path)
        return self._setting(rank_key, alpha_key)

    def old(self, path: str) -> Setting:
        """By PEFT 0.6 to 0.13 (one key out of both patterns)."""
        hits = (k for k, p in self._patterns.items() if p.matches_suffix(path, needs_dot=True))
        key = next(hits, path)
        return self._setting(key, key)

    def _first(self, pattern: Mapping[str, object], path: str) -> str:
        return next((k for k in pattern if self._patterns[k].matches_suffix(path)), path)

    def _setting(self, rank_key: str, alpha_key: str) -> Setting:
        rank = self._config.rank_pattern.get(rank_key, self._config.rank)
        return Setting(rank, self._config.alpha_pattern.get(alpha_key, self._config.alpha))


def resolve(
    config: PeftConfig, ranks: Mapping[str, int]
) -> tuple[dict[str, Setting], tuple[Problem, ...]]:
    """Settings of the modules in ``ranks`` (path to rank of its tensors).

    Raises:
        FormatError: ``unsupported_pattern``.
    """
    if not config.rank_pattern and not config.alpha_pattern:
        return dict.fromkeys(ranks, Setting(config.rank, config.alpha)), ()
    if len(ranks) * (len(config.rank_pattern) + len(config.alpha_pattern)) > _MOST_MATCHES:
        raise FormatError(
            f"{len(config.rank_pattern)} and {len(config.alpha_pattern)} patterns "
            f"for {len(ranks)} modules",
            where=CONFIG_NAME,
            code="unsupported_pattern",
        )
    settings = Settings(config)
    new = {path: settings.new(path) for path in ranks}
    old = {path: settings.old(path) for path in ranks}
    if new == old:
        return new, ()
    fits_new = all(new[path].rank in (None, rank) for path, rank in ranks.items())
    fits_old = all(old[path].rank in (None, rank) for path, rank in ranks.items())
    if fits_new != fits_old:
        chosen, reason = ("new" if fits_new else "old"), "the ranks of the tensors fit it alone"
    elif config.matching:
        chosen, reason = config.matching, "the fields of the configuration date it"
    else:
        chosen, reason = "new", "nothing in the file dates it; other versions differ"
    differing = next(path for path in ranks if new[path] != old[path])
    rule = "0.14 and later" if chosen == "new" else "0.6 to 0.13"
    message = f"patterns are matched as PEFT {rule} does: {reason} (first difference: {differing})"
    problem = Problem.of("alpha_rule", message, where=CONFIG_NAME)
    return (new if chosen == "new" else old), (problem,)
