"""XLabs' LoRA for Flux: ``double_blocks.0.processor.qkv_lora1.down.weight``.

``lora1`` is the image stream, ``lora2`` the text stream; q, k and v are fused, the scale is 1.
Source: XLabs-AI/x-flux ``models.py``.
"""

from __future__ import annotations

from adaptrix.convert.contents import Contents
from adaptrix.convert.diffusion.assembly import read_modules
from adaptrix.convert.diffusion.recognising import XLABS, recognised_as
from adaptrix.convert.draft import Draft, Format, Recognition
from adaptrix.convert.options import ReadOptions


def recognise(contents: Contents) -> Recognition | None:
    """Attention processors below ``double_blocks`` or ``single_blocks``."""
    return recognised_as(XLABS, contents, what="attention processors of XLabs")


def read(contents: Contents, options: ReadOptions) -> Draft:
    """Names looked up, q, k and v apart."""
    return read_modules(contents, options, layout="xlabs")


FORMAT = Format(name="xlabs", recognise=recognise, read=read)
