"""Names of modules in the code that models were first published with, beside diffusers'.

The rows stand in the table beside this file, with its grammar in its head. Sources:
black-forest-labs/flux ``model.py`` and flux2 ``model.py``, Stability-AI/sd3-ref
``mmditx.py``, Wan-Video/Wan2.1 ``model.py``, Tencent/HunyuanVideo ``models.py``,
Alpha-VLLM/Lumina-Image-2.0 ``model.py`` (NextDiT, which Z-Image builds on), nvidia-cosmos
``minimal_v4_dit.py`` (Anima), krea-ai/krea-2 ``mmdit.py``, Lightricks/LTX-Video
``transformer3d.py``, and the conversions in diffusers' ``scripts/`` and
``single_file_utils.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

TABLE = Path(__file__).with_name("natives.txt")


@dataclass(frozen=True, slots=True)
class Row:
    """One module of the first code.

    Attributes:
        native: Its flat name.
        paths: Its paths in diffusers' class.
        shares: Shares of its rows that each path has.
        ratio: Outputs to inputs, None where any will do.
    """

    native: str
    paths: tuple[str, ...]
    shares: tuple[int, ...]
    ratio: tuple[int, int] | None = None

    def fits(self, size: tuple[int, int] | None) -> bool:
        """Whether a layer of ``(out, in)`` can be this one; one of unknown size can."""
        if size is None or self.ratio is None:
            return True
        return size[0] * self.ratio[1] == size[1] * self.ratio[0]


def namings() -> tuple[str, ...]:
    """Names of all first codes."""
    return tuple(_table())


def rows_of(naming: str) -> tuple[Row, ...]:
    """Rows of one of them; rows that two share agree, or differ in their ratio."""
    return _table()[naming]


@cache
def _table() -> Mapping[str, tuple[Row, ...]]:
    found: dict[str, tuple[Row, ...]] = {}
    for section in TABLE.read_text(encoding="utf-8").split("\n[")[1:]:
        name, _, body = section.partition("]")
        found[name] = tuple(_row(line) for line in body.strip().splitlines())
    return found


def _row(line: str) -> Row:
    first, *paths = line.split()
    native, _, rest = first.partition("=")
    ratio, *shares = rest.split(":")
    out, _, into = ratio.partition("/")
    return Row(
        native=native,
        paths=tuple(paths),
        shares=tuple(map(int, shares)) or (1,) * len(paths),
        ratio=(int(out), int(into)) if ratio else None,
    )


FLUX_NORMS: Mapping[str, str] = {
    "double_blocks.{}.img_attn.norm.query_norm.scale": "transformer_blocks.{}.attn.norm_q.weight",
    "double_blocks.{}.img_attn.norm.key_norm.scale": "transformer_blocks.{}.attn.norm_k.weight",
    "double_blocks.{}.txt_attn.norm.query_norm.scale": "transformer_blocks.{}.attn.norm_added_q.weight",
    "double_blocks.{}.txt_attn.norm.key_norm.scale": "transformer_blocks.{}.attn.norm_added_k.weight",
    "single_blocks.{}.norm.query_norm.scale": "single_transformer_blocks.{}.attn.norm_q.weight",
    "single_blocks.{}.norm.key_norm.scale": "single_transformer_blocks.{}.attn.norm_k.weight",
}
"""Norms that Flux's control LoRA replaces outright."""
