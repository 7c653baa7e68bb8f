"""Adapters of one network alone, as PEFT has them: paths without the component's name.

PEFT loads an adapter on one network, so the file of an adapter that has one component only
names modules inside it, and the component stands in the safetensors metadata; reading puts it
back, and notes it among the settings of the adapter. Adapters of several networks keep full
paths, which fit a module that holds them all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from adaptrix.convert.contents import Contents
from adaptrix.convert.diffusion.models import COMPONENTS
from adaptrix.convert.draft import Draft
from adaptrix.convert.options import ReadOptions
from adaptrix.schema.adapter import Adapter, ModulePath

KEY = "component"
Reader = Callable[[Contents, ReadOptions], Draft]


def without_component(adapter: Adapter) -> tuple[Adapter, str]:
    """The adapter with paths inside its one component, and that; ``""`` when it has none or more."""
    component = adapter.extra.get(KEY)
    prefix = f"{component}."
    names = (*(str(m.path) for m in adapter.modules), *(r.parameter for r in adapter.replacements))
    if not isinstance(component, str) or not all(name.startswith(prefix) for name in names):
        return adapter, ""
    modules = tuple(
        replace(m, path=ModulePath(m.path.removeprefix(prefix))) for m in adapter.modules
    )
    replacements = tuple(
        replace(r, parameter=r.parameter.removeprefix(prefix)) for r in adapter.replacements
    )
    return replace(adapter, modules=modules, replacements=replacements), component


def with_component(read: Reader) -> Reader:
    """A reader of PEFT's files that puts the component of the metadata before all paths."""

    def reader(contents: Contents, options: ReadOptions) -> Draft:
        draft = read(contents, options)
        component = contents.metadata.get(KEY)
        if component not in COMPONENTS:
            return draft
        return replace(
            draft,
            extra={**draft.extra, KEY: component},
            factors=tuple(replace(f, path=f"{component}.{f.path}") for f in draft.factors),
            replacements=tuple(
                replace(r, parameter=f"{component}.{r.parameter}") for r in draft.replacements
            ),
        )

    return reader
