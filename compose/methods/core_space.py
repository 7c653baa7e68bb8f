"""Core Space as published: TIES in the singular bases of all ``B`` and of all ``A``.

The bases change when an adapter is written with other factors, and so does the result; TIES
in the canonical basis is the same idea without that.
"""

from __future__ import annotations

from adaptrix.compose.method import Entries, Method
from adaptrix.compose.methods.ties import begin
from adaptrix.compose.settings import DENSITY, SCALE

METHOD = Method(
    name="core_space",
    how=Entries(begin=begin, spaces=("core",)),
    summary="TIES in the singular bases of all B and of all A, as published",
    reference="Panariello et al. 2025, arXiv 2509.17786, section 3",
    laws=("identity", "absence", "order"),
    parameters=(DENSITY, SCALE),
)
