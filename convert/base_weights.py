"""Weights of the base model, for methods whose update depends on them. Opened when asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from adaptrix.convert.arrays import transpose
from adaptrix.convert.safetensors_file import open_safetensors
from adaptrix.convert.source import AdapterFiles
from adaptrix.schema.tensor import LazyTensor

_WEIGHT = ".weight"


@dataclass(frozen=True, slots=True)
class BaseWeights:
    """Tensors of a base model's checkpoint by name."""

    tensors: Mapping[str, LazyTensor]

    def matrix(self, path: str, out: int, into: int, *, transposed: bool) -> LazyTensor | None:
        """The weight ``(out, in)`` of the module at ``path``; None when it is not there.

        A checkpoint's names may have one wrapper more or fewer than the module's path; of
        several that fit, none is taken.

        Args:
            path: Module path.
            out: Its outputs.
            into: Its inputs.
            transposed: Whether the base keeps ``(in, out)`` (GPT-2's Conv1D).
        """
        tensor = self._weight(path)
        if tensor is None:
            return None
        wanted = (into, out) if transposed else (out, into)
        if tensor.shape != wanted or not tensor.dtype.is_floating:
            return None
        return transpose(tensor) if transposed else tensor

    def sizes(self, path: str) -> tuple[int, ...]:
        """Shape of the weight at ``path`` as it is stored; empty when it is not there."""
        tensor = self._weight(path)
        return tensor.shape if tensor is not None else ()

    def name_of(self, path: str) -> str | None:
        """Name of the weight of the module at ``path``; None when it is not there."""
        name = f"{path}{_WEIGHT}"
        if name in self.tensors:
            return name
        near = [n for n in self.tensors if n.endswith(f".{name}") or name.endswith(f".{n}")]
        near = [n for n in near if n.count(".") > 1]
        return near[0] if len(near) == 1 else None

    def _weight(self, path: str) -> LazyTensor | None:
        name = self.name_of(path)
        return None if name is None else self.tensors[name]


def base_weights_of(files: AdapterFiles) -> BaseWeights:
    """Headers of all safetensors files at the top of a base model's folder.

    Raises:
        FormatError: one of them cannot be read.
    """
    found: dict[str, LazyTensor] = {}
    for name, source in files.files.items():
        if name.endswith(".safetensors") and "/" not in name and source.size_bytes:
            found.update(open_safetensors(source).tensors)
    return BaseWeights(found)
