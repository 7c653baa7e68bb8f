"""All formats, in one explicit tuple; the first of two equal scores wins."""

from adaptrix.convert.draft import Format
from adaptrix.convert.formats import (
    adapterhub,
    comfyui,
    diffusers,
    gguf,
    kohya,
    litgpt,
    lora_diffusion,
    lora_vit,
    loralib,
    lycoris,
    mlx,
    mlx_vlm,
    nemo,
    peft,
    peft_bare,
    per_layer,
    recognised,
    torchtune,
    tunix,
    xlabs,
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
    kohya.FORMAT,
    lycoris.FORMAT,
    diffusers.FORMAT,
    xlabs.FORMAT,
    comfyui.FORMAT,
    lora_diffusion.FORMAT,
    *recognised.FORMATS,
)
"""Formats that are read (some also written) first; the others are recognised and refused."""
