"""Stacked expert weights: one parameter ``(E, d1, d2)`` holds a matrix per expert.

The canonical adapter has one pair per expert and parameter, at ``<parameter>.<expert>``
(``model.layers.0.mlp.experts.gate_up_proj.3``), in the orientation that PEFT has had since
0.19.1: ``ΔW_e = s·B_e·A_e`` is the expert's slice as it is stored, or its transpose where
the class says ``is_transposed``. Up to 0.18 PEFT took ``A`` to read ``d1`` always, and
0.19.0 had the flag the wrong way round (PEFT, ``ParamWrapper.update_layer``; fixed in
e84dd8f40). What a file has follows from its shapes; where they do not tell, from its version.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from adaptrix.convert.arrays import Bits, bits, content, take_columns, take_rows, transpose
from adaptrix.convert.draft import Factors
from adaptrix.schema.adapter import ModuleKind, Scale
from adaptrix.schema.tensor import LazyTensor

ORDER = (
    "gate_up_proj", "gate_up_proj_bias", "gate_proj", "up_proj", "input_linear", "w1", "v1",
    "w3", "w2", "fc1", "fc2", "output_linear", "down_proj", "down_proj_bias", "weight", "bias",
)  # fmt: skip
"""Order in which classes register these parameters, hence in which PEFT nests its wrappers."""
GATED, UP, DOWN = "gate_up_proj", ("gate_up_proj", "up_proj"), "down_proj"
_SLICE = re.compile(r"(?P<parameter>.+)\.(?P<expert>\d{1,5})")


@dataclass(frozen=True, slots=True)
class Stored:
    """How a family's classes keep their experts.

    Attributes:
        reads_first: Whether ``d1`` is the input: ``(E, in, out)``.
        flagged: Whether the class says so with ``is_transposed``.
    """

    reads_first: bool = False
    flagged: bool = False


_FLAGGED = Stored(reads_first=True, flagged=True)
STORED: Mapping[str, Stored] = {
    "gpt_oss": _FLAGGED, "aria": _FLAGGED, "aria_text": _FLAGGED,
    "openai_privacy_filter": _FLAGGED,
    "llama4": Stored(reads_first=True), "llama4_text": Stored(reads_first=True),
}  # fmt: skip
"""Families other than ``(E, out, in)``: transformers' ``use_experts_implementation`` calls
with ``is_transposed=True``, and Llama 4's own class, which has no flag."""


def input_is_a(family: str) -> bool:
    """Whether the canonical ``A`` reads what the layer reads; not so for Llama 4 alone."""
    stored = STORED.get(family, Stored())
    return stored.reads_first == stored.flagged


def input_was_a(family: str, version: str) -> bool | None:
    """The same for a file of PEFT ``version``; None when the version is not known."""
    match = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", version)
    if match is None:
        return None
    stored, number = STORED.get(family, Stored()), tuple(int(part or 0) for part in match.groups())
    if number >= (0, 19, 1):
        return stored.reads_first == stored.flagged
    return stored.reads_first if number < (0, 19, 0) else stored.reads_first != stored.flagged


def slices(
    pair: Factors, parameter: str, rank: int, scale: Scale, *, turned: bool, in_blocks: bool = False
) -> list[Factors]:
    """One pair per expert of PEFT's stacked factors.

    ``A (E·r, x)`` is expert-major, ``B (y, r·E)`` rank-major (PEFT, ``get_delta_weight``).

    Args:
        pair: The stacked factors.
        parameter: Path of the parameter.
        rank: ``r``; divides the rows of ``A``.
        scale: Scale of each expert.
        turned: Whether the file has the other orientation.
        in_blocks: Whether the columns of an expert stand together, as Unsloth took them.
    """
    experts = pair.a.shape[0] // rank
    found = []
    for expert in range(experts):
        a = take_rows(pair.a, slice(expert * rank, (expert + 1) * rank))
        own = slice(expert * rank, (expert + 1) * rank)
        b = take_columns(pair.b, own) if in_blocks else _columns(pair.b, experts, expert)
        if turned:
            a, b = transpose(b), transpose(a)
        one = replace(
            pair, path=f"{parameter}.{expert}", a=a, b=b, scale=scale, kind=ModuleKind.PARAMETER
        )
        found.append(one)
    return found


class _Slot(threading.local):
    """The factors of one parameter by expert, kept for as long as its experts are asked for.

    One for each thread: two that are at different parameters would drive out each other's.
    """

    def __init__(self) -> None:
        self._held: tuple[LazyTensor, Bits] | None = None

    def by_expert(self, b: LazyTensor, experts: int) -> Bits:
        """``B (out, r·E)`` as ``(E, out, r)``: every E-th column together, moved once."""
        held = self._held
        if held is None or held[0] is not b:
            moved = bits(b).reshape(b.shape[0], -1, experts).transpose(2, 0, 1).copy()
            self._held = held = (b, moved)
        return held[1]


_SLOT = _Slot()


def _columns(b: LazyTensor, experts: int, expert: int) -> LazyTensor:
    """Columns of one expert: ``(out, r·E)`` to ``(out, r)``."""
    shape = (b.shape[0], b.shape[1] // experts)
    return replace(b, shape=shape, load=lambda: content(_SLOT.by_expert(b, experts)[expert]))


def slice_of(path: str) -> tuple[str, int] | None:
    """``(parameter, expert)`` of a canonical path, or None when it names no expert."""
    match = _SLICE.fullmatch(path)
    return None if match is None else (match["parameter"], int(match["expert"]))


def base_path(pair: Factors) -> str:
    """What the base has for a pair: its module, or the parameter it is a slice of."""
    part = slice_of(pair.path) if pair.kind is ModuleKind.PARAMETER else None
    return pair.path if part is None else part[0]


def votes(pairs: Mapping[str, tuple[LazyTensor, LazyTensor]], hidden: int | None) -> set[bool]:
    """What the shapes of one layer's parameters say of ``A``: it reads the input, or not.

    ``gate_up_proj`` turns ``h`` into ``2f`` and ``down_proj`` ``f`` into ``h``, so the two
    together show which side is which; one of them needs the hidden size.
    """
    found: set[bool] = set()
    for name, (a, b) in pairs.items():
        into, out = a.shape[1], b.shape[0]
        if hidden is not None and (into == hidden) != (out == hidden):
            found.add((into == hidden) == (name in UP))
    if {GATED, DOWN} <= pairs.keys():
        (a, b), (c, d) = pairs[GATED], pairs[DOWN]
        straight = a.shape[1] == d.shape[0] and b.shape[0] == 2 * c.shape[1]
        turned = b.shape[0] == c.shape[1] and a.shape[1] == 2 * d.shape[0]
        if straight != turned:
            found.add(straight)
    return found


def ordered(names: Sequence[str]) -> list[str] | None:
    """Parameters in the order their class registers them; None when one is not known."""
    known = [name for name in ORDER if name in names]
    return known if len(known) == len(set(names)) else None
