"""Base models: a folder, the bundled sample, or a repository on the Hub."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, PreTrainedModel

from adaptrix.loader.base_place import load_pretrained, load_tokenizer, locate, translated
from adaptrix.loader.structure import BaseStructure, structure_of, structure_of_config
from adaptrix.schema.canonical import Json, canonical_json
from adaptrix.schema.digest import Digest
from adaptrix.schema.errors import UsageError

DTYPES = {
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
    "float64": torch.float64,
}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BaseModel:
    """A loaded base model.

    Attributes:
        name: What the user asked for.
        model: The model, in ``compute_dtype``; its values are exact in ``dtype``.
        tokenizer: Its tokenizer.
        structure: Its structure.
        config_digest: Digest of its configuration's canonical text.
        dtype: The dtype its weights are kept and merged in.
        compute_dtype: The dtype it computes in.
        device: Where it is.
    """

    name: str
    model: PreTrainedModel
    tokenizer: Any
    structure: BaseStructure
    config_digest: Digest
    dtype: torch.dtype
    compute_dtype: torch.dtype
    device: torch.device


def parse_dtype(name: str | None) -> torch.dtype | None:
    """The dtype of that name; None stays None (the checkpoint's own).

    Raises:
        UsageError: no such dtype.
    """
    if name is None or name == "auto":
        return None
    if name not in DTYPES:
        raise UsageError(
            f"no dtype {name!r}", where="--dtype", hint=f"Dtypes: {', '.join(DTYPES)}."
        )
    return DTYPES[name]


def parse_device(name: str | None) -> torch.device:
    """The device of that name; None means a GPU when there is one.

    Raises:
        UsageError: no such device here.
    """
    if name is None or name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"no device {name!r}", where="--device") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UsageError("no CUDA device is available here", where="--device")
    return device


def base_structure(spec: str) -> BaseStructure:
    """Structure of a base without its weights.

    Raises:
        NotFound, FormatError, RemoteError: as :func:`load_base`.
    """
    place = locate(spec)
    with translated(spec):
        config = AutoConfig.from_pretrained(place.location, **place.options)
        return structure_of_config(config, spec)


def load_base(
    spec: str, *, device: torch.device | None = None, dtype: torch.dtype | None = None
) -> BaseModel:
    """Load a base model with its tokenizer.

    Weights keep the checkpoint's own dtype unless ``dtype`` says otherwise. On a CPU a
    float16 model computes in float32, with the same float16 values: see
    docs/decisions/0003-cpu-float16.md.

    Raises:
        NotFound: no such folder or repository.
        FormatError: not a causal language model with weights and a tokenizer.
        RemoteError: it has to be fetched and cannot be.
    """
    target = device or torch.device("cpu")
    place = locate(spec)
    with translated(spec):
        model = load_pretrained(place, dtype)
        tokenizer = load_tokenizer(place)
    own = model.dtype
    compute = torch.float32 if target.type == "cpu" and own is torch.float16 else own
    if getattr(model, "is_quantized", False):
        compute = own
        nn.Module.to(model, device=target)
    else:
        nn.Module.to(model, device=target, dtype=compute)
    model.eval()
    model.requires_grad_(False)
    config = canonical_json(_without_floats(json.loads(model.config.to_json_string())))
    return BaseModel(
        name=spec,
        model=model,
        tokenizer=tokenizer,
        structure=structure_of(model, spec),
        config_digest=Digest.of(config),
        dtype=own,
        compute_dtype=compute,
        device=target,
    )


def _without_floats(value: object) -> Json:
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, dict):
        return {str(key): _without_floats(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_without_floats(entry) for entry in value]
    return value if isinstance(value, bool | int | str) else None
