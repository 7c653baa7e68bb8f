"""Where a base model comes from, and what is said when it cannot come.

A folder, a GGUF file, the bundled sample, or a repository on the Hub, which transformers
fetches into the Hub's own cache. Code from a repository is never run.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.utils.hub import cached_file

from adaptrix.hub.faults import error_for_status
from adaptrix.samples import BASE_DIR, BASE_NAME
from adaptrix.schema.canonical import Json
from adaptrix.schema.errors import (
    AccessDenied,
    AdaptrixError,
    FormatError,
    NotFound,
    PolicyRefused,
    RemoteError,
)

# What transformers and what it reads with raise for what is not there or not right.
_FOREIGN = (
    OSError, ValueError, KeyError, ImportError, RuntimeError, EOFError, SafetensorError,
    pickle.UnpicklingError,
)  # fmt: skip
LOCAL_HINT = "Give the base model as a local folder with --base."


@dataclass(frozen=True, slots=True, kw_only=True)
class BasePlace:
    """Where transformers finds a base.

    Attributes:
        name: What the user asked for.
        location: A folder, or a Hub id.
        revision: Branch, tag or commit on the Hub; None is its main branch.
        gguf_file: Name of the GGUF file there, for a base in that format.
    """

    name: str
    location: str
    revision: str | None = None
    gguf_file: str | None = None

    @property
    def folder(self) -> Path | None:
        """The folder, when it is one on this machine."""
        path = Path(self.location)
        return path if path.is_dir() else None

    @property
    def options(self) -> dict[str, Any]:
        """Keyword arguments for every ``from_pretrained``."""
        # False, not None: with None transformers asks on the terminal and waits.
        options: dict[str, Any] = {"trust_remote_code": False}
        if self.revision is not None:
            options["revision"] = self.revision
        if self.gguf_file is not None:
            options["gguf_file"] = self.gguf_file
        return options


def locate(spec: str) -> BasePlace:
    """The place of the base called ``spec``.

    ``sample``; a folder; a ``.gguf`` file; ``[hf:]org/name[@revision][/file.gguf]``.

    Raises:
        NotFound: a path that is no model folder.
        FormatError: a folder without ``config.json``, or an adapter.
    """
    if spec in {BASE_NAME, "sample"}:
        return BasePlace(name=spec, location=str(BASE_DIR))
    path = Path(spec).expanduser()
    if path.is_dir():
        return BasePlace(name=spec, location=str(_model_folder(path)))
    if path.is_file():
        return _file(spec, path)
    if spec.startswith((".", "/", "~")):
        raise NotFound("no such model folder", where=spec)
    return _on_the_hub(spec)


def _model_folder(path: Path) -> Path:
    if (path / "adapter_config.json").is_file():
        # transformers would load the adapter into the base without a word.
        raise FormatError(
            "this folder holds an adapter; a base model is wanted",
            where=str(path),
            hint="Pull the adapter, and give its base model with --base.",
        )
    if not (path / "config.json").is_file():
        raise FormatError(
            "no config.json: this is no model folder",
            where=str(path),
            hint=_gguf_hint(path),
        )
    return path


def _gguf_hint(path: Path) -> str:
    found = sorted(path.glob("*.gguf"))
    return f"For the GGUF file there: --base {found[0]}." if found else ""


def _file(spec: str, path: Path) -> BasePlace:
    with path.open("rb") as stream:
        magic = stream.read(4)
    if magic == b"GGUF":
        folder = path.resolve().parent if path.parent == Path() else path.parent
        return BasePlace(name=spec, location=str(folder), gguf_file=path.name)
    if path.name == "config.json":
        return BasePlace(name=spec, location=str(path.parent))
    raise FormatError(
        "a base is a model folder or a GGUF file; this file is neither",
        where=spec,
        hint=f"Give its folder: --base {path.parent}." if path.suffix != ".gguf" else "",
    )


def _on_the_hub(spec: str) -> BasePlace:
    bare, _, revision = spec.removeprefix("hf:").partition("@")
    owner, slash, rest = bare.partition("/")
    name, _, file = rest.partition("/")
    if not (owner and slash and name) or (file and not file.endswith(".gguf")):
        raise NotFound(
            "no such base model",
            where=repr(spec),
            hint="Give a folder, a GGUF file, a Hub id (org/name), or 'sample' for the bundled model.",
        )
    return BasePlace(
        name=spec,
        location=f"{owner}/{name}",
        revision=revision or None,
        gguf_file=file or None,
    )


def load_pretrained(place: BasePlace, dtype: torch.dtype | None) -> PreTrainedModel:
    """The model as transformers reads it: shards, pickles and GGUF included.

    Raises:
        FormatError: weights that the model needs are missing or have another shape.
    """
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        place.location, dtype=dtype or "auto", output_loading_info=True, **place.options
    )
    return complete(place, *loaded)


def complete(place: BasePlace, model: PreTrainedModel, found: Mapping[str, Any]) -> PreTrainedModel:
    """``model``, when everything in it comes from the checkpoint.

    Raises:
        FormatError: weights are missing or have another shape, or an adapter came along.
    """
    # transformers fills what is missing with random numbers and only warns.
    for problem in ("missing_keys", "mismatched_keys"):
        names = sorted(str(key) for key in found.get(problem) or ())
        if names:
            raise FormatError(
                f"{len(names)} tensors are {problem.removesuffix('_keys')} in the checkpoint, "
                f"{names[0]} among them",
                where=place.name,
                hint="Its weights would be random numbers. Fetch the base again.",
                code="incomplete_base",
            )
    if getattr(model, "_hf_peft_config_loaded", False):
        raise FormatError("this repository holds an adapter", where=place.name)
    return model


def config_of(place: BasePlace, model: PreTrainedModel) -> dict[str, Json]:
    """The configuration as its file has it; for a GGUF file what transformers makes of it.

    Raises:
        FormatError: it is no JSON object.
    """
    if place.gguf_file is not None:
        return dict(json.loads(model.config.to_json_string()))
    found = cached_file(place.location, "config.json", revision=place.revision)
    document = json.loads(Path(str(found)).read_bytes())
    if not isinstance(document, dict):
        raise FormatError("config.json holds no object", where=place.name)
    return document


def load_tokenizer(place: BasePlace) -> Any:
    """The base's tokenizer.

    Raises:
        FormatError: it has none that can be read.
    """
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(place.location, **place.options)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        if _hub_error(error) is not None:
            raise
        raise _no_tokenizer(place, _first_line(error)) from error
    # Without its files transformers makes an empty one, which turns every text to nothing.
    if len(tokenizer) <= len(set(tokenizer.all_special_tokens)):
        raise _no_tokenizer(place, "no vocabulary")
    return tokenizer


def _no_tokenizer(place: BasePlace, reason: str) -> FormatError:
    return FormatError(
        f"no tokenizer can be read: {reason}",
        where=place.name,
        hint="Put the base's tokenizer files (tokenizer.json, tokenizer_config.json) there.",
        code="no_tokenizer",
    )


@contextmanager
def translated(name: str) -> Iterator[None]:
    """Turn what transformers and the Hub's client raise while loading into our errors."""
    try:
        yield
    except AdaptrixError:
        raise
    except _FOREIGN as error:
        raise _translate(name, error) from error


