"""Experts in factors of three axes, below PEFT's names, as trainers and servers stack them.

Tinker and SGLang keep each projection of all experts in one tensor, ``experts.w1.lora_A``
``(E, r, in)`` and ``lora_B`` ``(E, out, r)``; the side that every expert shares has ``E = 1``.
``gate_up_proj`` has one ``A`` for both of its halves, or one each (``2r`` rows, SGLang).
Megatron-Bridge writes vLLM's names, ``experts.base_layer`` and ``experts``, with ``A``
``(E, r, in)`` and ``B`` ``(out, r, E)``: PEFT's flat stacking with its axes apart. Sources:
tinker-cookbook ``weights/_adapter.py``, SGLang ``lora/lora.py``, vLLM ``lora/utils.py``,
Megatron-Bridge ``peft_bridge.py``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from adaptrix.convert.arrays import reshape, row_blocks, transpose
from adaptrix.convert.draft import Factors
from adaptrix.convert.formats.peft_config import PeftConfig
from adaptrix.convert.layouts.experts import input_is_a
from adaptrix.convert.layouts.fusing import join
from adaptrix.convert.numeric import np
from adaptrix.schema.adapter import ModuleKind
from adaptrix.schema.report import IgnoredTensor, Problem

MAX_EXPERTS = 4096
_GATED = "gate_up_proj"
_NAMED = re.compile(r"(?P<block>.+\.experts)\.(?P<name>w[123]|(?:gate|up|down|gate_up)_proj)")
_SINGLE = re.compile(
    r"(?P<block>.+\.experts)\.(?P<expert>\d{1,5})\.(?P<name>gate_proj|up_proj|down_proj)"
)
_BARE = re.compile(r".+\.experts(?:\.base_layer)?")
_USUAL = {"w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}
_HEAD = "model.unembed_tokens"
"""Tinker's name of the output layer."""


@dataclass(frozen=True, slots=True)
class Unstacked:
    """Pairs with two axes each.

    Attributes:
        factors: All pairs of the file.
        config: The configuration, with the parameters that the names imply.
        ignored: Tensors that stand for a projection that the model has not.
        problems: Stacks that fit none of the ways.
    """

    factors: list[Factors]
    config: PeftConfig
    ignored: tuple[IgnoredTensor, ...] = ()
    problems: tuple[Problem, ...] = ()


def unstacked(factors: Sequence[Factors], config: PeftConfig, family: str) -> Unstacked:
    """Take stacks of experts apart; what is none stays as it is."""
    found: list[Factors] = []
    ignored: list[IgnoredTensor] = []
    problems: list[Problem] = []
    matches = [(f, m) for f in factors if (m := _named(f))]
    whole = {m["block"] for _, m in matches if m["name"] == _GATED}
    ungated = {m["block"] for f, m in matches if not f.a.count and not f.b.count}
    for pair in factors:
        match = _named(pair)
        if match is not None and not pair.a.count and not pair.b.count:
            reason = "an empty stand-in for a projection that these experts have not"
            names = (f"{pair.source}.lora_{side}.weight" for side in "AB")
            ignored += [IgnoredTensor(name=name, reason=reason) for name in names]
        elif len(pair.a.shape) != 3 or len(pair.b.shape) != 3:
            found.append(_renamed(pair, family))
        elif match is not None:
            name = (
                "up_proj" if match["block"] in ungated and match["name"] == "w1" else match["name"]
            )
            made = _experts(pair, match["block"], name, whole, family)
            found += made
            problems += [] if made else [_misfit(pair)]
        elif _BARE.fullmatch(pair.path):
            flat = _flat(pair)
            found += [flat] if flat else []
            problems += [] if flat else [_misfit(pair)]
        else:
            found.append(pair)
    config = _with_parameters(config, found)
    return Unstacked(found, config, tuple(ignored), tuple(problems[:20]))


def _named(pair: Factors) -> re.Match[str] | None:
    return _NAMED.fullmatch(pair.path)


def _renamed(pair: Factors, family: str) -> Factors:
    """Tinker's names outside of the experts."""
    if pair.path == _HEAD:
        return replace(pair, path="lm_head")
    if family == "gpt_oss" and ".attn." in pair.path:
        return replace(pair, path=pair.path.replace(".attn.", ".self_attn."))
    return pair


