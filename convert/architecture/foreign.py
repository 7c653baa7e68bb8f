"""Bases whose type the catalogue does not have: built from their configuration elsewhere.

Building takes torch and transformers, which this package never imports. Whoever may, gives
the way to do it here once; without one, such a base stays unknown.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

Modules = Mapping[str, tuple[str, int, int]]
"""``(kind, out, in)`` by path."""
Builder = Callable[[str], Modules]
"""From the folder of a ``config.json`` to the base's modules; raises what stands in the way."""
_builders: list[Builder] = []


def build_with(builder: Builder) -> None:
    """Use ``builder`` from now on."""
    _builders[:] = [builder]


def built(folder: str) -> Modules | None:
    """Modules of the base in ``folder``; None when nobody here can build it.

    Raises:
        AdaptrixError: the configuration is none that can be built.
    """
    return _builders[0](folder) if _builders else None
