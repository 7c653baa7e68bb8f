"""lora_diffusion (cloneofsimo): numbered factors, in safetensors or as a bare list.

``unet:7:up``, ``text_encoder:0:down`` beside embeddings of new words, or a pickled list
``[up₀, down₀, up₁, …]`` whose text encoder has a file of its own, ``x.text_encoder.pt`` beside
``x.pt``. Numbers are positions in a walk through the model; which walk, the shapes decide, and
every one is compared with the layer it is given to. The scale is 1.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from adaptrix.convert.contents import Contents
from adaptrix.convert.diffusion.assembly import one_component
from adaptrix.convert.diffusion.leaves import is_token
from adaptrix.convert.diffusion.walk import walks
from adaptrix.convert.draft import Draft, Factors, Format, Recognition, refuse
from adaptrix.convert.options import ReadOptions
from adaptrix.schema.adapter import ModuleKind, Scale
from adaptrix.schema.report import IgnoredTensor, Problem
from adaptrix.schema.tensor import LazyTensor

_NUMBERED = re.compile(r"(unet|text_encoder|vae):(\d{1,5}):(up|down)")
_COMPONENTS = ("unet", "text_encoder")


@dataclass(slots=True)
class _File:
    """Pairs of one file by component and number, and what else it holds."""

    name: str
    ups: dict[str, dict[int, LazyTensor]] = field(default_factory=dict)
    downs: dict[str, dict[int, LazyTensor]] = field(default_factory=dict)
    tokens: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)

    @property
    def components(self) -> list[str]:
        return sorted({*self.ups, *self.downs}, reverse=True)

    def put(self, component: str, number: int, side: str, tensor: LazyTensor) -> None:
        into = self.ups if side == "up" else self.downs
        into.setdefault(component, {})[number] = tensor


def recognise(contents: Contents) -> Recognition | None:
    """Keys ``unet:N:up``, or a bare list of alternating up and down factors."""
    names = [name for file in contents.tensor_files for name in file.tensors]
    hits = sum(_NUMBERED.fullmatch(name) is not None for name in names)
    if hits and hits * 2 >= len(names):
        evidence = f"{hits} of {len(names)} keys are numbered factors of lora_diffusion"
        return Recognition(score=0.97, evidence=(evidence,))
    lists = [file for file in contents.tensor_files if _is_list(file.tensors)]
    if lists and len(lists) == len(contents.tensor_files):
        evidence = f"{len(names)} unnamed matrices, up and down factors in turn"
        return Recognition(score=0.75, evidence=(evidence,))
    return None


def _is_list(tensors: Mapping[str, LazyTensor]) -> bool:
    """Whether the tensors are ``0, 1, 2 …`` and alternate ``(out, r)``, ``(r, in)``."""
    if len(tensors) % 2 or list(tensors) != [str(i) for i in range(len(tensors))]:
        return False
    rows = list(tensors.values())
    return bool(rows) and all(
        len(up.shape) in (2, 4) and len(down.shape) in (2, 4) and up.shape[1] == down.shape[0]
        for up, down in zip(rows[::2], rows[1::2], strict=True)
    )


def read(contents: Contents, _options: ReadOptions) -> Draft:
    """Give each pair to the layer that its number means."""
    files = [_opened(file.name, file.tensors) for file in contents.tensor_files]
    if problem := _several(files):
        return refuse(contents, method="lora", problems=(problem,), reason="several adapters")
    factors: list[Factors] = []
    problems: list[Problem] = []
    for file in files:
        for component in file.components:
            placed = _placed(file, component)
            if isinstance(placed, Problem):
                problems.append(placed)
            else:
                factors += placed
    tokens = [name for file in files for name in file.tokens]
    unknown = [name for file in files for name in file.unknown]
    if tokens:
        message = f"{len(tokens)} embeddings of new words are left out, first {tokens[0]}"
        problems.append(Problem.of("token_embeddings", message, where=tokens[0]))
    if unknown:
        message = f"{len(unknown)} tensors that no rule explains, first {unknown[0]}"
        problems.append(Problem.of("unknown_tensors", message, where=unknown[0]))
    if any(p.code in {"ambiguous_layout", "unpaired_factor"} for p in problems):
        return refuse(
            contents, method="lora", problems=problems, reason="which layers they are is not told"
        )
    reason = "embedding of a new word (textual inversion), not an update of a weight"
    return Draft(
        total=sum(len(file.tensors) for file in contents.tensor_files),
        factors=tuple(factors),
        ignored=tuple(IgnoredTensor(name=name, reason=reason) for name in tokens),
        unknown=tuple(unknown),
        problems=tuple(problems),
        architecture="stable-diffusion",
        layout="lora-diffusion",
        extra=one_component(factors),
    )


def _opened(name: str, tensors: Mapping[str, LazyTensor]) -> _File:
    file = _File(name=name)
    if _is_list(tensors):
        component = "text_encoder" if _stem(name)[1] else _component_of(tensors)
        for i, tensor in enumerate(tensors.values()):
            file.put(component, i // 2, "down" if i % 2 else "up", tensor)
        return file
    for key, tensor in tensors.items():
        if match := _NUMBERED.fullmatch(key):
            file.put(match[1], int(match[2]), match[3], tensor)
        elif is_token(key):
            file.tokens.append(key)
        else:
            file.unknown.append(key)
    return file


def _stem(name: str) -> tuple[str, bool]:
    """Name without suffixes, and whether it is that of a text encoder's file."""
    bare = PurePosixPath(name).name.removesuffix(".pt").removesuffix(".safetensors")
    return bare.removesuffix(".text_encoder"), bare.endswith(".text_encoder")