def _experts(pair: Factors, block: str, name: str, whole: set[str], family: str) -> list[Factors]:
    """One pair per expert of ``A (E, r, in)``, ``B (E, out, r)``; empty when they are none."""
    (many, rows, width), (others, out, rank) = pair.a.shape, pair.b.shape
    count = max(many, others)
    parts = rows // rank if rank else 0
    if {many, others} - {1, count} or not 0 < count <= MAX_EXPERTS or rows != parts * rank:
        return []
    if parts != 1 and (parts != 2 or name != _GATED or out % 2):
        return []
    downs = row_blocks(reshape(pair.a, (many * rows, width)), many)
    ups = row_blocks(reshape(pair.b, (others * out, rank)), others)
    name = name if block.endswith("block_sparse_moe.experts") else _USUAL.get(name, name)
    found = []
    for expert in range(count):
        a, b = downs[expert % many], ups[expert % others]
        one = replace(pair, source=f"{pair.source}[{expert}]", kind=ModuleKind.LINEAR, a=a, b=b)
        if parts == 2:
            halves = zip(("gate_proj", "up_proj"), row_blocks(a, 2), row_blocks(b, 2), strict=True)
            found += [replace(one, path=f"{block}.{expert}.{n}", a=x, b=y) for n, x, y in halves]
        elif block in whole:
            found.append(_slice(one, f"{block}.{name}.{expert}", family))
        else:
            found.append(replace(one, path=f"{block}.{expert}.{name}"))
    return found


def _slice(pair: Factors, path: str, family: str) -> Factors:
    """One expert of a parameter, in the canonical orientation."""
    a, b = (pair.a, pair.b) if input_is_a(family) else (transpose(pair.b), transpose(pair.a))
    return replace(pair, path=path, kind=ModuleKind.PARAMETER, a=a, b=b)


def _flat(pair: Factors) -> Factors | None:
    """``A (E, r, in)``, ``B (out, r, E)`` as PEFT's ``(E·r, in)``, ``(out, r·E)``."""
    (experts, rank, width), (out, middle, last) = pair.a.shape, pair.b.shape
    if middle != rank or last != experts:
        return None
    a = reshape(pair.a, (experts * rank, width))
    return replace(pair, a=a, b=reshape(pair.b, (out, rank * experts)), kind=ModuleKind.LINEAR)


def _with_parameters(config: PeftConfig, factors: Sequence[Factors]) -> PeftConfig:
    """Names as vLLM's imply both parameters: the nested one is the first that the class has."""
    if config.parameters:
        return config
    by_path = {pair.path: pair for pair in factors}
    for path, inner in by_path.items():
        outer = by_path.get(path.removesuffix(".base_layer"))
        if not path.endswith(".experts.base_layer") or outer is None:
            continue
        sides = {inner.b.shape[0], inner.a.shape[1]}
        gated = bool({2 * outer.a.shape[1], 2 * outer.b.shape[0]} & sides)
        names = (f"experts.{_GATED if gated else 'up_proj'}", "experts.down_proj")
        return replace(config, parameters=names)
    return config


def _misfit(pair: Factors) -> Problem:
    message = f"A {list(pair.a.shape)} and B {list(pair.b.shape)} are no known stack of experts"
    return Problem.of("shape_mismatch", message, where=pair.path)


def interleaved(factors: list[Factors], family: str) -> list[Factors]:
    """gpt-oss keeps gate and up in every other row of one parameter, and no single experts."""
    if family != "gpt_oss":
        return factors
    kept: list[Factors] = []
    gated: dict[str, dict[str, Factors]] = {}
    for pair in factors:
        match = _SINGLE.fullmatch(pair.path)
        if match is None:
            kept.append(pair)
        elif match["name"] == "down_proj":
            slot = f"{match['block']}.down_proj.{match['expert']}"
            kept.append(replace(pair, path=slot, kind=ModuleKind.PARAMETER))
        else:
            slot = f"{match['block']}.{_GATED}.{match['expert']}"
            gated.setdefault(slot, {})[match["name"]] = pair
    for slot, parts in gated.items():
        total = 2 * next(iter(parts.values())).b.shape[0]
        rows = {n: np.arange(i, total, 2) for i, n in enumerate(("gate_proj", "up_proj"))}
        joined = join(slot, parts, rows, total, read=False).pair
        kept.append(replace(joined, kind=ModuleKind.PARAMETER))
    return kept
