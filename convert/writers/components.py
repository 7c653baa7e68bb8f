"""Adapters of diffusion pipelines, component by component, for the formats that name them."""

from __future__ import annotations

from adaptrix.convert.diffusion.bare import KEY
from adaptrix.convert.diffusion.detection import placed_path
from adaptrix.convert.diffusion.models import component_of
from adaptrix.schema.adapter import AdaptedModule, Adapter
from adaptrix.schema.errors import Refused


def modules_by_component(
    adapter: Adapter, where: str, *, magnitudes: bool = True
) -> dict[str, list[tuple[str, AdaptedModule]]]:
    """``(path inside, module)`` of each component.

    Raises:
        Refused: modules of no diffusion model, or tensors that the target has no place for.
    """
    if not adapter.modules:
        raise Refused("an adapter without modules cannot be written", where=where)
    if adapter.replacements:
        first = adapter.replacements[0].parameter
        raise _refused(f"it has no place for {first}, which replaces the base's own", where)
    found: dict[str, list[tuple[str, AdaptedModule]]] = {}
    for module in adapter.modules:
        path = placed_path(str(module.path))
        component = component_of(path) or _stored(adapter, path)
        if not component:
            raise _refused(f"{module.path} is no module of a diffusion pipeline", where)
        if module.magnitude is not None and not magnitudes:
            raise _refused(f"it has no place for the magnitude of {module.path}", where)
        found.setdefault(component, []).append((path.removeprefix(f"{component}."), module))
    return found


def _stored(adapter: Adapter, path: str) -> str:
    """The component that the file was read with, of a pipeline that is in no table."""
    component = adapter.extra.get(KEY)
    return component if isinstance(component, str) and path.startswith(f"{component}.") else ""


def _refused(message: str, where: str) -> Refused:
    return Refused(message, where=where, code="unsupported_target")
