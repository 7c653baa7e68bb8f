"""PEFT's methods whose update is exactly that of a LoRA: they become one.

========  =====================================================================  =============
AdaLoRA   ``α/(init_r + 1e-5) · B·(E∘A)``                                        rank r
LoHa      ``α/r · (w1a·w1b)∘(w2a·w2b)``                                          rank ≤ r²
LoKr      ``α/r · w1 ⊗ w2``, either low-rank by its factors or its values        rank of the product
VeRA      ``diag(b)·B₀·diag(d)·A₀``, projections in the file or drawn again      rank r
MiSS      inputs summed over ``i mod r``, times ``miss_blockᵀ``                  rank r
VB-LoRA   factors put together from a bank of vectors                            rank r
DeLoRA    ``B·diag(λ/(r·‖A_i‖·‖B_i‖))·A·diag(w)``                                rank r
GraLoRA   ``k·k`` blocks that exchange latents                                   rank k·r
========  =====================================================================  =============

Each formula is that of ``get_delta_weight`` in PEFT 0.21's tuner of that name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

from adaptrix.convert.architecture.base import NamedBase
from adaptrix.convert.contents import CONFIG_NAME, Contents
from adaptrix.convert.draft import Factors
from adaptrix.convert.formats import peft_unfold as unfold
from adaptrix.convert.formats.peft_config import PeftConfig
from adaptrix.convert.formats.peft_scale import resolve
from adaptrix.convert.keys import strip_wrappers
from adaptrix.schema.adapter import Scale
from adaptrix.schema.errors import FormatError
from adaptrix.schema.report import Problem
from adaptrix.schema.tensor import LazyTensor

Leaves: TypeAlias = "Mapping[str, LazyTensor]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """One method.

    Attributes:
        leaves: Names of a module's tensors in the file, as a pattern.
        build: Makes the pair; a text says why it cannot.
        shared: Names of tensors that all modules share, as a pattern.
        alpha_rule: Whether the scale is ``alpha / r`` with PEFT's patterns.
        exact: Whether the factors are copies, without arithmetic.
    """

    leaves: str
    build: Callable[[Leaves, unfold.Context], unfold.Unfolded | str]
    shared: str = r"(?!)"
    alpha_rule: bool = False
    exact: bool = False


METHODS: Mapping[str, Method] = {
    "ADALORA": Method(leaves="lora_[ABE]", build=unfold.adalora),
    "LOHA": Method(leaves=r"hada_(?:w[12]_[ab]|t[12])", build=unfold.loha, alpha_rule=True),
    "LOKR": Method(leaves=r"lokr_(?:w[12](?:_[ab])?|t2)", build=unfold.lokr, alpha_rule=True),
    "VERA": Method(leaves="vera_lambda_[bd]", build=unfold.vera, shared="vera_[AB]"),
    "MISS": Method(leaves="miss_block", build=unfold.miss, exact=True),
    "BONE": Method(leaves="bone_block", build=unfold.miss, exact=True),
    "VBLORA": Method(
        leaves="vblora_logits_[AB](?:_topk_(?:indices|weights))?",
        build=unfold.vblora,
        shared="vblora_vector_bank",
    ),
    "DELORA": Method(leaves="delora_(?:A|B|lambda|w_norm)", build=unfold.delora),
    "GRALORA": Method(leaves="gralora_[AB](?:_general)?", build=unfold.gralora, exact=True),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ExactPairs:
    """What a method's file became.

    Attributes:
        factors: Pairs with their scales.
        beside: Tensors that are not the method's.
        unknown: Tensors that are neither the method's nor any parameter of the base.
        problems: Why there is no pair for some module; how exact the pairs are.
    """

    factors: tuple[Factors, ...]
    beside: Mapping[str, LazyTensor]
    unknown: tuple[str, ...]
    problems: tuple[Problem, ...]


def exact_pairs(
    contents: Contents, config: PeftConfig, base: NamedBase, *, values: bool = True
) -> ExactPairs:
    """All modules of a file of one of :data:`METHODS`; ``values`` may be read now or not."""
    method = METHODS[config.peft_type]
    leaf = re.compile(rf"(.+)\.({method.leaves})(?:\.default)?(?:\.weight)?")
    shared_name = re.compile(rf"(?:.*\.)?({method.shared})(?:\.default)?")
    groups: dict[str, dict[str, LazyTensor]] = {}
    shared: dict[str, LazyTensor] = {}
    beside: dict[str, LazyTensor] = {}
    for name, tensor in contents.tensors.items():
        bare = strip_wrappers(name)
        if match := shared_name.fullmatch(bare):
            shared[match[1]] = tensor
        elif match := leaf.fullmatch(bare):
            groups.setdefault(match[1], {})[match[2]] = tensor
        else:
            beside[name] = tensor
    unknown = [n for n in beside if not strip_wrappers(n).endswith((".weight", ".bias"))]
    found: list[Factors] = []
    problems: list[Problem] = []
    for path, leaves in groups.items():
        context = unfold.Context(
            path=path,
            base=base,
            config=contents.config or {},
            shared=shared,
            modules=groups,
            values=values,
        )
        built = _built(method, leaves, context)
        if isinstance(built, unfold.Unfolded):
            found.append(Factors(path=path, source=path, a=built.a, b=built.b, scale=built.scale))
        else:
            problems.append(built)
    problems = problems[:1]
    if method.alpha_rule and not problems:
        found, problems = _with_alpha(found, groups, config)
    if found and not method.exact:
        message = f"factors of {config.peft_type} computed in float64, rounded once to float32"
        problems.append(Problem.of("recomputed", message))
    if unknown:
        message = f"{len(unknown)} tensors that no rule explains, first {unknown[0]}"
        problems.append(Problem.of("unknown_tensors", message, where=unknown[0]))
    return ExactPairs(
        factors=tuple(found), beside=beside, unknown=tuple(unknown), problems=tuple(problems)
    )


def _built(method: Method, leaves: Leaves, context: unfold.Context) -> unfold.Unfolded | Problem:
    try:
        built = method.build(leaves, context)
    except KeyError as error:
        message = f"has {', '.join(sorted(leaves))} and lacks {error.args[0]}"
        return Problem.of("unpaired_factor", message, where=context.path)
    except (IndexError, ValueError) as error:
        shapes = ", ".join(f"{k} {list(t.shape)}" for k, t in sorted(leaves.items()))
        message = f"{shapes}: {error}"[:200]
        return Problem.of("shape_mismatch", message, where=context.path)
    if isinstance(built, unfold.Unfolded):
        return built
    if built == unfold.NEEDS_WIDTH:
        hint = "Pass --base with the base model's folder or id."
        return Problem.of("ambiguous_layout", built, where=context.path, hint=hint)
    code = "unread_values" if built == unfold.NEEDS_VALUES else "unsupported_method"
    return Problem.of(code, built, where=context.path)


def _with_alpha(
    factors: list[Factors], groups: Mapping[str, Leaves], config: PeftConfig
) -> tuple[list[Factors], list[Problem]]:
    """Scale ``alpha / r`` of each module, ``r`` being the method's rank, not the pair's."""
    ranks = {f.path: unfold.method_rank(groups[f.path]) for f in factors}
    try:
        settings, problems = resolve(config, ranks)
    except FormatError as error:
        where = error.where
        return factors, [Problem.of("invalid_config", error.message, where=where, hint=error.hint)]
    found = []
    for pair in factors:
        alpha = settings[pair.path].alpha
        # Two full factors of LoKr do not show the rank that divides alpha all the same.
        rank = ranks[pair.path] or settings[pair.path].rank or 0
        if alpha is None or rank < 1:
            message = f"{CONFIG_NAME} has no alpha"
            return factors, [Problem.of("missing_alpha", message, where=CONFIG_NAME)]
        found.append(replace(pair, scale=Scale.absolute(alpha / rank, pair.rank)))
    return found, list(problems)
