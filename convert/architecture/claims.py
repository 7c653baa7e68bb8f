"""What a declared name is worth: how much likelier it is when a family, or a base, is the one.

A declaration is wrong in a few of a hundred cases (a script's default that was never changed, a
folder's name), and then it names something popular. So a name is worth the more, the rarer
the family is that it names, and a common word as a name is worth less.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping

from adaptrix.convert.architecture.families import family_named
from adaptrix.convert.architecture.known_bases import KnownBase, known_base, related_base
from adaptrix.convert.architecture.observed import Claims
from adaptrix.convert.architecture.popularity import (
    base_share,
    called_at,
    chance_of_word,
    share_of,
)

_TELLING = 0.7
"""Share of adapters whose declaration tells the family."""
_WRONG = 0.02
"""Share of adapters that declare another family's base."""
_LEAST_SHARE = 1e-4
_EXACT, _RELATED = 0.97, 0.7
"""Share of the adapters that declare a known base, or a name made from it, of which it is one."""
_UNLISTED = 0.15
"""The same for a base of other sizes that nobody has listed: one that was cut, or made small."""
_LONGEST = 120
_LIBRARY = re.compile(r"transformers\.models\.(\w+)\.modeling_")
_TASKS: Mapping[str, re.Pattern[str]] = {
    "CAUSAL_LM": re.compile(r"CausalLM|LMHead|ConditionalGeneration|ForCausal|Decoder"),
    "SEQ_2_SEQ_LM": re.compile(r"ConditionalGeneration|Seq2Seq|MTModel|SpeechTo|TextTo"),
    "SEQ_CLS": re.compile(r"Classification"),
    "TOKEN_CLS": re.compile(r"TokenClassification"),
}
"""Classes that a task is trained with."""


def told(families: Iterable[str], claims: Claims) -> Mapping[str, float]:
    """Log likelihood ratio of the declared name, for the families that it names.

    A name inside a longer one is not meant: ``mamba`` in ``falcon-mamba-7b``.
    """
    name = _short(claims.base_name)
    if not name:
        return {}
    known = known_base(claims.base_name)
    related = known or related_base(claims.base_name)
    spans: dict[str, tuple[int, int]] = {}
    if known is None:
        # An owner's name is not meant where the model's says enough: ibm-granite/granite-4.0.
        for part in (name.rpartition("/")[2], name):
            spans = {f: span for f in families if (span := called_at(f, part)) is not None}
            if spans:
                break
    own = {f for f, span in spans.items() if not any(_inside(span, o) for o in spans.values())}
    if related is not None and not own:
        own = {related.family, f"{related.family}_text"}
    return {family: _worth(family) for family in families if family in own}


def of_base(claims: Claims, family: str, base: KnownBase | None) -> float:
    """How much likelier the declared name is for ``base`` than for the family's others."""
    related = known_base(claims.base_name)
    exact = related is not None
    if related is None:
        related = related_base(claims.base_name)
    if related is None or related.family != family:
        return 1.0
    sure = _EXACT if exact else _RELATED
    if base is None:
        return max(_UNLISTED, 1 - sure)
    return sure / base_share(related) if base == related else 1 - sure


def has_class(family: str, base_class: str) -> bool:
    """Whether the producer's class is one of the family's."""
    if not base_class:
        return False
    if family == "phi" and "mixformer" in base_class.lower():
        return True
    known = family_named(family)
    if known is not None and base_class in known.classes:
        return True
    compact = re.sub(r"[-_]", "", family).removesuffix("text")
    return bool(re.match(rf"{re.escape(compact)}(for|model|lm|\d*$)", base_class.lower()))


def has_module(family: str, library: str) -> bool:
    """Whether the Python module of the producer's class is the family's in transformers."""
    match = _LIBRARY.match(library)
    own = family.replace("-", "_")
    return match is not None and (own == match[1] or own.startswith(f"{match[1]}_"))


def has_task(family: str, task_type: str) -> bool:
    """Whether the family has a class for PEFT's task type, as far as that is known."""
    known, wanted = family_named(family), _TASKS.get(task_type)
    if known is None or not known.classes or wanted is None:
        return True
    return any(wanted.search(name) for name in known.classes)


def _worth(family: str) -> float:
    wrongly = _WRONG * max(share_of(family), _LEAST_SHARE) + chance_of_word(family)
    return math.log(_TELLING / wrongly)


def _inside(span: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether a name begins in another one, which is longer or began earlier."""
    start, end = span
    return other[0] <= start < other[1] and (other[0] < start or other[1] > end)


def _short(name: str) -> str:
    return name.replace("\\", "/").rstrip("/")[-_LONGEST:]
