"""Canonical bytes, defined once: the digest of a document is the digest of these bytes.

Canonical JSON here is UTF-8, keys sorted by code point, no blanks, no floats (a float's
text depends on who prints it: write it as a string with :func:`float_text`), no NaN.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TypeAlias

Json: TypeAlias = "bool | int | float | str | Sequence[Json] | Mapping[str, Json] | None"
"""A JSON value; :func:`canonical_json` refuses the floats among them."""


def canonical_json(document: Json) -> bytes:
    """Encode ``document`` as canonical JSON.

    Raises:
        TypeError: ``document`` holds a float or another type that has no canonical text.
    """
    _reject_floats(document)
    text = json.dumps(document, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return text.encode("utf-8")


def float_text(value: float) -> str:
    """Shortest decimal text that reads back as the same float64 (``"2.0"``, ``"0.1"``)."""
    return repr(float(value))


def _reject_floats(document: object) -> None:
    if isinstance(document, float):
        raise TypeError(f"canonical JSON holds no floats, got {document!r}: use float_text()")
    if isinstance(document, Mapping):
        for value in document.values():
            _reject_floats(value)
    elif isinstance(document, Sequence) and not isinstance(document, str | bytes):
        for value in document:
            _reject_floats(value)
