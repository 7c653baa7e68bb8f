"""Base models: a folder, the bundled sample, or a repository on the Hub."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import nn
from transformers import AutoConfig, PreTrainedModel

from adaptrix.loader.base_place import (
    config_of,
    load_pretrained,
    load_tokenizer,
    locate,
    translated,
)
from adaptrix.loader.checkpoint import Checkpoint
from adaptrix.loader.held import hold
from adaptrix.loader.mapped import load_mapped
from adaptrix.loader.placement import WIDEN_BELOW_BYTES, Placement
from adaptrix.loader.placement import place as place_weights
from adaptrix.loader.structure import BaseStructure, structure_of, structure_of_config
from adaptrix.schema.base_config import config_digest
from adaptrix.schema.digest import Digest
from adaptrix.schema.errors import UsageError

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
        config_digest: Digest of its ``config.json``; a pull with this base records the same.
        dtype: The dtype its weights are kept and merged in.
        compute_dtype: The dtype it computes in.
        device: Where it is.
        checkpoint: Its mapped files, where its weights are views of them.
        occupancy: Who changes it now.
        sources: Mapped tensors of the parameters that were copied to a device.
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
    sources: Mapping[str, torch.Tensor] = field(default_factory=dict)

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
    if device.type not in {"cpu", "cuda"}:
        hint = "Devices: auto, cpu, cuda, cuda:N."
        raise UsageError(f"weights are not merged on {name}", where="--device", hint=hint)
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
        mapped = load_mapped(place)
        model, checkpoint = mapped or (load_pretrained(place, dtype), None)
        config = config_of(place, model)
        tokenizer = load_tokenizer(place)
    sources = dict(_mapped_tensors(model, checkpoint)) if target.type != "cpu" else {}
    placed = _place_model(model, dtype, target, widen_below)
    model.eval()
    model.requires_grad_(False)
    return BaseModel(
        name=spec,
        model=model,
        tokenizer=tokenizer,
        structure=structure_of(model, spec),
        config_digest=config_digest(config),
        dtype=placed.dtype,
        compute_dtype=placed.compute,
        device=target,
        checkpoint=checkpoint,
        sources=sources,
    )


def _mapped_tensors(
    model: nn.Module, checkpoint: Checkpoint | None
) -> Iterator[tuple[str, torch.Tensor]]:
    for name, value in model.named_parameters():
        if checkpoint is not None and checkpoint.holds(value.data):
            yield name, value.data


def _place_model(
    model: PreTrainedModel, dtype: torch.dtype | None, device: torch.device, widen_below: int
) -> Placement:
    """Bring the model's weights where and into what they are placed."""
    own = model.dtype
    if getattr(model, "is_quantized", False):
        nn.Module.to(model, device=device)
        return Placement(device=device.type, stored=own, dtype=own, compute=own, held=False)
    parameters = sum(value.numel() for value in model.parameters())
    placed = place_weights(
        own, dtype, device=device.type, parameters=parameters, widen_below=widen_below
    )
    if torch.promote_types(own, placed.dtype) is not placed.dtype:
        # Rounded before anything wider is made of it.
        nn.Module.to(model, dtype=placed.dtype)
    if placed.held:
        hold(model, placed.compute)
    else:
        nn.Module.to(model, device=device, dtype=placed.compute)
    return placed