def _translate(name: str, error: BaseException) -> AdaptrixError:
    cause = _hub_error(error)
    if cause is not None:
        return _from_hub(name, cause)
    text = _first_line(error)
    if "trust_remote_code" in str(error) or "custom code" in text:
        return PolicyRefused(
            "this base needs code from its repository, which is never run",
            where=name,
            hint="Use a revision whose architecture is part of transformers.",
            code="remote_code",
        )
    if isinstance(error, ImportError):
        return FormatError(text, where=name, hint="Install what is missing and run again.")
    if isinstance(error, SafetensorError | EOFError | pickle.UnpicklingError):
        return FormatError(f"damaged weights: {text}", where=name, hint="Fetch the base again.")
    if "offline" in text or "couldn't connect" in text:
        return RemoteError(text, where=name, hint=LOCAL_HINT)
    if isinstance(error, OSError):
        return FormatError(text, where=name)
    return FormatError(f"not a causal language model: {text}", where=name)


def _from_hub(name: str, error: Exception) -> AdaptrixError:
    """An error of the Hub's client; see its ``errors`` module for the tree."""
    if isinstance(error, LocalEntryNotFoundError | OfflineModeIsEnabled):
        return RemoteError(
            "it is not in the Hub's cache, and the Hub cannot be reached",
            where=name,
            hint=f"Fetch it while online (hf download {name}), or: {LOCAL_HINT}",
            code="offline",
        )
    if not isinstance(error, HfHubHTTPError):
        return FormatError(_first_line(error), where=name)
    status = getattr(error.response, "status_code", None) or 404
    code = (
        "GatedRepo" if isinstance(error, GatedRepoError)
        else "RepoNotFound" if isinstance(error, RepositoryNotFoundError)
        else "RevisionNotFound" if isinstance(error, RevisionNotFoundError)
        else "EntryNotFound" if isinstance(error, EntryNotFoundError)
        else ""
    )  # fmt: skip
    sent = "authorization" in getattr(error.response.request, "headers", {})
    found = error_for_status(status, name, code=code, token=sent)
    if isinstance(found, AccessDenied) and code == "GatedRepo":
        found.hint = (
            f"Ask for access on https://huggingface.co/{name.partition('@')[0]}, "
            "then set HF_TOKEN or run `hf auth login`."
        )
    return found


def _hub_error(error: BaseException | None) -> Exception | None:
    """The Hub's own error that ``error`` was raised from."""
    # Only explicit causes: a missing optional file is somewhere in every context.
    while error is not None:
        if isinstance(error, HfHubHTTPError | LocalEntryNotFoundError | OfflineModeIsEnabled):
            return error
        error = error.__cause__
    return None


def _first_line(error: BaseException) -> str:
    text = str(error).strip().partition("\n")[0]
    return text[:300] or type(error).__name__
