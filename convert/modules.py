"""The last step to the canonical adapter: kinds of modules, sorted by path."""

from __future__ import annotations

from collections.abc import Sequence

from adaptrix.convert.architecture.families import family_named
from adaptrix.convert.draft import Factors
from adaptrix.schema.adapter import AdaptedModule, ModuleKind, ModulePath


def adapted_modules(
    factors: Sequence[Factors], family: str, *, fan_in_fan_out: bool
) -> tuple[AdaptedModule, ...]:
    """Modules of all pairs whose scale is known, sorted by path."""
    found = [
        AdaptedModule(
            path=ModulePath(pair.path),
            kind=module_kind(pair, family, fan_in_fan_out=fan_in_fan_out),
            source=pair.source,
            a=pair.a,
            b=pair.b,
            scale=pair.scale,
            magnitude=pair.magnitude,
            bias_delta=pair.bias_delta,
        )
        for pair in factors
        if pair.scale is not None
    ]
    return tuple(sorted(found, key=lambda module: module.path))


def module_kind(pair: Factors, family: str, *, fan_in_fan_out: bool) -> ModuleKind:
    """What a pair belongs to.

    A family's modules are what its class says, whatever the flag: PEFT corrects a wrong flag
    when it loads. In a family that is not known the flag is all there is.
    """
    if pair.kind is not ModuleKind.LINEAR:
        return pair.kind
    known = family_named(family)
    kinds = {shape.kind for shape in known.shapes(pair.path)} if known else set()
    stated = fan_in_fan_out and family in ("", "unknown")
    transposed = "conv1d" in kinds if kinds else stated
    return ModuleKind.CONV1D if transposed else ModuleKind.LINEAR
