"""LoRA-ViT and Sam_LoRA: numbered matrices ``w_a_NNN (r, E)`` and ``w_b_NNN (E, r)``.

Two pairs per block of a vision transformer, q then v, on the fused ``attn.qkv`` whose rows
are q, k, v (JamesQFreeman/LoRA-ViT, MathieuNlp/Sam_LoRA). Neither names nor scale are in the
file: the first versions add the update as it is, later ones times alpha over r.
"""

from __future__ import annotations

import re
from dataclasses import replace

from adaptrix.convert.arrays import bits, concat_rows, content
from adaptrix.convert.contents import Contents
from adaptrix.convert.draft import Draft, Factors, Format, Recognition
from adaptrix.convert.numeric import np
from adaptrix.convert.options import ReadOptions
from adaptrix.convert.pairs import paired
from adaptrix.schema.adapter import Scale
from adaptrix.schema.report import Problem
from adaptrix.schema.tensor import LazyTensor

_KEY = re.compile(r"w_([ab])_(\d{3,4})")
_LAYERS = {192: 12, 384: 12, 768: 12, 1024: 24, 1280: 32}
"""Blocks of a vision transformer by its width (ViT-Ti, S, B, L, H)."""
_HINT = "The first versions scale by 1: pass --alpha equal to the rank."


def recognise(contents: Contents) -> Recognition | None:
    """All keys are ``w_a_000`` … ``w_b_000`` …."""
    names = [name.rpartition(":")[2] for name in contents.tensors]
    hits = [name for name in names if _KEY.fullmatch(name)]
    if not hits or len(hits) * 2 < len(names):
        return None
    evidence = f"{len(hits)} of {len(names)} keys are numbered w_a/w_b matrices"
    return Recognition(score=0.95, evidence=(evidence,))


def read(contents: Contents, options: ReadOptions) -> Draft:
    """Two numbered pairs make one pair of the fused layer, block by block."""
    pairs = paired(contents.tensors, _rule)
    numbered = {int(pair.path): pair for pair in pairs.factors}
    problems = list(pairs.problems)
    problems += _order_problems(numbered)
    sized = all(len(t.shape) == 2 for p in pairs.factors for t in (p.a, p.b))
    factors: tuple[Factors, ...] = pairs.factors
    if not problems and sized:
        factors = tuple(
            _fused(n, numbered[2 * n], numbered[2 * n + 1], options)
            for n in range(len(numbered) // 2)
        )
    if options.alpha is None:
        message = "the scale is not in the file"
        problems.append(Problem.of("missing_alpha", message, hint=_HINT))
    return Draft(
        total=len(contents.tensors),
        factors=factors,
        unknown=pairs.unknown,
        problems=tuple(problems),
        task_type="FEATURE_EXTRACTION",
        layout="lora-vit",
    )


def _rule(name: str) -> tuple[str, str] | None:
    match = _KEY.fullmatch(name)
    return (str(int(match[2])), match[1]) if match else None


def _order_problems(numbered: dict[int, Factors]) -> list[Problem]:
    """Numbers stand for blocks only when all blocks are there."""
    if not numbered:
        return []
    first = next(iter(numbered.values()))
    width = first.a.shape[-1] if first.a.shape else 0
    layers = _LAYERS.get(width)
    if sorted(numbered) == list(range(2 * (layers or 0))):
        return []
    message = f"{len(numbered)} pairs of width {width}: which blocks they belong to is not told"
    hint = "Save the adapter with the module names, for all blocks."
    return [Problem.of("ambiguous_layout", message, hint=hint)]


def _fused(block: int, q: Factors, v: Factors, options: ReadOptions) -> Factors:
    scale = None
    if options.alpha is not None and q.rank:
        scale = Scale.from_alpha(options.alpha, q.rank)
    return replace(
        q,
        path=f"blocks.{block}.attn.qkv",
        source=f"w_a_{2 * block:03d}",
        a=concat_rows([q.a, v.a]),
        b=_first_and_last(q.b, v.b),
        scale=scale,
    )


def _first_and_last(q: LazyTensor, v: LazyTensor) -> LazyTensor:
    """``B (3E, 2r)``: q in the first third, v in the last, zeros elsewhere."""
    width, rank = q.shape

    def load() -> memoryview:
        wide = np.zeros((3 * width, rank + v.shape[1]), dtype=bits(q).dtype)
        wide[:width, :rank] = bits(q)
        wide[2 * width :, rank:] = bits(v)
        return content(wide)

    return replace(q, shape=(3 * width, rank + v.shape[1]), load=load)


FORMAT = Format(name="lora-vit", recognise=recognise, read=read)
