"""Canonical bytes, defined once: the digest of a document is the digest of these bytes.

Canonical JSON here is UTF-8, keys sorted by code point, no blanks, no floats (a float's
text depends on who prints it: write it as a string with :func:`float_text`), no NaN.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from adaptrix.schema.errors import FormatError

Json: TypeAlias = "bool | int | float | str | Sequence[Json] | Mapping[str, Json] | None"
"""A JSON value; :func:`canonical_json` refuses the floats among them."""


def canonical_json(document: Json) -> bytes:
    """Encode ``document`` as canonical JSON.

    Raises:
        TypeError: ``document`` holds a float, a key that is no text, or another type that
            has no canonical text.
        FormatError: a text in it is not valid Unicode (a lone surrogate), as a command
            line argument or a file name in another encoding may be.
    """
    _reject_ambiguous(document)
    text = json.dumps(document, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        around = text[max(0, error.start - 20) : error.start + 20]
        raise FormatError(
            f"not valid Unicode near {around!a}", hint="Write this text in UTF-8."
        ) from error


def float_text(value: float) -> str:
    """Shortest decimal text that reads back as the same float64 (``"2.0"``, ``"0.1"``)."""
    return repr(float(value))


def _reject_ambiguous(document: object) -> None:
    if isinstance(document, float):
        raise TypeError(f"canonical JSON holds no floats, got {document!r}: use float_text()")
    if isinstance(document, Mapping):
        for key, value in document.items():
            # json.dumps would write 1 and "1" as the same key.
            if not isinstance(key, str):
                raise TypeError(f"canonical JSON has text keys, got {key!r}")
            _reject_ambiguous(value)
    elif isinstance(document, Sequence) and not isinstance(document, str | bytes):
        for value in document:
            _reject_ambiguous(value)
