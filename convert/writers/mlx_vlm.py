"""Writes what mlx-vlm's ``apply_lora_layers`` loads, in its schema of May 2026 and later.

The schema is MLX-LM's, with whole paths as keys: it states the scale itself, where the older
``rank`` and ``alpha`` mean two things (see :mod:`adaptrix.convert.formats.mlx_vlm`). Versions
before it refuse the file. mlx-vlm keeps every language model below ``language_model``; names
inside its vision towers differ by model and are not written. Source: mlx-vlm,
``trainer/utils.py``, and ``sanitize`` of the models.
"""

from __future__ import annotations

import re

from adaptrix.convert.layouts.mlx import mlx_name
from adaptrix.convert.writers.mlx import LAYERS, check_holds, config_of, two_files
from adaptrix.convert.written import Written
from adaptrix.schema.adapter import Adapter
from adaptrix.schema.canonical import Json
from adaptrix.schema.errors import Refused

INSIDE, TEXT = "model.language_model.", "language_model."
_INSIDE = re.compile(r"model\.language_model\.layers\.\d+\.(?!.*\bexperts\.).+")


def write(adapter: Adapter) -> Written:
    """The adapter as ``adapters.safetensors`` and ``adapter_config.json``.

    Raises:
        Refused: several scales or ranks; embeddings and modules of a vision tower.
    """
    check_holds(adapter, "mlx-vlm", "mlx-vlm", LAYERS)
    paths = {str(module.path): _name(adapter.family, module.path) for module in adapter.modules}
    keys: list[Json] = [*sorted(paths.values())]
    return two_files(adapter, paths, config_of(adapter, keys))


def _name(family: str, path: str) -> str:
    if not _INSIDE.fullmatch(path) and mlx_name(family, path) != path:
        message = f"the name that mlx-vlm's class gives {path} is not known"
        raise Refused(message, where="mlx-vlm", code="unsupported_target")
    return language_name(path)


def language_name(path: str) -> str:
    """mlx-vlm's name of a module of a language model.

    ``model.language_model.layers.0.mlp.up_proj`` and, in a model without images,
    ``model.layers.0.mlp.up_proj`` are both ``language_model.model.layers.0.mlp.up_proj``.
    """
    if path.startswith(INSIDE):
        return f"{TEXT}model.{path.removeprefix(INSIDE)}"
    return TEXT + path


def transformers_name(path: str, *, has_images: bool) -> str:
    """Inverse of :func:`language_name`, for a model with a vision part or without."""
    inside = path.removeprefix(TEXT)
    if inside == path:
        return path
    return inside.replace("model.", INSIDE, 1) if has_images and inside[:6] == "model." else inside
