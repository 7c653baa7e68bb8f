"""Base models: a folder, the bundled sample, or a repository on the Hub."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from adaptrix.loader.structure import BaseStructure, structure_of, structure_of_folder
from adaptrix.samples import BASE_DIR, BASE_NAME
from adaptrix.schema.canonical import Json, canonical_json
from adaptrix.schema.digest import Digest
from adaptrix.schema.errors import FormatError, NotFound, RemoteError, UsageError

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


def resolve(spec: str) -> str:
    """Where transformers finds the base called ``spec``: a folder or a Hub id.

    Raises:
        NotFound: a path that is no model folder.
        FormatError: a folder without ``config.json``.
    """
    if spec in {BASE_NAME, "sample"}:
        return str(BASE_DIR)
    path = Path(spec).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise FormatError("no config.json: this is no model folder", where=str(path))
        return str(path)
    if spec.startswith((".", "/", "~")) or path.exists():
        raise NotFound("no such model folder", where=spec)
    if spec.count("/") != 1:
        raise NotFound(
            "no such base model",
            where=repr(spec),
            hint="Give a folder, a Hub id (org/name), or 'sample' for the bundled model.",
        )
    return spec


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
    with _Translated(spec):
        return structure_of_folder(resolve(spec), spec)


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
    place = resolve(spec)
    with _Translated(spec):
        model = AutoModelForCausalLM.from_pretrained(place, dtype=dtype or "auto")
        tokenizer = AutoTokenizer.from_pretrained(place)
    own = next(model.parameters()).dtype
    compute = torch.float32 if target.type == "cpu" and own is torch.float16 else own
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


class _Translated:
    """Turns what transformers raises while loading into our errors."""

    def __init__(self, spec: str) -> None:
        self.spec = spec

    def __enter__(self) -> None:
        """Nothing to set up."""

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, OSError):
            text = str(error).strip().partition("\n")[0]
            if any(word in text for word in ("connect", "offline", "Connection", "couldn't")):
                raise RemoteError(
                    text,
                    where=self.spec,
                    hint="Give the base model as a local folder with --base.",
                ) from error
            missing = "not a valid model identifier" in text or "is not a local folder" in text
            kind = NotFound if missing else FormatError
            raise kind(text, where=self.spec) from error
        if isinstance(error, ValueError | KeyError):
            raise FormatError(
                f"not a causal language model: {str(error).strip().partition(chr(10))[0]}",
                where=self.spec,
            ) from error
