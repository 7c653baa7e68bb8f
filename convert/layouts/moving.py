"""Old module names to today's, by the generated table of one family.

Whole modules are renamed; old per-expert modules become slices of today's stacked
parameters, gate and up joined as PEFT 0.19 and later join them when they load such a file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from adaptrix.convert.architecture.families import family_named
from adaptrix.convert.draft import Factors
from adaptrix.convert.layouts.experts import slice_of
from adaptrix.convert.layouts.fusing import CannotJoin, cut, join
from adaptrix.convert.layouts.renames import Move, fill, moves, slots
from adaptrix.convert.layouts.row_orders import Rows
from adaptrix.convert.numeric import np
from adaptrix.schema.adapter import ModuleKind, Replacement, ReplacementRole
from adaptrix.schema.report import Problem

_MOST = 8
_MHA = ".in_proj_weight"
"""PEFT names the factors of a fused attention input after the attention module itself."""


@dataclass(slots=True)
class Moved:
    """Pairs and replacements under other names.

    Attributes:
        factors: Pairs.
        replacements: Absolute tensors.
        renamed: Old and new path of everything that changed.
        problems: What could not follow.
        exact: Whether only copies were made.
    """

    factors: list[Factors] = field(default_factory=list)
    replacements: list[Replacement] = field(default_factory=list)
    renamed: list[tuple[str, str]] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    exact: bool = True

    def stop(self, path: str, message: str) -> None:
        """Note that ``path`` cannot follow."""
        if len(self.problems) < _MOST:
            self.problems.append(Problem.of("unsupported_method", message, where=path))

    def join(
        self, path: str, parts: Mapping[str, Factors], rows: Rows, total: int, *, read: bool
    ) -> None:
        """Add the pair that ``parts`` make together; where they make none, they stay."""
        try:
            joined = join(path, parts, rows, total, read=read)
        except CannotJoin as error:
            self.stop(path, str(error))
            self.factors += parts.values()
            return
        self.exact &= joined.exact
        sliced = _is_expert(next(iter(parts.values())).path, path)
        kind = ModuleKind.PARAMETER if sliced else joined.pair.kind
        self.factors.append(replace(joined.pair, kind=kind))


def has_old_names(family: str, paths: Sequence[str]) -> bool:
    """Whether every one of ``paths`` is an old name of the family."""
    table, every = moves(family), set(paths)
    old = {path for path in every if _find(table, path)} if table else set()
    return bool(old) and all(_beside(family, path) for path in every - old)


def _beside(family: str, path: str) -> str:
    """Today's name of a module that had none of its root when others had old names, or ``""``.

    Qwen2-VL's ``visual.blocks`` beside ``model.layers`` is ``model.visual.blocks``; alone it is
    the name that the class without a head has.
    """
    known = family_named(family)
    root = known.roots[0] if known is not None and known.roots else ""
    named = known is not None and root and not path.startswith(root)
    return root + path if named and known and slots(path)[0] in known.modules else ""


def modernise(
    factors: Sequence[Factors], replacements: Sequence[Replacement], family: str, *, read: bool
) -> Moved:
    """Everything under the names of the family's current class.

    Args:
        factors: Pairs under the file's names.
        replacements: Absolute tensors under the file's names.
        family: Whose table to use.
        read: Whether values may be read.
    """
    table, moved = moves(family), Moved()
    shares: dict[str, dict[int, tuple[Factors, Move]]] = {}
    is_old = has_old_names(family, [pair.path for pair in factors])
    for pair in factors:
        found = _find(table, pair.path)
        if found is None:
            today = _beside(family, pair.path) if is_old else ""
            moved.renamed += [(pair.path, today)] if today else []
            moved.factors.append(replace(pair, path=today or pair.path))
            continue
        move, paths = found
        if move.obstacle:
            moved.stop(pair.path, f"transformers converts it by {move.obstacle}")
            moved.factors.append(pair)
        elif move.parts > 1:
            shares.setdefault(paths[0], {})[move.part] = (pair, move)
        else:
            moved.factors += _whole(pair, paths)
        if not move.obstacle:
            moved.renamed.append((pair.path, paths[0]))
    for path, parts in shares.items():
        _join(path, parts, moved, read=read)
    for replacement in replacements:
        _replace(table, replacement, moved)
    return moved


def _find(table: Mapping[str, Move], path: str) -> tuple[Move, list[str]] | None:
    """The move of a path and the new paths; None when it is no old name."""
    part = slice_of(path)
    tries = [(path, ""), (path.replace(".base_layer.", "."), ""), (path + _MHA, "")]
    if part is not None:
        tries.append((part[0], f".{part[1]}"))
    for name, tail in tries:
        template, numbers = slots(name)
        move = table.get(template)
        if move is not None:
            return move, [fill(to, numbers) + tail for to in move.to]
    return None


def _whole(pair: Factors, paths: Sequence[str]) -> Sequence[Factors]:
    if len(paths) > 1:
        rows = equal_rows(len(paths), pair.b.shape[0])
        return () if rows is None else cut(pair, rows, {str(i): p for i, p in enumerate(paths)})
    sliced = pair.kind is ModuleKind.LINEAR and _is_expert(pair.path, paths[0])
    kind = ModuleKind.PARAMETER if sliced else pair.kind
    return (replace(pair, path=paths[0], kind=kind),)


def _is_expert(old: str, new: str) -> bool:
    """Whether the last number moved behind the parameter: ``experts.3.w2`` to ``down_proj.3``."""
    return new.rpartition(".")[2].isdigit() and not old.rpartition(".")[2].isdigit()


def equal_rows(parts: int, total: int) -> Rows | None:
    """Row numbers of equal blocks, or None when the rows do not divide."""
    if total % parts:
        return None
    blocks = np.arange(total).reshape(parts, -1)
    return {str(index): blocks[index] for index in range(parts)}


def _join(
    path: str, parts: Mapping[int, tuple[Factors, Move]], moved: Moved, *, read: bool
) -> None:
    pairs = {str(part): pair for part, (pair, _) in sorted(parts.items())}
    first, move = next(iter(parts.values()))
    total = first.b.shape[0] * move.parts
    rows = equal_rows(move.parts, total)
    if rows is None or len({pair.b.shape[0] for pair in pairs.values()}) != 1:
        moved.stop(path, "its parts have different numbers of rows")
        return
    moved.join(path, pairs, rows, total, read=read)


def _replace(table: Mapping[str, Move], item: Replacement, moved: Moved) -> None:
    tokens = item.role is ReplacementRole.TRAINABLE_TOKENS
    module, _, leaf = (item.parameter, "", "") if tokens else item.parameter.rpartition(".")
    found = _find(table, module)
    if found is None:
        moved.replacements.append(item)
        return
    move, paths = found
    if move.obstacle or move.parts > 1 or len(paths) > 1 or _is_expert(module, paths[0]):
        moved.stop(item.parameter, "an absolute tensor of a module that is fused or divided today")
        moved.replacements.append(item)
        return
    name = f"{paths[0]}.{leaf}" if leaf else paths[0]
    moved.replacements.append(replace(item, parameter=name))
    moved.renamed.append((item.parameter, name))
