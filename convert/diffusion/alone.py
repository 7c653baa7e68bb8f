"""Differences that stand without factors: of a bias alone, and of norms.

Distilled models come with files that hold ``diff_b`` for layers whose matrix is unchanged, and
``diff`` for norms (lightx2v, AccVideo, CausVid). A bias alone is exactly a pair of zeros with
that bias; a norm has no matrix to factor.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from adaptrix.convert.arrays import is_zero
from adaptrix.convert.diffusion.leaves import DOWN, UP
from adaptrix.convert.diffusion.models import Pipeline, has_size, pipelines
from adaptrix.schema.tensor import LazyTensor

_NORM_PARTS = {"diff", "diff_b", "w_norm", "b_norm"}
NORMS = "a difference of norms, which have no matrix to factor"
Parts = Mapping[str, LazyTensor]


def models_of(
    paths: Mapping[str, Sequence[str]], sizes: Mapping[str, tuple[int, int]]
) -> Sequence[Pipeline]:
    """Published models whose layers have the sizes of the file's, by its own names."""
    known = [(paths[name], size) for name, size in sizes.items() if name in paths]
    return [p for p in pipelines() if all(has_size(path, size, (p,)) for path, size in known)]


def with_factors(parts: Parts, paths: Sequence[str], models: Sequence[Pipeline]) -> Parts:
    """``parts`` of a layer, with a pair of zeros when all they hold is a bias's difference.

    Args:
        parts: Tensors of the layer.
        paths: Canonical paths of the layer.
        models: Models that the file can be made for.
    """
    bias = parts.get("diff_b")
    if set(parts) != {"diff_b"} or bias is None or is_zero(bias):
        return parts
    layers = [layer for p in models for path in paths if (layer := p.module(path)) is not None]
    widths = {(layer.in_features, layer.kernel) for layer in layers}
    if len(widths) != 1:
        return parts
    ((width, kernel),) = widths
    ones = tuple(1 for _ in kernel)
    zeros = {DOWN: (1, width, *kernel), UP: (bias.count, 1, *ones)}
    return {**parts, **{part: blank(shape, bias) for part, shape in zeros.items()}}


def blank(shape: tuple[int, ...], like: LazyTensor) -> LazyTensor:
    """Zeros in ``like``'s dtype."""
    size = math.prod(shape) * like.dtype.itemsize
    return replace(like, shape=shape, load=lambda: bytes(size))


def is_norm(parts: Parts) -> bool:
    """Whether these are differences of vectors alone."""
    return parts.keys() <= _NORM_PARTS and all(len(t.shape) < 2 for t in parts.values())


def changes(parts: Parts) -> bool:
    """Whether any of them is not zero."""
    return not all(is_zero(tensor) for tensor in parts.values())
