"""Names of the models' first code, dotted: ComfyUI, ai-toolkit, Black Forest Labs.

``diffusion_model.`` or nothing before the module's own path (``double_blocks.0.img_attn.qkv``,
``blocks.0.self_attn.q``), factors named ``lora_A``/``lora_B`` or ``lora_down``/``lora_up``;
without alpha the scale is 1. Flux's control LoRAs also replace norms, and add biases.
Source: ComfyUI ``comfy/lora.py``, diffusers ``lora_conversion_utils.py``.
"""

from __future__ import annotations

from adaptrix.convert.contents import Contents
from adaptrix.convert.diffusion.assembly import read_modules
from adaptrix.convert.diffusion.models import NUMBER
from adaptrix.convert.diffusion.natives import FLUX_NORMS
from adaptrix.convert.diffusion.recognising import COMFYUI, recognised_as
from adaptrix.convert.draft import Draft, Format, Recognition
from adaptrix.convert.options import ReadOptions


def recognise(contents: Contents) -> Recognition | None:
    """Dotted names of the first code."""
    return recognised_as(COMFYUI, contents, what="names of the model's first code")


def read(contents: Contents, options: ReadOptions) -> Draft:
    """Names looked up, fused layers apart, norms that are replaced beside them."""
    norms = {name: to for name in contents.tensors if (to := _norm(name))}
    return read_modules(contents, options, layout="comfyui", replacements=norms)


def _norm(name: str) -> str:
    bare = name.removeprefix("diffusion_model.").removeprefix("transformer.")
    target = FLUX_NORMS.get(NUMBER.sub("{}", bare))
    return "transformer." + target.format(*NUMBER.findall(bare)) if target else ""


FORMAT = Format(name="comfyui", recognise=recognise, read=read)
