"""What a user may say about a source that its content does not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from adaptrix.schema.canonical import Json
from adaptrix.schema.errors import UsageError
from adaptrix.schema.report import Candidate

if TYPE_CHECKING:
    from adaptrix.convert.base_weights import BaseWeights

PHI_LAYOUTS = ("phi-l1", "phi-l2", "phi-l3", "phi-l4", "phi-l5")
MERGED_LAYOUTS = ("merged-q", "merged-k", "merged-v", "merged-qk", "merged-qv", "merged-kv")
"""Which blocks of a merged q, k, v layer have factors, where neither file nor shape tells."""
PEFT_LAYOUTS = ("peft-0.18", "peft-0.19.0", "peft-0.19.1")
"""Which PEFT stacked the factors of MoE experts, where neither file nor shape tells."""
UNSLOTH = "unsloth"
"""Experts whose columns of ``B`` stand expert by expert: what Unsloth trained to September 2026."""
SOURCE_LAYOUTS = (*PHI_LAYOUTS, *MERGED_LAYOUTS, *PEFT_LAYOUTS, UNSLOTH)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadOptions:
    """Answers given on the command line.

    Attributes:
        alpha: ``--alpha``, used only where the file stores none.
        source_layout: ``--source-layout``: one of :data:`SOURCE_LAYOUTS`.
        base_config: Parsed ``config.json`` of ``--base``.
        base_name: Name of ``--base``, for messages.
        base_is_complete: Whether :attr:`base_config` is a whole ``config.json``.
        base_modules: ``(kind, out, in)`` by path of a base that had to be built to know it.
        base_build: Builds the base from its ``config.json``, for what the catalogue has
            otherwise; None when there is no folder of it.
        check_values: Whether to read the tensors' bytes (NaN, all-zero B); headers are
            always checked.
        base_weights: Opens the weights of ``--base``, when they are on this machine.
        carry: Whether an adapter that is no LoRA, and is known, is kept as it is.
        decided: Family and confidence of an earlier reading, which may have known more.
    """

    alpha: float | None = None
    source_layout: str | None = None
    base_config: Mapping[str, Json] | None = None
    base_name: str | None = None
    base_is_complete: bool = True
    base_modules: Mapping[str, tuple[str, int, int]] | None = None
    base_build: Callable[[], Mapping[str, tuple[str, int, int]] | None] | None = None
    check_values: bool = True
    base_weights: Callable[[], BaseWeights] | None = None
    carry: bool = False
    decided: Candidate | None = None

    @property
    def phi_layout(self) -> str | None:
        """:attr:`source_layout` when it is one of Phi's."""
        return self.source_layout if self.source_layout in PHI_LAYOUTS else None

    @property
    def peft_version(self) -> str:
        """Version that :attr:`source_layout` names, or ``""``."""
        stated = self.source_layout in PEFT_LAYOUTS
        return (self.source_layout or "").removeprefix("peft-") if stated else ""

    @property
    def merged_parts(self) -> tuple[str, ...]:
        """Parts that :attr:`source_layout` names for merged layers, in file order."""
        merged = self.source_layout in MERGED_LAYOUTS
        return tuple((self.source_layout or "").removeprefix("merged-")) if merged else ()

    def __post_init__(self) -> None:
        if self.source_layout is not None and self.source_layout not in SOURCE_LAYOUTS:
            raise UsageError(
                f"unknown layout {self.source_layout[:40]!r}",
                where="--source-layout",
                hint=f"Choose one of {', '.join(SOURCE_LAYOUTS)}.",
            )
        alpha = self.alpha
        if alpha is not None and not (-1e9 < alpha < 1e9 and alpha != 0):
            raise UsageError(
                f"alpha must be a finite number other than 0, got {alpha}", where="--alpha"
            )
