"""The bundled composition, with the weights that validation items chose (see docs/samples.md)."""

from __future__ import annotations

COMPOSED = "math-code"
WEIGHTS = {"math": 1.0, "code": 1.0}