def _component_of(tensors: Mapping[str, LazyTensor]) -> str:
    """Which network a bare list is of: the one whose walk its shapes fit."""
    shapes = _shapes(list(tensors.values())[::2], list(tensors.values())[1::2])
    return next((c for c in _COMPONENTS if walks(c, shapes)), "unet")


def _shapes(ups: list[LazyTensor], downs: list[LazyTensor]) -> list[tuple[int, int]]:
    return [(up.shape[0], down.shape[1]) for up, down in zip(ups, downs, strict=True)]


def _several(files: list[_File]) -> Problem | None:
    """Two files are one adapter when one is the other's text encoder, by its name."""
    stems = [_stem(file.name) for file in files]
    parts = [part for file in files for part in file.components]
    one = len({stem for stem, _ in stems}) == 1 and len(set(parts)) == len(parts)
    if len(files) == 1 or one:
        return None
    names = ", ".join(file.name for file in files[:8])
    return Problem.of("multiple_adapters", f"several weight files: {names}")


def _placed(file: _File, component: str) -> list[Factors] | Problem:
    ups, downs = file.ups.get(component, {}), file.downs.get(component, {})
    where = f"{file.name}: {component}"
    numbers = sorted({*ups, *downs})
    if sorted(ups) != sorted(downs) or numbers != list(range(len(numbers))):
        message = "numbers are missing: each needs an up and a down factor"
        return Problem.of("unpaired_factor", message, where=where)
    rows = [(ups[i], downs[i]) for i in numbers]
    if any(len(t.shape) not in (2, 4) for row in rows for t in row):
        message = "tensors that are neither matrices nor convolutions"
        return Problem.of("ambiguous_layout", message, where=where)
    found = walks(component, _shapes([up for up, _ in rows], [down for _, down in rows]))
    if len(found) != 1:
        fits = "no walk" if not found else f"{len(found)} walks"
        message = f"{len(rows)} unnamed pairs fit {fits} through Stable Diffusion's {component}"
        hint = "Save it with module names, by the tool that trained it."
        return Problem.of("ambiguous_layout", message, where=where, hint=hint)
    return [
        Factors(
            path=path,
            source=f"{component}:{i}",
            a=down,
            b=up,
            kind=ModuleKind.CONV if len(down.shape) == 4 else ModuleKind.LINEAR,
            scale=Scale.from_alpha(float(down.shape[0]), down.shape[0]) if down.shape[0] else None,
        )
        for i, (path, (up, down)) in enumerate(zip(found[0], rows, strict=True))
    ]


FORMAT = Format(name="lora_diffusion", recognise=recognise, read=read, several_files=True)
