"""From names that transformers gave up, and from other forms of a network, to today's class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from adaptrix.convert.architecture.dimensions import Dimensions
from adaptrix.convert.layouts.heads import heads_of
from adaptrix.convert.layouts.moving import Moved, has_old_names, modernise
from adaptrix.convert.layouts.named import Named
from adaptrix.convert.layouts.relayout import relayout, source_form
from adaptrix.convert.layouts.renames import is_raw_weight
from adaptrix.convert.options import ReadOptions
from adaptrix.schema.canonical import Json
from adaptrix.schema.report import Problem

OLD = "transformers-4"


def current_names(named: Named, family: str, sizes: Dimensions, options: ReadOptions) -> Named:
    """Rename, cut and join as today's class of ``family`` has it.

    Args:
        named: The draft as its names are.
        family: Detected family.
        sizes: Dimensions of the base as far as they are known.
        options: Whether values may be read, and the base's configuration.
    """
    read = options.check_values
    moved = modernise(named.factors, named.replacements, family, read=read)
    if moved.renamed or moved.problems:
        named = _with(named, moved, OLD)
    source = source_form(family, [pair.path for pair in named.factors])
    if source is None or moved.problems:
        return named
    heads = heads_of(source, sizes, options.base_config)
    moved = relayout(named.factors, named.replacements, source, family, heads, read=read)
    return _with(named, moved, "split" if source == family else source)


def family_of_names(detected: str, stated: str, paths: Sequence[str], *, declared: str = "") -> str:
    """The base's family where the file's names are its old ones, or a relative's.

    Args:
        detected: Family by content.
        stated: ``model_type`` of the base that was given, or ``""``.
        paths: Module paths of the file.
        declared: Family of the base that the source names; counts for old names only, since
            split copies of a base go by its name too.
    """
    if not stated:
        return declared if has_old_names(declared, paths) else detected
    if stated == detected:
        return detected
    if has_old_names(stated, paths) or source_form(stated, paths) is not None:
        return stated
    if any(is_raw_weight(stated, path) for path in paths):
        return stated
    return detected


def _with(named: Named, moved: Moved, layout: str) -> Named:
    problems = [*named.problems, *moved.problems]
    if moved.renamed and not moved.problems:
        old, new = moved.renamed[0]
        message = f"{len(moved.renamed)} modules of {layout} renamed, first {old} to {new}"
        problems.append(Problem.of("renamed_modules", message))
    if not moved.exact:
        message = "parts of one module had different scales: their ratio is in the factors"
        problems.append(Problem.of("recomputed", message))
    return replace(
        named,
        layout=layout,
        factors=tuple(moved.factors),
        replacements=tuple(sorted(moved.replacements, key=lambda item: item.parameter)),
        extra=_extra(named.extra, moved),
        problems=tuple(problems),
        evidence=(*named.evidence, f"module names are those of {layout}"),
        exact=named.exact and moved.exact,
    )


def _extra(extra: dict[str, Json], moved: Moved) -> dict[str, Json]:
    """Declared targets are kept where they still end some module's name."""
    targets = extra.get("target_modules")
    paths = [pair.path for pair in moved.factors]
    if not isinstance(targets, list) or all(_ends(paths, target) for target in targets):
        return extra
    return {name: value for name, value in extra.items() if name != "target_modules"}


def _ends(paths: Sequence[str], target: Json) -> bool:
    return any(path == target or path.endswith(f".{target}") for path in paths)
