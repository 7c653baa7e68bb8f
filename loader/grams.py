"""Gram matrices ``XᵀX`` of modules' inputs, which RegMean weighs adapters by.

``X`` are the inputs of a module while the model, with the adapter in effect, reads texts of
the adapter's own task. For an embedding, whose inputs are one-hot, the matrix is diagonal:
how often each token was read. Of wide modules the diagonal alone may be kept: for fc2 of
Phi-2, 10240 wide, a matrix takes 420 MB a layer.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from adaptrix.compose.tensors import held
from adaptrix.convert.safetensors_file import safetensors_bytes
from adaptrix.loader.examples import Example, tokens_of
from adaptrix.loader.session import Session
from adaptrix.schema.adapter import ModuleKind, ModulePath
from adaptrix.schema.errors import IncompatibleAdapter

BATCH = 16
WIDEST = 4096


def input_grams(
    session: Session, examples: Sequence[Example], paths: Sequence[str], *, widest: int = WIDEST
) -> dict[str, torch.Tensor]:
    """``(in, in)`` float32 per module, or the diagonal ``(in,)``, with the present set.

    Args:
        session: A base with the adapter in effect.
        examples: What it reads; answers count where there are any.
        paths: Modules to look at.
        widest: Modules with more inputs than this, and embeddings, give the diagonal.

    Raises:
        IncompatibleAdapter: the base has no such module, or it takes no low-rank update.
    """
    base = session.base
    found: dict[str, torch.Tensor] = {}
    for path in paths:
        shape = base.structure.modules.get(ModulePath(path))
        if shape is None:
            raise IncompatibleAdapter("the base has no such module", where=path)
        flat = shape.kind is ModuleKind.EMBEDDING or shape.in_features > widest
        size = (shape.in_features,) if flat else (shape.in_features, shape.in_features)
        found[path] = torch.zeros(size, device=base.device)
    for start in range(0, len(examples), BATCH):
        batch = tokens_of(base.tokenizer, examples[start : start + BATCH], base.device)
        real = batch.mask.bool()
        handles = [
            base.model.get_submodule(path).register_forward_pre_hook(_adding(gram, real))
            for path, gram in found.items()
        ]
        try:
            with torch.no_grad():
                base.model(input_ids=batch.ids, attention_mask=batch.mask, use_cache=False)
        finally:
            for handle in handles:
                handle.remove()
    return {path: gram.cpu() for path, gram in found.items()}


def write_grams(grams: Mapping[str, torch.Tensor], path: Path) -> int:
    """Write them as safetensors, by module path; returns the file's size in bytes."""
    tensors = {name: held(gram, name) for name, gram in grams.items()}
    encoded = safetensors_bytes(tensors)
    with tempfile.NamedTemporaryFile(
        dir=path.parent, prefix=f".{path.name}.", delete=False
    ) as file:
        try:
            file.write(encoded.header)
            for chunk in encoded.chunks:
                file.write(chunk)
        except BaseException:
            Path(file.name).unlink()
            raise
    Path(file.name).replace(path)
    return encoded.size_bytes


def _adding(gram: torch.Tensor, real: torch.Tensor) -> Callable[..., Any]:
    """A hook that adds the inputs of one pass; padding counts for nothing."""

    def hook(_module: object, args: tuple[torch.Tensor, ...]) -> None:
        inputs = args[0][real]
        if not inputs.is_floating_point():
            gram.add_(torch.bincount(inputs, minlength=len(gram)))
        elif gram.dim() == 1:
            gram.add_(inputs.float().square().sum(0))
        else:
            rows = inputs.float()
            gram.addmm_(rows.T, rows)

    return hook
