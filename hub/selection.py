"""Which files of a repository or folder an adapter needs. Pure: names and sizes only."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from adaptrix.schema.errors import FormatError

WEIGHT_SUFFIXES = (
    ".safetensors", ".gguf", ".npz", ".bin", ".pt", ".pth", ".ckpt", ".lora", ".nemo",
    # Containers that are recognised and refused with their reason.
    ".lora.h5", ".onnx_adapter", ".distcp", "lora_weights.npy",
)  # fmt: skip
CARD = "README.md"
CONFIG = "adapter_config.json"
MAX_SIDECAR_BYTES = 1 << 20

_TRAINING = re.compile(
    r"(optimizer|scheduler|rng_state|training_args|scaler|trainer_state|zero_pp_rank)",
    re.IGNORECASE,
)
_TOKENIZER = re.compile(
    r"(tokenizer|vocab|merges|special_tokens_map|added_tokens|chat_template|spiece|sentencepiece"
    r"|preprocessor_config|processor_config)",
    re.IGNORECASE,
)
_CHECKPOINT = re.compile(r"^(checkpoint-|global_step|runs$|logs?$|eval|\.)", re.IGNORECASE)
_BASE_WEIGHTS = re.compile(
    r"^(pytorch_model|model|consolidated|flax_model|tf_model)(-\d+-of-\d+|\.\d+)?\.", re.IGNORECASE
)
_ADAPTER_WEIGHTS = re.compile(r"adapter|lora|peft|qlora", re.IGNORECASE)
_INTERMEDIATE = re.compile(r"^\d+_(adapters?\.(?:safetensors|npz))$", re.IGNORECASE)
_INITIAL = re.compile(r"(?:.*[_\-.])?init(?:ial)?(?:[_\-.].*)?", re.IGNORECASE)
"""Folders in which a run keeps the factors that it began with (PiSSA and its like)."""
_INITIAL_FILES = {"adapter_model.safetensors", "adapter_model.bin", "adapter_config.json"}
_SIDECARS = re.compile(
    r"^(adapter_config\.json|config\.json|lora_config\.json|hyperparameters\.ya?ml|head_config\.json"
    r"|model_config\.ya?ml|torchtune_config\.ya?ml|.*\.safetensors\.index\.json)$",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """What to read and what to leave.

    Attributes:
        wanted: Names, sorted.
        ignored: Names with the reason, sorted.
        folders: Where nothing can be chosen: folders that each hold an adapter, or a state of
            one in training.
    """

    wanted: tuple[str, ...]
    ignored: tuple[tuple[str, str], ...]
    folders: tuple[str, ...] = ()


def select_in(folder: str, sizes: Mapping[str, int]) -> Selection:
    """:func:`select_adapter_files` with ``folder`` as the root; names keep their whole path."""
    if not folder:
        return select_adapter_files(sizes)
    prefix = f"{folder}/"
    inside = {name.removeprefix(prefix): sizes[name] for name in sizes if name.startswith(prefix)}
    found = select_adapter_files(inside)
    return Selection(
        wanted=tuple(prefix + name for name in found.wanted),
        ignored=tuple((prefix + name, reason) for name, reason in found.ignored),
        folders=tuple(prefix + name for name in found.folders),
    )


def select_adapter_files(sizes: Mapping[str, int]) -> Selection:
    """Choose the files that an adapter needs.

    The root is looked at first; when it holds no weights and no configuration, a single
    subfolder that does is used (PEFT saves a named adapter in a folder of that name).

    Args:
        sizes: Size in bytes by relative posix name.

    Raises:
        FormatError: ``invalid_config``: a configuration that is far too large. It cannot
            be left aside like other files: without it the weights mean something else.
    """
    folder, folders = _folder(sizes)
    config = f"{folder}/{CONFIG}" if folder else CONFIG
    if sizes.get(config, 0) > MAX_SIDECAR_BYTES:
        raise FormatError(
            f"{sizes[config]} bytes, a configuration has at most {MAX_SIDECAR_BYTES}",
            where=config,
            code="invalid_config",
        )
    ignored: dict[str, str] = {}
    candidates = []
    for name, size in sorted(sizes.items()):
        reason = _outside(name, folder) or _unwanted(name.rpartition("/")[2], size)
        if reason:
            ignored[name] = reason
        else:
            candidates.append(name)
    ignored |= _superseded(candidates)
    return Selection(
        wanted=tuple(name for name in candidates if name not in ignored),
        ignored=tuple(sorted(ignored.items())),
        folders=folders,
    )


def _folder(sizes: Mapping[str, int]) -> tuple[str, tuple[str, ...]]:
    """The folder that holds the adapter, ``""`` for the root; and all, where none is chosen."""

    def holds(folder: str) -> bool:
        prefix = f"{folder}/" if folder else ""
        names = [n.removeprefix(prefix) for n in sizes if n.startswith(prefix)]
        return any(
            "/" not in n and (n.endswith(WEIGHT_SUFFIXES) or n == CONFIG)
            and not _TRAINING.search(n)
            for n in names
        )  # fmt: skip

    if holds(""):
        return "", ()
    parents = {name.rpartition("/")[0] for name in sizes if "/" in name}
    holding = [folder for folder in sorted(parents) if holds(folder)]
    found = [f for f in holding if not any(_CHECKPOINT.match(part) for part in f.split("/"))]
    found = [f for f in found if not _INITIAL.fullmatch(f.rpartition("/")[2])] or found
    return (found[0], ()) if len(found) == 1 else ("", tuple(found or holding))


def _outside(name: str, folder: str) -> str:
    parent, _, leaf = name.rpartition("/")
    above, _, own = parent.rpartition("/")
    near = above in {folder, folder.rpartition("/")[0]} and parent != folder
    if near and _INITIAL.fullmatch(own) and leaf in _INITIAL_FILES:
        return ""
    return "" if parent == folder else "in a folder of its own"


def _unwanted(name: str, size_bytes: int) -> str:
    if name == CARD:
        return ""
    if _TRAINING.search(name):
        return "state of the training run"
    if name.endswith(WEIGHT_SUFFIXES):
        return ""
    if _TOKENIZER.search(name):
        return "belongs to the tokenizer"
    if _SIDECARS.match(name):
        return "" if size_bytes <= MAX_SIDECAR_BYTES else "too large for a configuration"
    return "nothing an adapter needs"


def _superseded(names: list[str]) -> dict[str, str]:
    """Weights that another file of the same folder makes unnecessary."""
    weights = [name for name in names if name.endswith(WEIGHT_SUFFIXES)]
    leaf = {name: name.rpartition("/")[2] for name in weights}
    present = set(leaf.values())
    found: dict[str, str] = {}
    for name in weights:
        match = _INTERMEDIATE.match(leaf[name])
        stem, _, suffix = leaf[name].rpartition(".")
        if match and match[1] in present:
            found[name] = f"an earlier state of {match[1]}"
        elif suffix in {"bin", "pt", "pth"} and f"{stem}.safetensors" in present:
            found[name] = f"the same as {stem}.safetensors"
    left = [name for name in weights if name not in found]
    if any(_ADAPTER_WEIGHTS.search(leaf[name]) for name in left):
        for name in left:
            if _BASE_WEIGHTS.match(leaf[name]):
                found[name] = "weights of a base model"
    return found
