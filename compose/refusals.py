"""What must not be combined: checked before any arithmetic, naming the module."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import combinations

from adaptrix.schema.adapter import (
    AdaptedModule,
    Adapter,
    BaseRequirement,
    ModulePath,
    Replacement,
    ReplacementRole,
)
from adaptrix.schema.errors import IncompatibleAdapter

_COMMIT = re.compile(r"[0-9a-f]{40}")


def check_composable(adapters: Sequence[tuple[Adapter, float]]) -> None:
    """Check that ``adapters`` can be added up exactly.

    Raises:
        IncompatibleAdapter: the first reason why not.
    """
    for adapter, weight in adapters:
        _check_alone(adapter, weight, alone=len(adapters) == 1)
    for (one, _), (other, _) in combinations(adapters, 2):
        _check_bases(one, other)
    seen: dict[ModulePath, AdaptedModule] = {}
    for module in _modules(adapters):
        _check_shapes(seen.setdefault(module.path, module), module)
    if len(adapters) > 1:
        _check_replacements(adapters)


def _check_alone(adapter: Adapter, weight: float, *, alone: bool) -> None:
    if adapter.obstacle:
        raise IncompatibleAdapter(
            adapter.obstacle,
            where=adapter.base_name or adapter.method,
            hint="Merge it into its base with PEFT; it cannot be composed.",
            code="not_mergeable",
        )
    if alone and weight == 1:
        return
    for module in adapter.modules:
        if module.magnitude is not None:
            raise IncompatibleAdapter(
                "a DoRA update is not linear: it depends on the base weights",
                where=module.path,
                hint="Give its base with --base: it is made plain then, and the error said.",
            )
    if adapter.needs_base is BaseRequirement.RESIDUAL:
        raise IncompatibleAdapter(
            "the adapter was trained on a modified base and cannot be added to others",
            where=adapter.modules[0].path if adapter.modules else adapter.base_name,
            hint="Provide the initial adapter, or convert it to a plain LoRA first.",
        )
    if weight != 1 and adapter.replacements:
        raise IncompatibleAdapter(
            f"an absolute tensor cannot be weighted by {weight}",
            where=adapter.replacements[0].parameter,
            hint="Use weight 1 for adapters that replace parameters.",
        )


def _check_bases(one: Adapter, other: Adapter) -> None:
    if one.family and other.family and one.family != other.family:
        raise IncompatibleAdapter(
            f"families differ: {one.family} and {other.family}", where="base model"
        )
    if one.base_name and other.base_name and one.base_name != other.base_name:
        raise IncompatibleAdapter(
            f"declared bases differ: {one.base_name} and {other.base_name}",
            where="base model",
            hint="Pull both with the same --base when they were trained on the same model.",
        )
    _check_revisions(one, other)


def _check_revisions(one: Adapter, other: Adapter) -> None:
    revisions = (one.base_revision, other.base_revision)
    if all(map(_COMMIT.fullmatch, revisions)) and len(set(revisions)) > 1:
        raise IncompatibleAdapter(
            f"declared revisions of the base differ: {revisions[0]} and {revisions[1]}",
            where="base model",
            hint="Pull both with the same --base when its weights are the same.",
        )


def _modules(adapters: Sequence[tuple[Adapter, float]]) -> Iterator[AdaptedModule]:
    for adapter, _ in adapters:
        yield from adapter.modules


def _check_shapes(one: AdaptedModule, other: AdaptedModule) -> None:
    wanted, got = (one.b.shape[0], *one.a.shape[1:]), (other.b.shape[0], *other.a.shape[1:])
    if wanted != got or one.kind is not other.kind:
        raise IncompatibleAdapter(
            f"expected {one.kind} of shape {wanted}, got {other.kind} of shape {got}",
            where=one.path,
            hint="The adapters were made for different base models.",
        )


def _check_replacements(adapters: Sequence[tuple[Adapter, float]]) -> None:
    seen: dict[str, tuple[int, Replacement]] = {}
    for index, (adapter, _) in enumerate(adapters):
        for item in adapter.replacements:
            owner, first = seen.setdefault(item.parameter, (index, item))
            if owner != index and not _same(first, item):
                raise IncompatibleAdapter(_conflict(first, item), where=item.parameter)


def _conflict(one: Replacement, other: Replacement) -> str:
    rows = one.tensor.shape[:1], other.tensor.shape[:1]
    tokens = {ReplacementRole.EMBEDDING, ReplacementRole.TRAINABLE_TOKENS}
    if {one.role, other.role} <= tokens and (rows[0] != rows[1] or one.rows != other.rows):
        counts = f"{rows[0][0]} and {rows[1][0]} rows"
        return f"the adapters have different added tokens ({counts})"
    return "two adapters replace the same parameter"


def _same(one: Replacement, other: Replacement) -> bool:
    """Whether both write the same bytes to the same place: then there is nothing to choose."""
    if (one.role, one.rows, one.tensor.dtype, one.tensor.shape) != (
        other.role, other.rows, other.tensor.dtype, other.tensor.shape,
    ):  # fmt: skip
        return False
    return bytes(one.tensor.load()) == bytes(other.tensor.load())
