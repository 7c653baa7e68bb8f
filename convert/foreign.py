"""Containers of other tools that are known and not opened: told by magic, suffix or company.

What stands in them cannot be mapped to a module of a known model without more than the
file, or is no update at all; each row says why, and which way leads out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from adaptrix.convert.source import ByteSource
from adaptrix.schema.report import Problem

_LOOK_BYTES = 8
_MOST_FILES = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignKind:
    """One kind of container.

    Attributes:
        name: Format name in reports.
        method: Method in reports.
        code: Problem code that refuses it.
        message: What it is and why it is not converted.
        hint: The way out.
        names: File names that tell it, as a pattern.
        magics: First bytes that tell it, whatever the name.
        beside: Names that must stand beside such a file.
    """

    name: str
    message: str
    hint: str
    method: str = "lora"
    code: str = "unsupported_method"
    names: str = r"(?!)"
    magics: tuple[bytes, ...] = ()
    beside: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignFile:
    """A file of a foreign kind."""

    kind: ForeignKind
    name: str

    def problem(self) -> Problem:
        """Why it is refused."""
        kind = self.kind
        return Problem.of(kind.code, kind.message, where=self.name, hint=kind.hint)


KINDS: tuple[ForeignKind, ...] = (
    ForeignKind(
        name="apple",
        message="an adapter of Apple's Foundation Models, bound to one private base model",
        hint="It runs on that version of the system only; use the checkpoint of its training run.",
        names=r".*\.fmadapter|adapter_weights\.bin",
        beside=("metadata.json",),
    ),
    ForeignKind(
        name="keras",
        message=(
            "an HDF5 file of Keras; LoRA factors in it are numbered by layer, without names or alpha"
        ),
        hint=(
            "Load it into its Keras model (backbone.load_lora_weights) and save each layer's "
            "lora_kernel_a and lora_kernel_b as PEFT's lora_A and lora_B."
        ),
        names=r".*\.(?:h5|hdf5|keras)",
        magics=(b"\x89HDF\r\n\x1a\n",),
    ),
    ForeignKind(
        name="onnx",
        message=(
            "an ONNX Runtime adapter: parameters of one graph, transposed, alpha folded in"
        ),
        hint="Convert the PEFT adapter that it was exported from.",
        names=r".*\.onnx_adapter",
    ),
    ForeignKind(
        name="onnx",
        method="full_checkpoint",
        code="full_checkpoint",
        message="an ONNX graph: a whole model, not an adapter",
        hint="Convert the PEFT adapter that was merged into it.",
        names=r".*\.onnx",
    ),
    ForeignKind(
        name="dcp",
        code="sharded_state",
        message="a distributed checkpoint of torch: each file holds pieces of tensors",
        hint=(
            "Join it first: python -m torch.distributed.checkpoint.format_utils dcp_to_torch "
            "FOLDER adapter.pt"
        ),
        names=r".*\.distcp",
    ),
    ForeignKind(
        name="orbax",
        code="sharded_state",
        message="an Orbax checkpoint (JAX): arrays are stored in chunks of a key-value store",
        hint="Restore it with orbax and save the LoRA leaves as safetensors, or export to PEFT.",
        names=r"(?:.*/)?(?:ocdbt\.process_\d+/.*|manifest\.ocdbt|_CHECKPOINT_METADATA)",
        magics=(b"\x0c\xdb\x3a\x2a",),
    ),
    ForeignKind(
        name="megatron",
        code="sharded_state",
        message="a distributed checkpoint of Megatron: each file holds pieces of tensors",
        hint="Export it with Megatron-Bridge, which writes PEFT's files.",
        names=r"(?:.*/)?\.zarray",
    ),
    ForeignKind(
        name="tensorrt-llm",
        message=(
            "arrays of TensorRT-LLM: factors flattened and padded, modules by number, alpha folded "
            "in, and without the widths that would take them apart"
        ),
        hint="Convert the PEFT or NeMo adapter that hf_lora_convert.py was given.",
        names=r"(?:.*/)?(?:model\.)?lora_(?:weights|config)\.npy",
    ),
    ForeignKind(
        name="numpy",
        code="not_an_adapter",
        method="unknown",
        message="one numpy array: an adapter has two named factors per module",
        hint="Save all factors by name, as .npz or safetensors.",
        names=r".*\.npy",
        magics=(b"\x93NUMPY",),
    ),
    ForeignKind(
        name="ggml",
        message=(
            "llama.cpp's LoRA format before GGUF: whether rows of q and k are permuted depends on "
            "the converter's version, which it does not say"
        ),
        hint="Convert the PEFT adapter that it was made from, or to GGUF with that llama.cpp.",
        magics=(b"algg", b"ggla"),
    ),
    ForeignKind(
        name="ggml",
        method="full_checkpoint",
        code="full_checkpoint",
        message="a whole model in llama.cpp's formats before GGUF, not an adapter",
        hint="Give the adapter's own files.",
        magics=(b"lmgg", b"ggml", b"fmgg", b"ggmf", b"tjgg", b"ggjt"),
    ),
    ForeignKind(
        name="tensorflow",
        method="full_checkpoint",
        code="full_checkpoint",
        message="a checkpoint of TensorFlow",
        hint="Load it in its model and save the adapter's tensors as safetensors.",
        names=r".*\.ckpt\.(?:index|data-\d{5}-of-\d{5})|(?:.*/)?saved_model\.pb",
    ),
    ForeignKind(
        name="coreml",
        method="full_checkpoint",
        code="full_checkpoint",
        message="a Core ML model: compiled weights, not an adapter",
        hint="Convert the adapter that was merged into it.",
        names=r".*\.(?:mlmodel|mlpackage|mlmodelc)(?:/.*)?",
    ),
)  # fmt: skip
_BY_NAME = tuple((re.compile(kind.names, re.IGNORECASE), kind) for kind in KINDS)


def foreign_files(
    sources: Mapping[str, ByteSource], looked_at: Iterable[str]
) -> tuple[ForeignFile, ...]:
    """Files of foreign kinds among ``sources``, by name, and by the first bytes of some.

    Args:
        sources: All files.
        looked_at: Names of those that would be opened as weights.
    """
    found: dict[str, ForeignKind] = {}
    companions = {name.rpartition("/")[2] for name in sources}
    for name in sources:
        for pattern, kind in _BY_NAME:
            if pattern.fullmatch(name) and companions.issuperset(kind.beside):
                found.setdefault(name, kind)
    for name in list(looked_at)[:_MOST_FILES]:
        if kind_found := _by_magic(sources[name]):
            found[name] = kind_found
    return tuple(ForeignFile(kind=kind, name=name) for name, kind in sorted(found.items()))


def _by_magic(source: ByteSource) -> ForeignKind | None:
    head = bytes(source.read(0, min(_LOOK_BYTES, source.size_bytes)))
    for kind in KINDS:
        if any(head.startswith(magic) for magic in kind.magics):
            return kind
    return None
