"""Every merge method, once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from adaptrix.compose.method import Entries, Factors, Method
from adaptrix.compose.methods import (
    breadcrumbs,
    cart,
    core_space,
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
    peft_formulas,
    pico,
    regmean,
    sce,
    slerp,
    svd,
    ties,
    tsv_m,
)
from adaptrix.schema.errors import UsageError

METHODS: Mapping[str, Method] = {
    method.name: method
    for method in (
        *(
            module.METHOD
            for module in (
                linear, svd, slerp, nuslerp, multislerp, karcher, model_stock, ties, dare_linear,
                dare_ties, della, breadcrumbs, magnitude_prune, sce, knots, core_space, tsv_m,
                iso_c, iso_cts, cart, ctm, pico, regmean,
            )
        ),
        *peft_formulas.METHODS,
    )
}  # fmt: skip


def find(name: str) -> tuple[Method, str]:
    """The method of ``[pico+]NAME[@SPACE]``, and the space: ``factor`` where none matters.

    ``cat`` is linear, and a hyphen in a name does for an underscore.

    Raises:
        UsageError: there is none, it has no choice of spaces, or nothing may come before it.
    """
    bare, _, space = name.partition("@")
    stepped = bare.startswith(pico.PREFIX)
    bare = _named(bare.removeprefix(pico.PREFIX) if stepped else bare)
    if bare not in METHODS:
        raise UsageError(
            f"no method {bare!r}", where="--method", hint=f"Methods: {', '.join(METHODS)}."
        )
    method = METHODS[bare]
    known = spaces(method)
    if space and known == ("factor",):
        raise UsageError(f"{bare} has no choice of spaces", where="--method")
    if space and space not in known:
        hint = f"Spaces of {bare}: {', '.join(known)}."
        raise UsageError(f"no space {space!r}", where="--method", hint=hint)
    space = space or known[0]
    if not stepped:
        return method, space
    if (
        isinstance(method.how, Factors)
        or space not in {"factor", "canonical"}
        or method is pico.METHOD
    ):
        raise UsageError(f"pico cannot come before {name.removeprefix(pico.PREFIX)}",
                         where="--method")  # fmt: skip
    return replace(method, name=pico.PREFIX + bare, before=pico.calibrated), space


def _named(text: str) -> str:
    prefix = "compat:peft-" if text.startswith("compat:peft-") else ""
    name = prefix + text.removeprefix(prefix).replace("-", "_")
    return "linear" if name == "cat" else name


def spaces(method: Method) -> tuple[str, ...]:
    """Where entries may be looked at, the default first; ``factor`` where none matter."""
    return method.how.spaces if isinstance(method.how, Entries) else ("factor",)
