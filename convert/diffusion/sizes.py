"""Outputs and inputs of a file's layers, from the shapes of their parts.

Models share names of layers and differ in their sizes, so these tell which model's name one is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from adaptrix.convert.diffusion.leaves import DOWN, UP
from adaptrix.schema.tensor import LazyTensor

_CORES = {"hada_t1", "hada_t2", "lokr_t1", "lokr_t2", "mid"}
Shapes = Mapping[str, tuple[int, ...]]


def sizes_of(
    groups: Mapping[str, Mapping[str, str]], tensors: Mapping[str, LazyTensor]
) -> dict[str, tuple[int, int]]:
    """``(out, in)`` by module, for those whose parts are matrices.

    Args:
        groups: Tensor name by part, by module.
        tensors: All tensors of the file.
    """
    found = {}
    for name, keys in groups.items():
        if _CORES & keys.keys():
            continue  # a convolution; the other parts are turned
        shapes = {part: tensors[key].shape for part, key in keys.items()}
        size = next(_sizes({p: s for p, s in shapes.items() if len(s) == 2}), None)
        if size is not None:
            found[name] = size
    return found


def _sizes(shapes: Shapes) -> Iterator[tuple[int, int]]:
    """The size that each method's parts give; a factor of LoKr is whole or a product."""
    if DOWN in shapes and UP in shapes:
        yield shapes[UP][0], shapes[DOWN][1]
    if "hada_w1_a" in shapes and "hada_w1_b" in shapes:
        yield shapes["hada_w1_a"][0], shapes["hada_w1_b"][1]
    if "diff" in shapes:
        yield shapes["diff"][0], shapes["diff"][1]
    one, two = (_factor(shapes, f"lokr_w{i}") for i in (1, 2))
    if one is not None and two is not None:
        yield one[0] * two[0], one[1] * two[1]


def _factor(shapes: Shapes, name: str) -> tuple[int, int] | None:
    if name in shapes:
        return shapes[name][0], shapes[name][1]
    a, b = shapes.get(f"{name}_a"), shapes.get(f"{name}_b")
    return None if a is None or b is None else (a[0], b[1])
