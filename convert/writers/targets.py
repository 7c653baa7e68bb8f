"""``target_modules`` for a base that is not at hand.

A short name like ``q_proj`` makes PEFT wrap every module that ends so. That is right only
when the adapter has factors for all of them; otherwise PEFT would find keys missing. So
short names need a reason to believe that: the producer's own list, or a known base with as
many layers. Full paths are always right.
"""

from __future__ import annotations

from adaptrix.convert.architecture.families import family_named
from adaptrix.convert.architecture.family import template
from adaptrix.convert.architecture.known_bases import known_base
from adaptrix.convert.architecture.observed import layer_indices
from adaptrix.convert.architecture.shape import Shapes
from adaptrix.schema.adapter import Adapter


def target_modules(adapter: Adapter) -> tuple[str, ...]:
    """Short names when they select exactly the adapted modules, else full paths."""
    paths = tuple(module.path for module in adapter.modules)
    short = _short_names(adapter, paths)
    return short or tuple(sorted(paths))


def _short_names(adapter: Adapter, paths: tuple[str, ...]) -> tuple[str, ...]:
    declared = adapter.extra.get("target_modules")
    if isinstance(declared, list) and declared:
        names = {name for name in declared if isinstance(name, str)}
    else:
        base = known_base(adapter.base_name)
        if base is None or len(layer_indices(paths)) != base.dimensions.layers:
            return ()
        names = {path.rpartition(".")[2] for path in paths}
    if not all(any(_ends(path, name) for name in names) for path in paths):
        return ()
    complete = all(_is_everywhere(name, adapter.family, paths) for name in names)
    return tuple(sorted(names)) if complete else ()


def _is_everywhere(name: str, family: str, paths: tuple[str, ...]) -> bool:
    """Whether ``name`` selects nothing that the adapter lacks, as far as can be known."""
    chosen = [path for path in paths if _ends(path, name)]
    if not chosen:
        return False
    layers = layer_indices(paths)
    if layers and layers != tuple(range(len(layers))):
        return False
    # Every kind of module that ends in this name has to be there in every layer.
    tails = {path.replace(f".{index}.", ".{}.", 1) for path in chosen for index in layers}
    tails = {tail for tail in tails if ".{}." in tail}
    expected = len(tails) * len(layers) + sum(not layer_indices([p]) for p in chosen)
    if tails and expected != len(chosen):
        return False
    known = family_named(family)
    if known is None:
        return True
    templates = tails | {path for path in chosen if not layer_indices([path])}
    wanted = {
        template(path) for path, shapes in known.names() if _ends(path, name) and _always(shapes)
    }
    return wanted <= {template(path) for path in templates}


def _always(shapes: Shapes) -> bool:
    """Modules that only a setting brings in may not be there."""
    return any(not shape.when for shape in shapes)


def _ends(path: str, name: str) -> bool:
    return path == name or path.endswith(f".{name}")
