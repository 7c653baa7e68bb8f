"""The bundled composition, its weights found on validation items (see docs/samples.md)."""

from __future__ import annotations

COMPOSED = "math-code"
WEIGHTS = {"math": 1.3, "code": 1.0}
