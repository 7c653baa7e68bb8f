"""The licence of what is made from several adapters.

Licences are compared by what they ask of those who pass the work on. Where one of them
allows all that the others ask, the most restrictive is carried; where two ask things that
contradict each other, or one is unknown, that is a conflict.
"""

from __future__ import annotations

from collections.abc import Mapping

from adaptrix.schema.errors import IncompatibleAdapter

_ORDER = (
    ("unlicense", "cc0-1.0", "0bsd", "wtfpl"),
    ("mit", "bsd", "bsd-2-clause", "bsd-3-clause", "isc", "zlib", "ncsa"),
    ("apache-2.0", "cc-by-2.0", "cc-by-3.0", "cc-by-4.0"),
)
"""From free to less free; each may be carried under any later one."""
_LEVEL = {name: level for level, names in enumerate(_ORDER) for name in names}
_TAKES_PERMISSIVE = {
    "gpl-3.0", "agpl-3.0", "lgpl-3.0", "mpl-2.0", "cc-by-sa-4.0", "cc-by-nc-4.0",
    "cc-by-nc-sa-4.0", "openrail", "bigscience-openrail-m", "creativeml-openrail-m",
}  # fmt: skip
"""May carry permissive work, but not each other's."""


def combined(stated: Mapping[str, str], *, allow_conflict: bool = False) -> str:
    """The licence to carry.

    Args:
        stated: Licence → an adapter that states it; adapters that state none are left out.
        allow_conflict: Carry a conflict as ``A AND B`` instead of refusing.

    Raises:
        IncompatibleAdapter: the licences conflict.
    """
    names = sorted({name.strip() for name in stated if name.strip()})
    if len(names) < 2:
        return names[0] if names else ""
    strict = [name for name in names if name.lower() not in _LEVEL]
    if not strict:
        return max(names, key=lambda name: (_LEVEL[name.lower()], name))
    if len(strict) == 1 and strict[0].lower() in _TAKES_PERMISSIVE:
        return strict[0]
    if allow_conflict:
        return " AND ".join(names)
    listed = ", ".join(f"{name} ({stated.get(name, '')})" for name in names)
    raise IncompatibleAdapter(
        f"licences conflict: {listed}",
        where="license",
        hint="Pull again with --license where one is wrong, or pass --allow-license-conflict.",
        code="license_conflict",
    )
