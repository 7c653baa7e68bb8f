"""Adaptrix: a verified, versioned, composable home for LoRA adapters.

The names below are the public API; they are imported when first used, so that
``import adaptrix`` costs nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from adaptrix.convert.architecture.foreign import build_with
from adaptrix.schema.version import VERSION as __version__  # noqa: N811

if TYPE_CHECKING:
    from adaptrix.convert.reading import read_adapter
    from adaptrix.convert.source import open_path
    from adaptrix.convert.writing import write_adapter
    from adaptrix.loader.plan import WeightedAdapter
    from adaptrix.loader.session import Session
    from adaptrix.registry.registry import Registry
    from adaptrix.registry.reports import ComposeReport, ConvertReport, PullReport, StoredAdapter
    from adaptrix.schema.adapter import AdaptedModule, Adapter
    from adaptrix.schema.digest import Digest
    from adaptrix.schema.errors import AdaptrixError
    from adaptrix.schema.manifest import Manifest
    from adaptrix.schema.reference import Reference
    from adaptrix.schema.report import Inspection, Verdict

# A library stays silent unless its user listens; ours is the command line.
logging.getLogger(__name__).addHandler(logging.NullHandler())

_HOME = {
    "AdaptedModule": "schema.adapter",
    "Adapter": "schema.adapter",
    "AdaptrixError": "schema.errors",
    "ComposeReport": "registry.reports",
    "ConvertReport": "registry.reports",
    "Digest": "schema.digest",
    "Inspection": "schema.report",
    "Manifest": "schema.manifest",
    "PullReport": "registry.reports",
    "Reference": "schema.reference",
    "Registry": "registry.registry",
    "Session": "loader.session",
    "StoredAdapter": "registry.reports",
    "Verdict": "schema.report",
    "WeightedAdapter": "loader.plan",
    "open_path": "convert.source",
    "read_adapter": "convert.reading",
    "write_adapter": "convert.writing",
}

__all__ = [
    "AdaptedModule", "Adapter", "AdaptrixError", "ComposeReport", "ConvertReport", "Digest",
    "Inspection", "Manifest", "PullReport", "Reference", "Registry", "Session", "StoredAdapter",
    "Verdict", "WeightedAdapter", "__version__", "open_path", "read_adapter", "write_adapter",
]  # fmt: skip


def _build(folder: str) -> Mapping[str, tuple[str, int, int]]:
    """Modules of a base that the catalogue does not have; torch is imported only for it."""
    from adaptrix.loader.structure import modules_of_folder  # noqa: PLC0415

    return modules_of_folder(folder)


build_with(_build)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'adaptrix' has no attribute {name!r}")
    return getattr(import_module(f"adaptrix.{_HOME[name]}"), name)
