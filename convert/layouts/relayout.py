"""From the names and fused modules of one form to those of another.

Every pair is taken to the part it is (``q``, ``gate`` …), fused ones cut; then parts are
renamed, or joined where the other form has them fused. What neither form names stays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from adaptrix.convert.draft import Factors
from adaptrix.convert.layouts.forms import FORMS, Form, Fused, relatives
from adaptrix.convert.layouts.fusing import cut
from adaptrix.convert.layouts.moving import Moved
from adaptrix.convert.layouts.row_orders import Heads, part_rows, total_rows
from adaptrix.schema.adapter import Replacement, ReplacementRole
from adaptrix.schema.report import Problem

_NO_HEADS = "Pass --base with the base model's folder or id."


def source_form(family: str, paths: Sequence[str]) -> str | None:
    """Whose names ``paths`` are, when they are not those of ``family``'s own class.

    Returns:
        ``family`` itself when its fused modules are written apart; a relative; or None when
        there is nothing to do or no form has all of the names.
    """
    form = FORMS.get(family)
    if form is None or all(_is_own(form, path) for path in paths):
        return None
    for name in (family, *relatives(family)):
        marked = any(path.startswith(FORMS[name].marks) for path in paths)
        if marked and all(_part(FORMS[name], path) is not None for path in paths):
            return name
    return None


def relayout(
    factors: Sequence[Factors],
    replacements: Sequence[Replacement],
    source: str,
    target: str,
    heads: Heads,
    *,
    apart: bool = False,
    read: bool = True,
) -> Moved:
    """Pairs and replacements in the form of ``target``.

    Args:
        factors: Pairs under the names of ``source``, fused or apart.
        replacements: Absolute tensors under the names of ``source``.
        source: Family whose form the names have.
        target: Family whose form they are to have; of the same kin, or ``source``.
        heads: Heads of the base.
        apart: Leave fused modules of ``target`` apart.
        read: Whether values may be read to find parts that share one ``A``.
    """
    old, new, moved = FORMS[source], FORMS[target], Moved()
    gathered: dict[str, tuple[str, Fused, dict[str, Factors]]] = {}
    for pair in factors:
        if source == target and not apart and _is_own(old, pair.path):
            moved.factors.append(pair)
            continue
        for part, one in _parts(old, pair, heads, moved):
            holder = None if apart else new.holder(part)
            to = _path(old, new, part, one, apart=apart)
            if to is None:
                moved.factors.append(one)
                continue
            moved.renamed.append((pair.path, to))
            if holder is None:
                moved.factors.append(replace(one, path=to))
            else:
                fused = gathered.setdefault(to, (*holder, {}))[2]
                fused[part] = one
    for path, (_, fused_as, parts) in gathered.items():
        _join(path, fused_as, parts, heads, moved, read=read)
    moved.replacements = [_replacement(old, new, item, moved) for item in replacements]
    return moved


def _is_own(form: Form, path: str) -> bool:
    """Whether today's class of the form has this module, or the form does not speak of it."""
    place = form.place(path)
    if place is None:
        return path in form.outer.values() or not _foreign_outer(form, path)
    _, tail = place
    return tail in form.fused or tail in form.parts.values() or tail not in _every_tail(form)


def _every_tail(form: Form) -> set[str]:
    """Tails of its own and of its relatives."""
    found = set(form.tails())
    if form.kin:
        for other in FORMS.values():
            if other.kin == form.kin:
                found |= other.fused.keys() | other.tails().keys()
    return found


def _foreign_outer(form: Form, path: str) -> bool:
    if not form.kin:
        return False
    kin = [other for other in FORMS.values() if other.kin == form.kin]
    inside = any(other.place(path) is not None for other in kin)
    return inside or any(path in other.outer.values() for other in kin)


