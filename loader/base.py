"""Base models: a folder, the bundled sample, or a repository on the Hub."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import nn
from transformers import AutoConfig, PreTrainedModel

from adaptrix.loader.base_place import (
    BasePlace,
    load_pretrained,
    load_tokenizer,
    locate,
    translated,
)
from adaptrix.loader.checkpoint import Checkpoint
from adaptrix.loader.held import hold
from adaptrix.loader.mapped import load_mapped
from adaptrix.loader.structure import BaseStructure, structure_of, structure_of_config
from adaptrix.schema.canonical import Json, canonical_json
from adaptrix.schema.digest import Digest
from adaptrix.schema.errors import UsageError

WIDEN_BELOW_BYTES = 1 << 30
"""Size up to which a float16 base on a CPU is simply held in float32."""

DTYPES = {
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
    "float64": torch.float64,
}


class Effect(Protocol):
    """A set of adapters in effect on a base."""

    def leave(self) -> None:
        """Take it out; the base is what it was."""


@dataclass(slots=True, kw_only=True, eq=False)
class Occupancy:
    """Who changes a base now.

    Attributes:
        lock: Held while the base is switched or generates.
        effect: What is in effect, or None.
    """

    lock: threading.RLock = field(default_factory=threading.RLock)
    effect: Effect | None = None


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
        checkpoint: Its mapped files, where its weights are views of them.
        occupancy: Who changes it now.
    """

    name: str
    model: PreTrainedModel
    tokenizer: Any
    structure: BaseStructure
    config_digest: Digest
    dtype: torch.dtype
    compute_dtype: torch.dtype
    device: torch.device
    checkpoint: Checkpoint | None = None
    occupancy: Occupancy = field(default_factory=Occupancy)

    def drop(self, weight: torch.Tensor) -> None:
        """Give back the memory of a mapped weight that is not needed for now."""
        if self.checkpoint is not None:
            self.checkpoint.drop(weight)

    def require_unchanged(self) -> None:
        """Refuse a base whose files have been written to since it was loaded.

        Raises:
            IntegrityError: they have.
        """
        if self.checkpoint is not None:
            self.checkpoint.require_unchanged()


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
    spec: str,
    *,
    device: torch.device | None = None,
    dtype: torch.dtype | None = None,
    widen_below: int = WIDEN_BELOW_BYTES,
) -> BaseModel:
    """Load a base model with its tokenizer.

    Weights keep the checkpoint's own dtype unless ``dtype`` says otherwise. On a CPU a
    float16 model computes in float32, with the same float16 values: a small one is widened,
    one that would take more than ``widen_below`` bytes keeps its narrow weights. See
    docs/decisions/0003-cpu-float16.md.

    Raises:
        NotFound: no such folder or repository.
        FormatError: not a causal language model with weights and a tokenizer.
        RemoteError: it has to be fetched and cannot be.
    """
    target = device or torch.device("cpu")
    place = locate(spec)
    with translated(spec):
        model, checkpoint = _load(place, dtype, target, widen_below)
        tokenizer = load_tokenizer(place)
    wanted = dtype or model.dtype
    if getattr(model, "is_quantized", False):
        compute = wanted = model.dtype
        nn.Module.to(model, device=target)
    else:
        compute = torch.float32 if _widens(target, wanted) else wanted
        if target.type == "cpu" and model.dtype != compute and _large(model, compute, widen_below):
            hold(model, compute)
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
        dtype=wanted,
        compute_dtype=compute,
        device=target,
        checkpoint=checkpoint,
    )


def _load(
    place: BasePlace, dtype: torch.dtype | None, device: torch.device, widen_below: int
) -> tuple[PreTrainedModel, Checkpoint | None]:
    """The model on the CPU, mapped where it can be.

    A wider ``dtype`` that was asked for is reached later, by widening what is needed.
    """
    mapped = load_mapped(place)
    if mapped is None:
        return load_pretrained(place, dtype), None
    model, checkpoint = mapped
    own = model.dtype
    if dtype in (None, own) or (
        device.type == "cpu"
        and torch.promote_types(own, dtype) is dtype
        and _large(model, dtype, widen_below)
    ):
        return model, checkpoint
    nn.Module.to(model, dtype=dtype)
    return model, checkpoint


def _widens(device: torch.device, dtype: torch.dtype) -> bool:
    return device.type == "cpu" and dtype is torch.float16


def _large(model: PreTrainedModel, dtype: torch.dtype, limit: int) -> bool:
    return sum(value.numel() for value in model.parameters()) * dtype.itemsize > limit


def _without_floats(value: object) -> Json:
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, dict):
        return {str(key): _without_floats(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_without_floats(entry) for entry in value]
    return value if isinstance(value, bool | int | str) else None
