"""PiSSA, OLoRA, CorDA, LoRA-GA with their initial factors: an update of the original base.

Such an adapter runs on ``W - s·B₀·A₀``, so on ``W`` it adds ``s·(B·A - B₀·A₀)``: one pair of
twice the rank. PEFT converts so too (``subtract_mutated_init``), when it is told where the
initial adapter was saved. A checkpoint in its place would be silently wrong; the columns of
an initial ``B₀`` are orthogonal, which training does not keep.
Source: PEFT 0.21, ``tuners/lora/layer.py``; Meng et al. 2024 (PiSSA), eq. 2 to 4.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from adaptrix.convert.arrays import bits, content, to_numpy_f64
from adaptrix.convert.contents import Contents
from adaptrix.convert.draft import Factors
from adaptrix.convert.formats.peft_blocks import beside, on_top
from adaptrix.convert.formats.peft_config import PeftConfig
from adaptrix.convert.formats.peft_original import is_repeatable, on_original
from adaptrix.convert.keys import parse_key
from adaptrix.convert.numeric import np
from adaptrix.convert.options import ReadOptions
from adaptrix.schema.adapter import Scale
from adaptrix.schema.report import IgnoredTensor, Problem
from adaptrix.schema.tensor import LazyTensor

_SLACK = 0.02
"""Largest cosine between two columns of an initial ``B₀``, rounded to bfloat16 or less."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """What became of the factors.

    Attributes:
        factors: Pairs, of twice the rank where the initial ones were subtracted.
        config: The configuration that now holds.
        total: Tensors of the initial adapter that were looked at.
        ignored: Those of them that are no factors.
        problems: Notes.
        settled: Codes of problems that are none any more.
        computed: Whether the pairs were computed.
    """

    factors: list[Factors]
    config: PeftConfig
    total: int = 0
    ignored: tuple[IgnoredTensor, ...] = ()
    problems: tuple[Problem, ...] = ()
    settled: frozenset[str] = frozenset()
    computed: bool = False


def subtract_initial(
    contents: Contents, config: PeftConfig, factors: list[Factors], options: ReadOptions
) -> Begun:
    """The pairs on the original base, when the initial factors or the base weights are there."""
    if not config.residual:
        return Begun(factors=factors, config=config)
    if not contents.initial:
        return _from_weights(config, factors, options)
    leaves: dict[tuple[str, str], str] = {}
    for name in contents.initial:
        key = parse_key(name)
        leaves[key.path, key.leaf] = name
    found: list[Factors] = []
    used: set[str] = set()
    for pair in factors:
        names = (leaves.get((pair.path, "lora_A.weight")), leaves.get((pair.path, "lora_B.weight")))
        tensors = tuple(contents.initial[name] for name in names if name)
        if misfit := _misfit(pair, tensors, values=options.check_values):
            message = f"the initial adapter beside it is not used: {pair.path} {misfit}"
            problem = Problem.of("ignored_files", message, where=pair.path)
            return Begun(factors=factors, config=config, problems=(problem,))
        used.update(name for name in names if name)
        found.append(_pair(pair, *tensors))
    others = (name for name in contents.initial if name not in used)
    reason = "of the initial adapter, and no factor"
    message = f"{len(used)} initial factors are subtracted: twice the rank, on the original base"
    return Begun(
        factors=found,
        config=_settled(config),
        total=len(contents.initial),
        ignored=tuple(IgnoredTensor(name=f"initial:{name}", reason=reason) for name in others),
        problems=(Problem.of("initial_subtracted", message),),
        settled=frozenset({"needs_residual_base"}),
    )


def _settled(config: PeftConfig) -> PeftConfig:
    return replace(config, residual="", extra={**config.extra, "init_lora_weights": True})


def _from_weights(config: PeftConfig, factors: list[Factors], options: ReadOptions) -> Begun:
    """What was taken off the base, computed again from its weights."""
    unchanged = Begun(factors=factors, config=config)
    if options.base_weights is None or not is_repeatable(config.residual):
        return unchanged
    weights = options.base_weights()
    found: list[Factors] = []
    for pair in factors:
        flat = len(pair.a.shape) == len(pair.b.shape) == 2
        sizes = (pair.b.shape[0], pair.a.shape[1]) if flat else (0, 0)
        weight = weights.matrix(pair.path, *sizes, transposed=config.fan_in_fan_out)
        plain = on_original(pair, weight, config.residual) if weight is not None else None
        if plain is None:
            return unchanged
        found.append(plain)
    message = f"what {config.residual} took off the base is computed from it and subtracted"
    return Begun(
        factors=found,
        config=_settled(config),
        problems=(Problem.of("recomputed", message),),
        settled=frozenset({"needs_residual_base"}),
        computed=True,
    )


def _misfit(pair: Factors, tensors: tuple[LazyTensor, ...], *, values: bool) -> str:
    if len(tensors) != 2:
        return "has no factors there"
    a, b = tensors
    if (a.shape, b.shape) != (pair.a.shape, pair.b.shape):
        return "has factors of other shapes there"
    if a.dtype is not pair.a.dtype or b.dtype is not pair.b.dtype or pair.magnitude is not None:
        return "is stored in another element type there"
    if values and not _orthogonal(b):
        return "has been trained there: the columns of its B are not orthogonal"
    return ""


def _pair(pair: Factors, a: LazyTensor, b: LazyTensor) -> Factors:
    scale = pair.scale
    if scale is not None:
        scale = Scale.absolute(scale.value, 2 * pair.rank)
    return replace(pair, a=on_top(pair.a, a), b=beside(pair.b, _negative(b)), scale=scale)


def _negative(tensor: LazyTensor) -> LazyTensor:
    """The sign bit of every element flipped."""

    def load() -> memoryview:
        stored = bits(tensor)
        return content(stored ^ stored.dtype.type(1 << (8 * tensor.dtype.itemsize - 1)))

    return replace(tensor, load=load)


def _orthogonal(b: LazyTensor) -> bool:
    columns = to_numpy_f64(b)
    lengths = np.linalg.norm(columns, axis=0)
    if not np.isfinite(lengths).all() or not lengths.all():
        return False
    cosines = (columns / lengths).T @ (columns / lengths)
    return bool(np.abs(cosines - np.eye(len(cosines))).max() < _SLACK)
