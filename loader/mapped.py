"""A model over mapped safetensors files: transformers names and ties, nothing is copied."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME
from transformers.utils.hub import cached_file

from adaptrix.loader.base_place import BasePlace, complete
from adaptrix.loader.checkpoint import Checkpoint


def load_mapped(place: BasePlace) -> tuple[PreTrainedModel, Checkpoint] | None:
    """The model in the checkpoint's own dtype, its parameters views of the mapped files.

    Parameters that transformers has to compute (fused experts, say) are ordinary memory.
    None when the base has no plain safetensors, or is quantised: transformers' own loading
    knows those.

    Raises:
        FormatError: weights that the model needs are missing or have another shape.
    """
    if place.gguf_file is not None:
        return None
    config = AutoConfig.from_pretrained(place.location, **place.options)
    ours = ("quantization_config", "transformers_weights")
    if any(getattr(config, name, None) for name in ours):
        return None
    paths = list(_weight_files(place))
    if not paths:
        return None
    checkpoint = Checkpoint(paths)
    with torch.device("meta"):
        kind: Any = type(AutoModelForCausalLM.from_config(config, trust_remote_code=False))
    model, found = kind.from_pretrained(
        None,
        config=config,
        state_dict=dict(checkpoint.tensors),
        dtype="auto",
        generation_config=_generation_config(place, config),
        output_loading_info=True,
    )
    model.config._name_or_path = model.name_or_path = place.location
    return complete(place, model, found), checkpoint


def _weight_files(place: BasePlace) -> Iterator[Path]:
    """Paths of the weights, in the order in which transformers looks for them."""
    if whole := _file(place, SAFE_WEIGHTS_NAME):
        yield whole
    elif index := _file(place, SAFE_WEIGHTS_INDEX_NAME):
        entries = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        for name in sorted(set(entries.values())):
            path = _file(place, name)
            if path is None:
                raise FileNotFoundError(f"{SAFE_WEIGHTS_INDEX_NAME} lists {name}, which is missing")
            yield path


def _file(place: BasePlace, name: str) -> Path | None:
    if place.folder is not None:
        path = place.folder / name
        return path if path.is_file() else None
    found = cached_file(
        place.location, name, revision=place.revision, _raise_exceptions_for_missing_entries=False
    )
    return None if found is None else Path(found)


def _generation_config(place: BasePlace, config: PretrainedConfig) -> GenerationConfig:
    try:
        return GenerationConfig.from_pretrained(place.location, **_revision(place))
    except OSError:
        return GenerationConfig.from_model_config(config)


def _revision(place: BasePlace) -> dict[str, Any]:
    return {} if place.revision is None else {"revision": place.revision}
