"""What a source shows of its base, and what it says of it, for detection."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from adaptrix.convert.architecture.observed import Claims, Observation
from adaptrix.convert.draft import Draft
from adaptrix.convert.layouts.experts import base_path
from adaptrix.convert.options import ReadOptions
from adaptrix.schema.adapter import ReplacementRole
from adaptrix.schema.canonical import Json

_WHOLE = frozenset({ReplacementRole.MODULES_TO_SAVE, ReplacementRole.EMBEDDING})
_TARGET = re.compile(r"[\w.]+")


def claims_of(draft: Draft, config: Mapping[str, Json], options: ReadOptions) -> Claims:
    """What the source, its ``config`` and the user say."""
    mapping = config.get("auto_mapping")
    library = mapping.get("parent_library") if isinstance(mapping, Mapping) else None
    targets = config.get("target_modules")
    names = targets if isinstance(targets, list) else []
    return Claims(
        base_name=draft.base_name,
        base_class=draft.base_class,
        library=library if isinstance(library, str) else "",
        architecture=draft.architecture,
        base_model_type=str((options.base_config or {}).get("model_type", "")),
        task_type=str(config.get("task_type") or ""),
        targets=tuple(
            name.rpartition(".")[2]
            for name in names
            if isinstance(name, str) and _TARGET.fullmatch(name)
        ),
    )


def observations_of(draft: Draft) -> list[Observation]:
    """The modules that are adapted, or that a refused method names; whole weights beside them."""
    seen = [
        Observation(path=base_path(f), out_features=f.b.shape[0], in_features=f.a.shape[1])
        for f in draft.factors
        if len(f.a.shape) == 2 and f.b.shape
    ]
    flat = [Observation(path=f.path) for f in draft.factors if len(f.a.shape) != 2]
    named = [Observation(path=path) for path in draft.hints]
    return [*seen, *flat, *named, *_saved(draft)]


def _saved(draft: Draft) -> Iterator[Observation]:
    adapted = {f.path for f in draft.factors}
    for entry in draft.replacements:
        module, _, leaf = entry.parameter.rpartition(".")
        shape = entry.tensor.shape
        if entry.role in _WHOLE and leaf == "weight" and len(shape) == 2 and module not in adapted:
            yield Observation(path=module, out_features=shape[0], in_features=shape[1], saved=True)
