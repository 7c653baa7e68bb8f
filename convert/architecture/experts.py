"""Names of experts: one module each in older classes, one stacked parameter in the current ones.

The catalogue has the parameter, ``mlp.experts.gate_up_proj (E, 2·f, h)`` and ``down_proj
(E, h, f)``. An adapter may name one expert's slice of it (``…gate_up_proj.3``), or the modules
that older classes had (``experts.3.gate_proj``, Mixtral's ``block_sparse_moe.experts.3.w1``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from adaptrix.convert.architecture.formula import UNKNOWN_SIZE
from adaptrix.convert.architecture.shape import Shape, Shapes

_SLICE = re.compile(r"(.*experts\.(?:gate_up_proj|up_proj|down_proj))\.(?:\{\}|\d+)")
_MODULE = re.compile(r"(.*experts)\.(?:\{\}|\d+)\.(\w+)")
_OLD_MODULES: Mapping[str, tuple[str, bool]] = {
    "gate_proj": ("gate_up_proj", True), "up_proj": ("gate_up_proj", True),
    "w1": ("gate_up_proj", True), "w3": ("gate_up_proj", True),
    "down_proj": ("down_proj", False), "w2": ("down_proj", False),
}  # fmt: skip
"""Parameter by the old module's name, and whether the module is half of it."""
_OLD_PARENT = re.compile(r"(^|\.)block_sparse_moe\.")


def stacked_names(name: str) -> Iterator[tuple[str, bool]]:
    """Parameters that ``name`` can be one expert's part of, and whether it is half of that."""
    if "experts" not in name and "block_sparse_moe" not in name:
        return
    for form in dict.fromkeys((name, _OLD_PARENT.sub(r"\1mlp.", name))):
        if match := _SLICE.fullmatch(form):
            yield match[1], False
        elif (match := _MODULE.fullmatch(form)) and match[2] in _OLD_MODULES:
            parameter, is_half = _OLD_MODULES[match[2]]
            yield f"{match[1]}.{parameter}", is_half
        elif form != name:
            yield form, False


def of_one_expert(shapes: Shapes, *, is_half: bool) -> Shapes:
    """``(out, in)`` of one expert, from the shapes of the stacked parameter."""
    found = []
    for shape in shapes:
        if shape.kind != "parameter" or len(shape.sizes) != 3:
            found.append(shape)
            continue
        _, first, second = shape.sizes
        if is_half:
            first = first.removeprefix("2*") if first.startswith("2*") else UNKNOWN_SIZE
        found.append(Shape(sizes=(first, second), count=shape.count, when=shape.when))
        # Some classes keep experts as (in, out).
        if not is_half:
            found.append(Shape(sizes=(second, first), count=shape.count, when=shape.when))
    return tuple(found)
