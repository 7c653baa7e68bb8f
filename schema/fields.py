"""How our values are written in JSON: digests and floats as text.

Used as ``Annotated`` field types on frozen dataclasses, which pydantic then reads,
writes and describes; inside the program the values stay what they are.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import AllowInfNan, BeforeValidator, PlainSerializer, WithJsonSchema

from adaptrix.schema.canonical import float_text
from adaptrix.schema.digest import Digest


def _digest(value: object) -> object:
    return Digest.parse(value) if isinstance(value, str) else value


DigestField = Annotated[
    Digest,
    BeforeValidator(_digest),
    PlainSerializer(str, return_type=str),
    WithJsonSchema({"type": "string", "pattern": "^sha256:[0-9a-f]{64}$"}),
]
"""A digest, as ``sha256:<hex>``."""

FloatText = Annotated[
    float,
    AllowInfNan(False),
    PlainSerializer(float_text, return_type=str),
    WithJsonSchema({"type": "string", "description": "shortest decimal text of a float64"}),
]
"""A finite float64, as its shortest decimal text, so that canonical JSON holds no floats."""
