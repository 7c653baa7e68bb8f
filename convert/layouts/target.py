"""An adapter under names and fused modules other than those of its base's current class.

``split`` writes fused modules apart, in place; ``transformers-4`` writes the names that
transformers had before it renamed them, single experts among them; a family's name writes
the form of that family, a relative of the adapter's own (``llama`` for InternLM2, Baichuan,
Qwen and Phi-3). What one pair cannot hold exactly is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from adaptrix.convert.arrays import is_zero
from adaptrix.convert.draft import Factors
from adaptrix.convert.layouts.experts import slice_of
from adaptrix.convert.layouts.forms import FORMS, relatives
from adaptrix.convert.layouts.fusing import CannotJoin, cut, join, trimmed
from adaptrix.convert.layouts.moving import Moved, equal_rows
from adaptrix.convert.layouts.relayout import relayout
from adaptrix.convert.layouts.renames import Move, fill, moves, slots
from adaptrix.convert.modules import adapted_modules
from adaptrix.convert.writers.heads import base_heads
from adaptrix.schema.adapter import Adapter, ModuleKind, Replacement
from adaptrix.schema.errors import Refused

SPLIT, OLD = "split", "transformers-4"
TARGET_LAYOUTS: tuple[str, ...] = (
    SPLIT, OLD, *sorted(name for name, form in FORMS.items() if form.kin),
)  # fmt: skip
"""Names that :func:`in_layout` accepts."""
Inverse = Mapping[str, Sequence[tuple[str, Move]]]


def in_layout(adapter: Adapter, layout: str) -> tuple[Adapter, bool]:
    """The adapter in another layout, and whether that took copies alone.

    Raises:
        Refused: the layout is not one of the adapter's family, or cannot hold it.
    """
    factors = [_factors(module) for module in adapter.modules]
    if layout == OLD:
        moved = _old_names(adapter.family, factors, adapter.replacements)
    else:
        moved = _in_form(adapter, factors, layout)
    if moved.problems:
        first = moved.problems[0]
        raise _refused(f"{first.where}: {first.message}", layout, first.hint)
    if not moved.renamed:
        raise _refused(f"nothing of {adapter.family or 'this family'} has another name", layout)
    family = layout if layout in FORMS else ""
    return (
        replace(
            adapter,
            modules=adapted_modules(moved.factors, family, fan_in_fan_out=False),
            replacements=tuple(sorted(moved.replacements, key=lambda item: item.parameter)),
            family=family,
            layout=layout,
            extra={k: v for k, v in adapter.extra.items() if k != "target_modules"},
        ),
        moved.exact,
    )


def _factors(module: object) -> Factors:
    """A module as the pair it was read from."""
    names = ("path", "source", "a", "b", "kind", "scale", "magnitude", "bias_delta")
    return Factors(**{name: getattr(module, name) for name in names})


def _in_form(adapter: Adapter, factors: Sequence[Factors], layout: str) -> Moved:
    family = adapter.family
    if layout == SPLIT and family in FORMS:
        target = family
    elif layout in relatives(family):
        target = layout
    else:
        known = ", ".join((SPLIT, OLD, *relatives(family))) if family in FORMS else OLD
        hint = "Phi's fused layout is --to phi-l2." if family == "phi" else f"It has {known}."
        raise _refused(f"no layout of an adapter for {family or 'an unknown family'}", layout, hint)
    return relayout(
        factors, adapter.replacements, family, target, base_heads(adapter), apart=layout == SPLIT
    )


def _old_names(
    family: str, factors: Sequence[Factors], replacements: Sequence[Replacement]
) -> Moved:
    """Today's names taken back, by the shortest of several old ones."""
    inverse: dict[str, list[tuple[str, Move]]] = {}
    for old, move in sorted(moves(family).items(), key=lambda row: (len(row[0]), row[0])):
        for to in move.to:
            rows = inverse.setdefault(to, [])
            if all(known.part != move.part or known.to != move.to for _, known in rows):
                rows.append((old, move))
    moved = Moved(replacements=list(replacements))
    joins: dict[str, tuple[Move, dict[str, Factors]]] = {}
    for pair in factors:
        part = slice_of(pair.path) if pair.kind is ModuleKind.PARAMETER else None
        template, numbers = slots(part[0] if part else pair.path)
        if part and f"{template}.{{}}" in inverse:
            template, numbers = f"{template}.{{}}", (*numbers, str(part[1]))
        rows_found = inverse.get(template)
        if not rows_found:
            moved.factors.append(pair)
            continue
        old, move = rows_found[0]
        path = fill(old.removesuffix(".in_proj_weight"), numbers)
        moved.renamed.append((pair.path, path))
        if len(move.to) > 1:
            joins.setdefault(path, (move, {}))[1][str(move.to.index(template))] = pair
        elif move.parts > 1:
            moved.factors += _cut(pair, rows_found, numbers)
        else:
            kind = ModuleKind.LINEAR if part and not old.endswith("}") else pair.kind
            keeps = part is not None and not template.endswith("{}")
            moved.factors.append(
                replace(pair, path=f"{path}.{part[1]}" if keeps and part else path, kind=kind)
            )
    for path, (move, parts) in joins.items():
        _join(path, move, parts, moved)
    return moved


def _cut(pair: Factors, found: Sequence[tuple[str, Move]], numbers: Sequence[str]) -> list[Factors]:
    """Each old module's rows, at the rank it had when it was joined."""
    rows = equal_rows(found[0][1].parts, pair.b.shape[0])
    if rows is None:
        return [pair]
    paths = {str(move.part): fill(old, numbers) for old, move in found}
    pieces = cut(replace(pair, kind=ModuleKind.LINEAR), rows, paths)
    return [trimmed(piece) for piece in pieces if not is_zero(piece.b)]


def _join(path: str, move: Move, parts: Mapping[str, Factors], moved: Moved) -> None:
    total = next(iter(parts.values())).b.shape[0] * len(move.to)
    rows = equal_rows(len(move.to), total)
    if rows is None or any(pair.b.shape[0] * len(move.to) != total for pair in parts.values()):
        moved.stop(path, "its parts have different numbers of rows")
        return
    try:
        joined = join(path, dict(sorted(parts.items())), rows, total, read=True)
    except CannotJoin as error:
        moved.stop(path, str(error))
        return
    moved.exact &= joined.exact
    moved.factors.append(joined.pair)


def _refused(message: str, layout: str, hint: str = "") -> Refused:
    return Refused(message, where=layout, code="unsupported_target", hint=hint)
