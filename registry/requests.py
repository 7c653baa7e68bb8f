"""What is asked of pull, inspect and convert, and what it means for reading."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from adaptrix.convert.architecture.foreign import built
from adaptrix.convert.architecture.shapes import BaseShapes
from adaptrix.convert.options import ReadOptions
from adaptrix.registry.base_config import config_path, read_config
from adaptrix.registry.sources import locate
from adaptrix.schema.base_config import config_digest
from adaptrix.schema.reference import HubSource, PathSource

if TYPE_CHECKING:
    from pathlib import Path

    from adaptrix.convert.base_weights import BaseWeights
    from adaptrix.registry.remotes import Place
    from adaptrix.schema.digest import Digest


@dataclass(frozen=True, slots=True, kw_only=True)
class PullRequest:
    """What was asked for; see :meth:`Registry.pull`."""

    source: str
    name: str | None = None
    revision: str | None = None
    base: str | None = None
    alpha: float | None = None
    source_layout: str | None = None
    description: str = ""
    capabilities: tuple[str, ...] = ()
    domain: str = ""
    training_data: str = ""
    license: str = ""
    carry: bool = False
    dry_run: bool = False
    force: bool = False


def read_options(request: PullRequest) -> ReadOptions:
    """How to read, from what was asked.

    Raises:
        NotFound, FormatError, RemoteError: ``--base`` has no readable ``config.json``.
    """
    config, name, modules, path = None, request.base, None, None
    if request.base is not None:
        path = config_path(request.base)
        if path is not None:
            config = read_config(path)
            if BaseShapes.of(config) is None:
                modules = built(str(path.parent))
    return ReadOptions(
        alpha=request.alpha,
        source_layout=request.source_layout,
        base_config=config,
        base_name=name,
        base_modules=modules,
        base_build=None if path is None else partial(built, str(path.parent)),
        base_weights=_base_weights(path),
        carry=request.carry,
    )


def base_config_digest(options: ReadOptions) -> Digest | None:
    """Digest of the base's configuration, where it was at hand; a known name alone is none."""
    return config_digest(options.base_config) if options.base_config is not None else None


def _base_weights(path: Path | None) -> Callable[[], BaseWeights] | None:
    """What opens the weights beside the base's ``config.json``; None where there are none."""
    if path is None or not any(path.parent.glob("*.safetensors")):
        return None
    folder = path.parent

    def opened() -> BaseWeights:
        from adaptrix.convert.base_weights import base_weights_of  # noqa: PLC0415
        from adaptrix.convert.source import open_path  # noqa: PLC0415

        return base_weights_of(open_path(folder))

    return opened


def located(request: PullRequest, place: Place | None) -> HubSource | PathSource:
    """A path or a hub's repository; a remote may be a namespace on a hub."""
    if place is None:
        return locate(request.source, request.revision)
    source = HubSource(
        repository=f"{place.location.path}/{place.name}", revision=place.revision or None
    )
    return locate(str(source), request.revision)
