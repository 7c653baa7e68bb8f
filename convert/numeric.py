"""numpy, imported when the first value is computed.

Recognising an adapter, checking its shapes and copying its bytes take no arithmetic, and
importing numpy takes longer than all of them together. Modules of this package that
compute take ``np`` from here; ruff refuses the plain import.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from adaptrix.schema.late import LateModule

__all__ = ["np"]

if TYPE_CHECKING:
    import numpy as np
else:
    np = LateModule("numpy")
