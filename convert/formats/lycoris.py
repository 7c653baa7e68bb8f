"""LyCORIS: LoHa, LoKr, LoCon's Tucker form, full differences, DoRA by ``dora_scale``.

Every method whose update does not depend on the base weight is exactly a pair of factors
(see ``diffusion.updates``); OFT, GLoRA, IA³, and magnitudes of columns need the base and are
refused. Names are kohya's flat ones, or dotted (ai-toolkit).
"""

from __future__ import annotations

from adaptrix.convert.contents import Contents
from adaptrix.convert.diffusion.assembly import read_modules
from adaptrix.convert.diffusion.recognising import LYCORIS_NAME, recognised_as
from adaptrix.convert.draft import Draft, Format, Recognition
from adaptrix.convert.options import ReadOptions


def recognise(contents: Contents) -> Recognition | None:
    """Parts that only LyCORIS's methods have, on names of a diffusion model."""
    return recognised_as(LYCORIS_NAME, contents, what="those of a LyCORIS method")


def read(contents: Contents, options: ReadOptions) -> Draft:
    """The exact pair of each module."""
    return read_modules(contents, options, layout="lycoris")


FORMAT = Format(name="lycoris", recognise=recognise, read=read)
