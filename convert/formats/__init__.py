"""All formats, in one explicit tuple; the first of two equal scores wins."""

from adaptrix.convert.draft import Format
from adaptrix.convert.formats import (
    adapterhub,
    gguf,
    litgpt,
    lora_vit,
    loralib,
    mlx,
    mlx_vlm,
    nemo,
    peft,
    peft_bare,
    per_layer,
    recognised,
    torchtune,
    tunix,
)

FORMATS: tuple[Format, ...] = (
    peft.FORMAT,
    peft_bare.FORMAT,
    mlx.FORMAT,
    mlx_vlm.FORMAT,
    gguf.FORMAT,
    torchtune.FORMAT,
    litgpt.FORMAT,
    loralib.FORMAT,
    nemo.FORMAT,
    tunix.FORMAT,
    adapterhub.FORMAT,
    lora_vit.FORMAT,
    per_layer.FORMAT,
    *recognised.FORMATS,
)
"""Formats that are read (some also written) first; the others are recognised and refused."""
