"""Modules of real diffusion models, from the table beside this file.

A pipeline is several networks, each under its component's name as diffusers has it
(``unet``, ``transformer``, ``text_encoder`` …); a canonical path is that name, a dot, and the
module's path in diffusers' or transformers' class. The table gives names and shapes; paths
of text encoders keep the ``text_model.`` of the published checkpoints.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path

TABLE = Path(__file__).with_name("models.txt")
COMPONENTS = (
    "unet", "transformer", "transformer_2", "text_encoder", "text_encoder_2", "text_encoder_3",
    "prior",
)  # fmt: skip
"""Names of networks in diffusers' pipelines, as they begin a canonical path."""
NUMBER = re.compile(r"(?<![^._])\d+(?=[._]|$)")
"""A number that is a whole part of a path or of its flat form."""
_BLOCKS = re.compile(r"\w+_blocks\.")
_LANGUAGE = ("h.", "wte", "wpe", "ln_f", "embd.", "word_embeddings")
_RANGE = re.compile(r"\{(\d+)(?:-(\d+))?\}")


@dataclass(frozen=True, slots=True)
class Module:
    """One layer: sizes, and the kernel of a convolution (``()`` for a linear layer)."""

    out_features: int
    in_features: int
    kernel: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipeline:
    """One published model.

    Attributes:
        name: Hub id.
        family: Plain name of its family.
        prior: Share of public diffusion adapters that are made for it, roughly.
        networks: Name of each component's network in the table.
    """

    name: str
    family: str
    prior: float
    networks: Mapping[str, str]

    def module(self, path: str) -> Module | None:
        """The module at a canonical path, or None."""
        component, _, rest = path.partition(".")
        network = self.networks.get(component)
        return _index(network).get(rest) if network else None

    def layers_of(self, component: str, kinds: Iterable[str]) -> int:
        """How many modules of a component have paths of ``kinds``, numbers written ``{}``."""
        network = self.networks.get(component)
        return sum(_counts(network)[kind] for kind in kinds) if network else 0


@cache
def _counts(network: str) -> Counter[str]:
    return Counter(NUMBER.sub("{}", path) for path in _index(network))


@dataclass(frozen=True, slots=True)
class _Table:
    networks: Mapping[str, tuple[str, ...]]
    pipelines: tuple[Pipeline, ...]


@cache
def _table() -> _Table:
    networks: dict[str, tuple[str, ...]] = {}
    pipelines: tuple[Pipeline, ...] = ()
    for section in TABLE.read_text(encoding="utf-8").split("\n[")[1:]:
        name, _, body = section.partition("]")
        rows = tuple(body.strip().splitlines())
        if name == "pipelines":
            pipelines = tuple(_pipeline(row) for row in rows)
        else:
            networks[name] = rows
    return _Table(networks, pipelines)


def pipelines() -> tuple[Pipeline, ...]:
    """All published models of the table."""
    return _table().pipelines


def is_of_diffusion(family: str) -> bool:
    """Whether a family is one of the table's, and no language model."""
    return any(pipeline.family == family for pipeline in pipelines())


def _pipeline(row: str) -> Pipeline:
    name, family, prior, *components = row.split()
    networks = dict(entry.split("=") for entry in components)
    return Pipeline(name=name, family=family, prior=float(prior), networks=networks)


@cache
def _index(network: str) -> Mapping[str, Module]:
    """Every module of a network by path."""
    found: dict[str, Module] = {}
    for row in _table().networks[network]:
        template, out, into, kind = row.split()
        module = Module(int(out), int(into), _kernel(kind))
        spans = [range(int(a), int(b or a) + 1) for a, b in _RANGE.findall(template)]
        form = _RANGE.sub("{}", template)
        for numbers in product(*spans):
            found[form.format(*numbers)] = module
    return found


def _kernel(kind: str) -> tuple[int, ...]:
    return tuple(map(int, kind.removeprefix("conv").split("x"))) if kind != "linear" else ()


def modules(network: str) -> Mapping[str, Module]:
    """Every module of a network of the table, by path."""
    return _index(network)


@cache
def templates(component: str) -> Mapping[str, frozenset[str]]:
    """Paths with ``{}`` for numbers, by their flat form, of all networks of a component.

    ``attn1_to_out_{}`` leads to ``attn1.to_out.{}``. More than one path for a flat form would
    be an ambiguity; a test holds that there is none within one network.
    """
    found: dict[str, set[str]] = {}
    for pipeline in pipelines():
        network = pipeline.networks.get(component)
        for row in _table().networks[network] if network else ():
            path = NUMBER.sub("{}", _RANGE.sub("0", row.split()[0]))
            found.setdefault(path.replace(".", "_"), set()).add(path)
    return {flat: frozenset(paths) for flat, paths in found.items()}


def flattened(path: str) -> str:
    """``a.b_c.0`` as kohya writes it: ``a_b_c_0``."""
    return path.replace(".", "_")


def numbers_in(template: str, path: str) -> tuple[str, ...] | None:
    """The numbers that make ``path`` of ``template``, or None when nothing does."""
    match = _pattern(template).fullmatch(path)
    return match.groups() if match else None


@cache
def _pattern(template: str) -> re.Pattern[str]:
    return re.compile(re.escape(template).replace(r"\{\}", r"(\d+)"))


def unflattened(component: str, flat: str) -> frozenset[str]:
    """Paths of a component's module classes that ``flat`` can stand for."""
    numbers = NUMBER.findall(flat)
    forms = templates(component).get(NUMBER.sub("{}", flat), frozenset())
    return frozenset(form.format(*numbers) for form in forms)


def has_size(
    paths: Sequence[str], size: tuple[int, int], models: Sequence[Pipeline] | None = None
) -> bool:
    """Whether some model has all of ``paths`` and they are together a layer of ``(out, in)``."""
    for pipeline in pipelines() if models is None else models:
        found = [module for path in paths if (module := pipeline.module(path)) is not None]
        total = (sum(m.out_features for m in found), *{m.in_features for m in found})
        if len(found) == len(paths) and total == size:
            return True
    return False


def component_of(path: str) -> str:
    """The component that a canonical path begins with, or ``""``.

    Language models have a ``transformer`` as well; it is a pipeline's only before blocks of the
    kinds that those have, or before a module of a known network.
    """
    first, _, rest = path.partition(".")
    if first not in COMPONENTS or not rest:
        return ""
    if not first.startswith("transformer") or _BLOCKS.match(rest):
        return first
    if rest.startswith(_LANGUAGE):
        return ""
    return first if flattened(NUMBER.sub("{}", rest)) in templates("transformer") else ""