def _part(form: Form, path: str) -> tuple[str, str] | None:
    """``(block or "", part)``; the part of a fused module is its tail."""
    for part, outer in form.outer.items():
        if path == outer:
            return "", part
    place = form.place(path)
    if place is None:
        return None
    block, tail = place
    if tail in form.fused:
        return block, tail
    named = form.tails().get(tail)
    return None if named is None else (block, named)


def _parts(form: Form, pair: Factors, heads: Heads, moved: Moved) -> list[tuple[str, Factors]]:
    """The pair by parts; itself under ``""`` when the form does not speak of it."""
    found = _part(form, pair.path)
    if found is None:
        return [("", pair)]
    _, part = found
    fused = form.fused.get(part)
    if fused is None:
        return [(part, pair)]
    rows = part_rows(fused.order, fused.parts, pair.b.shape[0], _heads_for(pair, fused, heads))
    if rows is None:
        message = f"{pair.b.shape[0]} rows of {'‖'.join(fused.parts)} need the heads of the base"
        moved.problems.append(
            Problem.of("ambiguous_layout", message, where=pair.path, hint=_NO_HEADS)
        )
        return [("", pair)]
    pieces = cut(pair, rows, dict.fromkeys(fused.parts, pair.path))
    return list(zip(fused.parts, pieces, strict=True))


def _heads_for(pair: Factors, fused: Fused, heads: Heads) -> Heads:
    """Blocks of ``q‖k‖v`` as high as the input is wide are three equal ones, heads or not."""
    equal = fused.order == "blocks" and pair.b.shape[0] == 3 * pair.a.shape[-1]
    return _THIRDS if heads.heads is None and equal else heads


_THIRDS = Heads(heads=1, groups=1)
"""As many groups as heads: q, k and v are of one size."""


def _path(old: Form, new: Form, part: str, pair: Factors, *, apart: bool) -> str | None:
    if not part:
        return None
    if part in old.outer:
        return new.outer.get(part)
    place = old.place(pair.path)
    if place is None:
        return None
    index = old.blocks.index(next(b for b in old.blocks if _begins(b, place[0])))
    number = place[0].rstrip(".").rpartition(".")[2]
    block = new.blocks[min(index, len(new.blocks) - 1)].format(number)
    holder = None if apart else new.holder(part)
    tail = holder[0] if holder else new.named(part)
    return None if tail is None else block + tail


def _begins(block: str, start: str) -> bool:
    return block.format(start.rstrip(".").rpartition(".")[2]) == start


def _join(
    path: str, fused: Fused, parts: Mapping[str, Factors], heads: Heads, moved: Moved, *, read: bool
) -> None:
    known = {part: pair.b.shape[0] for part, pair in parts.items()}
    total = total_rows(fused.order, fused.parts, known, heads)
    able = heads
    if total is not None and len(set(known.values())) == 1 and heads.heads is None:
        able = _THIRDS if len(known) == len(fused.parts) and fused.order == "blocks" else heads
    rows = None if total is None else part_rows(fused.order, fused.parts, total, able)
    if rows is None or total is None or any(len(rows[p]) != n for p, n in known.items()):
        message = f"rows of {', '.join(sorted(known))} in {path} need the heads of the base"
        moved.problems.append(Problem.of("ambiguous_layout", message, where=path, hint=_NO_HEADS))
        moved.factors += parts.values()
        return
    moved.join(path, parts, rows, total, read=read)


def _replacement(old: Form, new: Form, item: Replacement, moved: Moved) -> Replacement:
    tokens = item.role is ReplacementRole.TRAINABLE_TOKENS
    module, dot, leaf = (item.parameter, "", "") if tokens else item.parameter.rpartition(".")
    for part, outer in old.outer.items():
        if module == outer and new.outer.get(part, outer) != outer:
            moved.renamed.append((module, new.outer[part]))
            return replace(item, parameter=new.outer[part] + dot + leaf)
    place = old.place(module)
    if place is not None and old is not new:
        moved.stop(item.parameter, "an absolute tensor inside of a block has no other form")
    return item
