"""Every merge method, once."""

from __future__ import annotations

from collections.abc import Mapping

from adaptrix.compose.method import Entries, Method
from adaptrix.compose.methods import (
    breadcrumbs,
    cart,
    ctm,
    dare_linear,
    dare_ties,
    della,
    iso_c,
    iso_cts,
    karcher,
    knots,
    linear,
    magnitude_prune,
    model_stock,
    multislerp,
    nuslerp,
    pico,
    sce,
    slerp,
    svd,
    ties,
    tsv_m,
)
from adaptrix.schema.errors import UsageError

METHODS: Mapping[str, Method] = {
    module.METHOD.name: module.METHOD
    for module in (
        linear, svd, slerp, nuslerp, multislerp, karcher, model_stock, ties, dare_linear,
        dare_ties, della, breadcrumbs, magnitude_prune, sce, knots, tsv_m, iso_c, iso_cts, cart,
        ctm, pico,
    )
}  # fmt: skip
SPACES = ("canonical", "core", "dense")
"""Where entries are looked at; the first is the default."""


def find(name: str) -> tuple[Method, str]:
    """The method of ``NAME`` or ``NAME@SPACE``, and the space: ``factor`` where none matters.

    Raises:
        UsageError: there is none, or it has no choice of spaces.
    """
    bare, _, space = name.partition("@")
    if bare not in METHODS:
        raise UsageError(
            f"no method {bare!r}", where="--method", hint=f"Methods: {', '.join(METHODS)}."
        )
    method = METHODS[bare]
    default = default_space(method)
    if space and default == "factor":
        raise UsageError(f"{bare} has no choice of spaces", where="--method")
    if space and space not in SPACES:
        hint = f"Spaces: {', '.join(SPACES)}."
        raise UsageError(f"no space {space!r}", where="--method", hint=hint)
    return method, space or default


def default_space(method: Method) -> str:
    """``factor`` where entries do not matter, else where they are looked at by default."""
    return SPACES[0] if isinstance(method.how, Entries) else "factor"
