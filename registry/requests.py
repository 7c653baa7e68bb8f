"""What is asked of pull, inspect and convert, and what it means for reading."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from adaptrix.convert.options import ReadOptions
from adaptrix.registry.sources import locate
from adaptrix.schema.canonical import Json
from adaptrix.schema.errors import FormatError, NotFound
from adaptrix.schema.reference import HubSource, PathSource

if TYPE_CHECKING:
    from adaptrix.convert.base_weights import BaseWeights
    from adaptrix.registry.remotes import Place

MAX_CONFIG_BYTES = 4 << 20


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
        NotFound, FormatError: ``--base`` is a path without a readable ``config.json``.
    """
    config, name = None, request.base
    if request.base is not None:
        path = _base_config_path(request.base)
        if path is not None:
            config = _read_json(path)
    return ReadOptions(
        alpha=request.alpha,
        source_layout=request.source_layout,
        base_config=config,
        base_name=name,
        base_weights=_base_weights(request.base),
        carry=request.carry,
    )


def _base_config_path(base: str) -> Path | None:
    from adaptrix.samples import BASE_DIR, BASE_NAME  # noqa: PLC0415

    if base in {BASE_NAME, "sample"}:
        return BASE_DIR / "config.json"
    path = Path(base).expanduser()
    if path.is_dir():
        path /= "config.json"
    if path.is_file():
        return path
    if base.startswith((".", "/", "~")) or base.endswith(".json"):
        raise NotFound("no config.json of a base model there", where=base)
    return None


def _base_weights(base: str | None) -> Callable[[], BaseWeights] | None:
    """What opens the weights beside the base's ``config.json``; None where there are none."""
    path = _base_config_path(base) if base is not None else None
    if path is None or not any(path.parent.glob("*.safetensors")):
        return None
    folder = path.parent

    def opened() -> BaseWeights:
        from adaptrix.convert.base_weights import base_weights_of  # noqa: PLC0415
        from adaptrix.convert.source import open_path  # noqa: PLC0415

        return base_weights_of(open_path(folder))

    return opened


def _read_json(path: Path) -> dict[str, Json]:
    if path.stat().st_size > MAX_CONFIG_BYTES:
        raise FormatError("too large for a configuration", where=str(path))
    try:
        document = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise FormatError(f"not JSON: {error}", where=str(path)) from error
    if not isinstance(document, dict):
        raise FormatError("expected an object", where=str(path))
    return document


def located(request: PullRequest, place: Place | None) -> HubSource | PathSource:
    """A path or a hub's repository; a remote may be a namespace on a hub."""
    if place is None:
        return locate(request.source, request.revision)
    source = HubSource(
        repository=f"{place.location.path}/{place.name}", revision=place.revision or None
    )
    return locate(str(source), request.revision)
