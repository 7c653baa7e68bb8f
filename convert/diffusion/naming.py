"""From the names in a file to canonical paths, for every way tools write them.

A name is a prefix that says which network it is of, and the module: flat with ``_`` for dots
(kohya) or dotted (diffusers, ComfyUI), in diffusers' naming or in the first code's. ``_``
stands for a dot or for itself, so flat names are looked up among the module names of the
real classes, never guessed; what is in no table is reported, what fits two is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TypeAlias

from adaptrix.convert.diffusion import ldm
from adaptrix.convert.diffusion.models import (
    COMPONENTS,
    NUMBER,
    Pipeline,
    flattened,
    has_size,
    numbers_in,
    pipelines,
    templates,
    unflattened,
)
from adaptrix.convert.diffusion.natives import Row, namings, rows_of

_FLAT = re.compile(r"(lora_(?:prior_)?unet|lora_transformer|lora_te[123]?|lycoris)_(.+)")
_COMFY_TEXT = re.compile(r"text_encoders\.(clip_l|clip_g|t5xxl)\.transformer\.(.+)")
_TEXT = {
    "lora_te": "text_encoder", "lora_te1": "text_encoder", "clip_l": "text_encoder",
    "lora_te2": "text_encoder_2", "clip_g": "text_encoder_2", "lora_te3": "text_encoder_3",
    "t5xxl": "text_encoder_3",
}  # fmt: skip
_MAIN = ("unet", "transformer")
_BARE = re.compile(
    r"(down_blocks|mid_block|up_blocks|conv_in|conv_out|time_embedding|add_embedding|input_blocks"
    r"|middle_block|output_blocks|time_embed|label_emb|(?:single_)?transformer_blocks"
    r"|joint_blocks|(?:double|single)_blocks|blocks|final_layer|img_in|txt_in|time_in|vector_in"
    r"|guidance_in|proj_out|x_embedder|context_embedder|time_text_embed|norm_out|layers"
    r"|noise_refiner|context_refiner|(?:vace|double_stream|single_stream)_blocks|txtfusion"
    r"|(?:text|visual)_transformer_blocks|distilled_guidance_layer)\."
)
Size: TypeAlias = tuple[int, int]
"""Outputs and inputs of a layer."""
_OLD_TEXT = {"to_q": "q_proj", "to_k": "k_proj", "to_v": "v_proj", "to_out": "out_proj"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where one module of a file is in the canonical adapter.

    Attributes:
        paths: Canonical paths; several when the file's module is fused.
        swapped: Whether the two halves of its rows are the other way round.
        final_swapped: Whether they are when the layer has two parts, not six.
        shares: Shares of the rows that each path has.
        ratio: Outputs to inputs that the layer must have, or None.
    """

    paths: tuple[str, ...]
    swapped: bool = False
    final_swapped: bool = False
    shares: tuple[int, ...] = (1,)
    ratio: tuple[int, int] | None = field(default=None, compare=False)

    def fits(self, size: Size | None) -> bool:
        """Whether a layer of ``(out, in)`` can be this one; one of unknown size can."""
        if size is None or self.ratio is None:
            return True
        return size[0] * self.ratio[1] == size[1] * self.ratio[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Name:
    """One name: the network (``""`` for the main one, not yet known which), the module, its size."""

    component: str
    path: str
    flat: bool
    size: Size | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """All names of a file.

    Attributes:
        found: Place by name in the file.
        missing: Names that no table explains.
        ambiguous: Names with more than one meaning.
        naming: ``diffusers``, or the first code's naming: ``ldm``, ``flux`` …
        alone: Whether no other naming explains the names as well.
    """

    found: Mapping[str, Place] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    ambiguous: tuple[str, ...] = ()
    naming: str = "diffusers"
    alone: bool = False


def places(names: Iterable[str], sizes: Mapping[str, Size] | None = None) -> Places:
    """Canonical places of all ``names`` of one file; ``sizes`` of layers, where they are known.

    Several models have layers of the same names (Flux and Flux.2, Lumina and Z-Image), and
    their shapes tell which one it is.
    """
    parsed = {name: _sized(parse(name), (sizes or {}).get(name)) for name in names}
    main = [n for n in parsed.values() if n is not None and n.component in ("", *_MAIN)]
    networks = _main_networks(main)
    choices = {
        name: [_choices(read, *n) for n in networks] if read else []
        for name, read in parsed.items()
    }
    shared = _pipelines_of(choices.values())
    found: dict[str, Place] = {}
    missing: list[str] = []
    ambiguous: list[str] = []
    for name, each in choices.items():
        options = dict.fromkeys(o for choice in each for o in _preferred(choice, shared))
        read = parsed[name]
        fitting = [o for o in options if read and o.fits(read.size)]
        if len(options) == 1 or (options and not fitting):
            found[name] = next(iter(options))  # a size that none has is refused by that
        else:
            (ambiguous if options else missing).append(name)
    return Places(
        found=found,
        missing=tuple(missing),
        ambiguous=tuple(ambiguous),
        naming=networks[0][1],
        alone=len(networks) == 1,
    )


def _sized(name: _Name | None, size: Size | None) -> _Name | None:
    return name if name is None or size is None else replace(name, size=size)


def parse(name: str) -> _Name | None:
    """Take the prefix off; None for a name that is no diffusion model's."""
    if match := _FLAT.fullmatch(name):
        if "." in match[2]:
            return None
        component = _TEXT.get(match[1], "transformer" if match[1] == "lora_transformer" else "")
        return _Name(component=component, path=match[2], flat=True)
    if match := _COMFY_TEXT.fullmatch(name):
        return _Name(component=_TEXT[match[1]], path=match[2], flat=False)
    stored, name = name, unwrapped(name)
    first, _, rest = name.partition(".")
    if first in COMPONENTS and rest:
        return _Name(component=first, path=_plain(rest, first), flat=False)
    bare = name.removeprefix("model.").removeprefix("diffusion_model.")
    bare = bare.removeprefix("conditional_transformer.")
    if bare != stored or _BARE.match(name + "."):
        return _Name(component="", path=_plain(bare, "unet"), flat=False)
    if name.startswith("text_model."):
        return _Name(component="text_encoder", path=_plain(name, "text_encoder"), flat=False)
    return None


def unwrapped(name: str) -> str:
    """``name`` without PEFT's wrapper, which some trainers leave in files of other forms."""
    return name.removeprefix("base_model.model.")


def _plain(path: str, component: str) -> str:
    """Old attention processors: ``attn1.processor.to_out_lora`` is ``attn1.to_out.0``."""
    if ".processor." in path and "_blocks." in path and re.search(r"_lora\d?$", path):
        if re.match(r"(double|single)_blocks\.", path):
            return path  # XLabs; its names say which of the two streams by lora1 and lora2
        path = path.replace(".processor.", ".")
    path = path.removesuffix("_lora")
    head, _, last = path.rpartition(".")
    if component.startswith("text_encoder") and path.startswith("encoder.layers."):
        path = f"text_model.{path}"  # transformers 5 dropped it from CLIP's class
        head = f"text_model.{head}"
    if component.startswith("text_encoder") and last in _OLD_TEXT:
        return f"{head}.{_OLD_TEXT[last]}"
    form = flattened(NUMBER.sub("{}", path))
    if last != "to_out" or any(form in templates(c) for c in {component, *_MAIN}):
        return path  # Flux.2 and HiDream have a layer of this name
    return f"{path}.0"


def _main_networks(names: list[_Name]) -> list[tuple[str, str]]:
    """Components and namings that explain most names of the main network, equally well."""
    stated = {n.component for n in names if n.component}
    components = tuple(stated) if len(stated) == 1 else _MAIN
    best: list[tuple[str, str]] = []
    score = 0
    for component in components:
        for naming in ("diffusers", "ldm") if component == "unet" else ("diffusers", *namings()):
            hits = sum(bool(_lookup(n, component, naming)) for n in names)
            if hits and hits == score:
                best.append((component, naming))
            elif hits > score:
                best, score = [(component, naming)], hits
    if not best and any(name.size is not None for name in names):
        return _main_networks([replace(name, size=None) for name in names])
    return _of_known_sizes(names, best) or [(components[0], "diffusers")]


def _of_known_sizes(names: list[_Name], networks: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Those of ``networks`` whose layers have the sizes of most names in a published model."""
    if len(networks) < 2:
        return networks
    scores = [
        sum(
            has_size(place.paths, name.size)
            for name in names
            if name.size is not None
            for place in _lookup(name, *network)
        )
        for network in networks
    ]
    return [n for n, score in zip(networks, scores, strict=True) if score == max(scores)]


Choices: TypeAlias = list[list[Place]]
"""What a name can mean, by naming, the likeliest first; several in one list are ambiguous."""


def _choices(name: _Name, main: str, naming: str) -> Choices:
    """All places that a name can mean, given the main network of the file."""
    component = name.component or main
    if component not in _MAIN:
        return [_text(name, component, naming)]
    # Modules that both namings have, and files that mix them; at last in spite of its size.
    others = ("ldm",) if component == "unet" else ("diffusers", *namings())
    for size in dict.fromkeys((name.size, None)):
        sized = replace(name, size=size)
        found = [_lookup(sized, component, n) for n in dict.fromkeys((naming, *others))]
        if any(found):
            return [options for options in found if options]
    if name.component and not name.flat:
        # The path is spelled out; a model that is in no table has it as well.
        return [[Place(paths=(f"{component}.{name.path}",))]]
    return []


def _preferred(choices: Choices, shared: Sequence[Pipeline]) -> list[Place]:
    """The first choice that is a module of the models that the other names are of."""
    for options in choices if len(choices) > 1 else ():
        if any(p.module(path) for o in options for path in o.paths for p in shared):
            return options
    return choices[0] if choices else []


def _pipelines_of(names: Iterable[Sequence[Choices]]) -> Sequence[Pipeline]:
    """The models that have most of the names in some way, when some can be read in two."""
    every = [choices for each in names for choices in each if choices]
    if all(options == choices[0] for choices in every for options in choices):
        return ()
    meant = [[o.paths[0] for options in choices for o in options] for choices in every]
    scores = [sum(any(map(p.module, paths)) for paths in meant) for p in pipelines()]
    best = max(scores)
    return [p for p, score in zip(pipelines(), scores, strict=True) if score == best]


def _lookup(name: _Name, component: str, naming: str) -> list[Place]:
    flat = flattened(name.path)
    if naming == "ldm":
        converted = ldm.from_ldm(flat)
        return _diffusers(component, converted) if converted else []
    if naming == "diffusers":
        found = _diffusers(component, flat)
        exact = [p for p in found if p.paths == (f"{component}.{name.path}",)]
        return exact or found
    return [
        _native(row, component, numbers)
        for row in _rows_by_form(naming).get(NUMBER.sub("{}", flat), ())
        if row.fits(name.size) and (numbers := numbers_in(row.native, flat)) is not None
    ]


@cache
def _rows_by_form(naming: str) -> Mapping[str, tuple[Row, ...]]:
    """Rows of a naming by their name with all numbers taken out."""
    found: dict[str, tuple[Row, ...]] = {}
    for row in rows_of(naming):
        key = NUMBER.sub("{}", row.native)
        found[key] = (*found.get(key, ()), row)
    return found


def _diffusers(component: str, flat: str) -> list[Place]:
    return [Place(paths=(f"{component}.{path}",)) for path in sorted(unflattened(component, flat))]


def _native(row: Row, component: str, numbers: tuple[str, ...]) -> Place:
    bare = (path.lstrip("~?") for path in row.paths)
    return Place(
        paths=tuple(f"{component}.{path.format(*numbers)}" for path in bare),
        swapped=row.paths[0].startswith("~"),
        final_swapped=row.paths[0].startswith("?"),
        shares=row.shares,
        ratio=row.ratio,
    )


def _text(name: _Name, component: str, naming: str) -> list[Place]:
    path = name.path
    t5 = path.startswith(("encoder.block.", "encoder_block_"))
    if t5 and component == "text_encoder_3" and naming in ("flux", "xlabs"):
        component = "text_encoder_2"  # tools number T5 third; in Flux's pipeline it is second
    if not name.flat:
        return [Place(paths=(f"{component}.{path}",))]
    # All CLIPs have the same names, and so have all T5s, whatever table they are found in.
    found: set[str] = set()
    for other in ("text_encoder", "text_encoder_2", "text_encoder_3"):
        found |= unflattened(other, path)
    return [Place(paths=(f"{component}.{path}",)) for path in sorted(found)]
