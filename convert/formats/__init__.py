"""All formats, in one explicit tuple; the first of two equal scores wins."""

from adaptrix.convert.draft import Format
from adaptrix.convert.formats import gguf, litgpt, loralib, mlx, peft, recognised, torchtune

FORMATS: tuple[Format, ...] = (
    peft.FORMAT,
    mlx.FORMAT,
    gguf.FORMAT,
    torchtune.FORMAT,
    litgpt.FORMAT,
    loralib.FORMAT,
    *recognised.FORMATS,
)
"""Formats that are read (and mostly written) first; the others are recognised and refused."""
