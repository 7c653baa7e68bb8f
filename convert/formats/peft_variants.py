"""Variants below ``peft_type: LORA`` that are still a LoRA.

BD-LoRA stores the blocks of a block-diagonal factor on top of each other; QA-LoRA pools the
inputs in groups of ``g`` before ``A``; KaSA puts a diagonal between the factors and takes the
``r`` smallest singular components off the base, so its update is one for that base only.
VeLoRA (its projection of activations for the backward pass) and MonteCLoRA (its sampler) act
while training only; their state is left out.
Source: PEFT 0.21, ``tuners/lora/variants.py``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from adaptrix.convert.architecture.base import NamedBase
from adaptrix.convert.arrays import bits, content, take_columns
from adaptrix.convert.computed import scaled_columns
from adaptrix.convert.contents import CONFIG_NAME, Contents
from adaptrix.convert.draft import Factors
from adaptrix.convert.numeric import np
from adaptrix.convert.writers.peft import DIAGONAL, KASA
from adaptrix.schema.adapter import Scale
from adaptrix.schema.canonical import Json
from adaptrix.schema.report import IgnoredTensor, Problem
from adaptrix.schema.tensor import LazyTensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """What the configuration says beyond plain LoRA.

    Attributes:
        blocks: BD-LoRA's number of blocks, 0 without.
        wide_a, wide_b: Names whose ``A`` or ``B`` is block-diagonal.
        group: QA-LoRA's group size, 0 without.
        kasa: KaSA's settings, or None.
    """

    blocks: int = 0
    wide_a: tuple[str, ...] = ()
    wide_b: tuple[str, ...] = ()
    group: int = 0
    kasa: Mapping[str, Json] | None = None

    @property
    def plain(self) -> bool:
        """Whether there is nothing to do."""
        return not (self.blocks or self.group or self.kasa is not None)


def parse_variant(config: Mapping[str, Json] | None) -> tuple[Variant, tuple[Problem, ...]]:
    """The variant fields of a configuration, and what is wrong with them."""
    config = config or {}
    kasa, blocks = config.get(KASA), config.get("use_bdlora")
    found = Variant(kasa=kasa if isinstance(kasa, Mapping) else None)
    if config.get("use_qalora") is True:
        group = _count(config.get("qalora_group_size", 16))
        if not group:
            return found, (_invalid("qalora_group_size"),)
        found = replace(found, group=group)
    if blocks:
        if not isinstance(blocks, Mapping) or not (count := _count(blocks.get("nblocks"))):
            return found, (_invalid("use_bdlora"),)
        wide_a, wide_b = (_names(blocks.get(f"target_modules_bd_{side}")) for side in "ab")
        found = replace(found, blocks=count, wide_a=wide_a, wide_b=wide_b)
    return found, ()


_TRAINING_STATE = re.compile(r"\.lora_(?P<name>velora|monteclora)_\w+(?:\.|$)")
_TOOLS = {"velora": "VeLoRA", "monteclora": "MonteCLoRA"}


def without_training_state(contents: Contents) -> tuple[Contents, tuple[IgnoredTensor, ...]]:
    """``contents`` without what only training used, and that with its reason."""
    found = {name: m for name in contents.tensors if (m := _TRAINING_STATE.search(name))}
    if not found:
        return contents, ()
    kept = {name: tensor for name, tensor in contents.tensors.items() if name not in found}
    ignored = tuple(
        IgnoredTensor(name=name, reason=f"{_TOOLS[match['name']]}: state of its training only")
        for name, match in found.items()
    )
    return replace(contents, tensors=kept), ignored


def apply_variant(
    factors: Factors, variant: Variant, diagonal: LazyTensor | None, base: NamedBase
) -> Factors | Problem:
    """The plain pair of one module."""
    if diagonal is not None:
        if variant.kasa is None:
            message = f"{DIAGONAL}, and the configuration has no {KASA}"
            return Problem.of("unsupported_method", message, where=factors.path)
        if diagonal.count != factors.rank or len(factors.b.shape) != 2:
            message = f"{DIAGONAL} of shape {list(diagonal.shape)} at rank {factors.rank}"
            return Problem.of("shape_mismatch", message, where=factors.path)
        return replace(factors, b=scaled_columns(factors.b, diagonal))
    if variant.kasa is not None:
        message = f"{KASA}, and the module has no {DIAGONAL}"
        return Problem.of("unpaired_factor", message, where=factors.path)
    if len(factors.a.shape) != 2 or len(factors.b.shape) != 2:
        return factors
    if variant.blocks:
        return _spread(factors, variant)
    return _unpooled(factors, variant.group, base) if variant.group else factors


def _spread(factors: Factors, variant: Variant) -> Factors | Problem:
    name = factors.path.rpartition(".")[2]
    in_a = any(pattern in name for pattern in variant.wide_a)
    in_b = any(pattern in name for pattern in variant.wide_b)
    stored = factors.a if in_a else factors.b
    if (in_a and in_b) or ((in_a or in_b) and stored.shape[0] % variant.blocks):
        message = f"no {variant.blocks} blocks of a block-diagonal factor"
        return Problem.of("shape_mismatch", message, where=factors.path)
    if in_a:
        return replace(factors, a=_blocks(factors.a, variant.blocks))
    return replace(factors, b=_blocks(factors.b, variant.blocks)) if in_b else factors


def _blocks(stacked: LazyTensor, count: int) -> LazyTensor:
    """``(count·m, n)`` blocks on top of each other to ``(count·m, count·n)``."""
    rows, columns = stacked.shape
    height, shape = rows // count, (rows, count * columns)

    def load() -> memoryview:
        tall = bits(stacked)
        wide = np.zeros(shape, dtype=tall.dtype)
        for i in range(count):
            part = slice(i * height, (i + 1) * height)
            wide[part, i * columns : (i + 1) * columns] = tall[part]
        return content(wide)

    return replace(stacked, shape=shape, load=load)


def _unpooled(factors: Factors, group: int, base: NamedBase) -> Factors | Problem:
    """``A`` over groups of inputs as ``A`` over inputs: columns repeated, scale ``·in/g²``.

    Only layers of a quantised base are pooled; which one this is, the base's width tells.
    """
    pooled = factors.a.shape[1]
    width = _width(factors.path, base)
    if width == pooled:
        return factors
    if width is None:
        message = "use_qalora pools the inputs of quantised layers; the base's width is not known"
        hint = "Pass --base with the base model's folder or id."
        return Problem.of("ambiguous_layout", message, where=factors.path, hint=hint)
    if width != pooled * group:
        message = f"{pooled} groups of {group} inputs, the base has {width}"
        return Problem.of("shape_mismatch", message, where=factors.path)
    columns = [column for column in range(pooled) for _ in range(group)]
    scale = factors.scale
    if scale is not None:
        scale = Scale.absolute(scale.value * pooled / group, factors.rank)
    return replace(factors, a=take_columns(factors.a, columns), scale=scale)


def _width(path: str, base: NamedBase) -> int | None:
    return base.shape(path)[1]


def _count(value: Json) -> int:
    whole = isinstance(value, int) and not isinstance(value, bool)
    return value if whole and isinstance(value, int) and 0 < value <= 4096 else 0


def _names(value: Json) -> tuple[str, ...]:
    listed = value if isinstance(value, list) else [value]
    return tuple(entry for entry in listed if isinstance(entry, str) and entry)


def _invalid(name: str) -> Problem:
    return Problem.of("invalid_config", "not as PEFT writes it", where=f"{CONFIG_NAME}:{name}")
