"""A merged model as a checkpoint that transformers and every engine that reads its files load."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from adaptrix.loader.base import BaseModel
from adaptrix.store.new_folder import appearing, require_new_folder

RECIPE_NAME = "adaptrix.json"


def save_model(base: BaseModel, folder: Path, recipe: Mapping[str, Any]) -> int:
    """Write the model as it stands, its tokenizer, and what was merged, to a new folder.

    The folder appears when all of it is written; a model that was widened to compute in is
    written in the type that its weights were rounded to.

    Args:
        base: The base with whatever is merged into it.
        folder: New, or empty.
        recipe: What it was made from, kept beside it as ``adaptrix.json``.

    Returns:
        Bytes of all files.

    Raises:
        UsageError: the folder holds something.
        OSError: it cannot be written.
    """
    require_new_folder(folder)
    with appearing(folder) as place:
        state = _state(base)
        before = base.model.config.dtype
        try:
            base.model.save_pretrained(place, state_dict=state)
        finally:
            # It notes what the model computes in, in the model's own configuration.
            base.model.config.dtype = before
        _note_dtype(place / "config.json", base.dtype)
        base.tokenizer.save_pretrained(place)
        text = json.dumps(recipe, indent=2, ensure_ascii=False, default=str)
        (place / RECIPE_NAME).write_text(text + "\n", encoding="utf-8")
        files = list(place.iterdir())
        for file in files:
            # safetensors writes what its owner alone may read.
            file.chmod(0o644)
        return sum(file.stat().st_size for file in files)


def _state(base: BaseModel) -> dict[str, torch.Tensor]:
    """Tensors by name; what shared its memory still does, so that it is written once."""
    made: dict[tuple[int, torch.Size], torch.Tensor] = {}
    state = {}
    for name, value in base.model.state_dict().items():
        key = (value.data_ptr(), value.shape)
        if key not in made:
            made[key] = _narrowed(value, base)
        state[name] = made[key]
    return state


def _narrowed(value: torch.Tensor, base: BaseModel) -> torch.Tensor:
    """``value`` in the type of the base's weights, where that loses nothing."""
    if value.dtype != base.compute_dtype or base.compute_dtype == base.dtype:
        return value
    narrow = value.to(base.dtype)
    return narrow if torch.equal(narrow.to(value.dtype), value) else value


def _note_dtype(path: Path, dtype: torch.dtype) -> None:
    config = json.loads(path.read_bytes())
    config["dtype"] = str(dtype).removeprefix("torch.")
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
