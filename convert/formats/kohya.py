"""kohya-ss sd-scripts: ``lora_unet_…_attn1_to_q.lora_down.weight``, ``lora_te_…``, ``.alpha``.

Module paths with ``_`` for dots, in diffusers' naming or the first code's (SDXL's
``input_blocks``, Flux's fused ``linear1``); one alpha per module, and a missing one, or 0,
means the rank. musubi-tuner and OneTrainer write the same. With ``split_qkv`` sd-scripts
joins the parts of a fused layer block-diagonally and leaves alpha that of a part
(kohya-ss/sd-scripts issue 2204); the metadata and the zeros tell. Source: sd-scripts
``networks/lora.py``, ``lora_flux.py``.
"""

from __future__ import annotations

import json

from adaptrix.convert.contents import Contents
from adaptrix.convert.diffusion.assembly import read_modules
from adaptrix.convert.diffusion.recognising import KOHYA, recognised_as
from adaptrix.convert.draft import Draft, Format, Recognition
from adaptrix.convert.options import ReadOptions
from adaptrix.convert.writers import kohya


def recognise(contents: Contents) -> Recognition | None:
    """Flat names with the prefixes of sd-scripts."""
    return recognised_as(KOHYA, contents, what="flat names of kohya's sd-scripts")


def read(contents: Contents, options: ReadOptions) -> Draft:
    """Names looked up in the module tables, scales ``alpha / r``."""
    return read_modules(contents, options, layout="kohya", split_alpha=is_split(contents))


def is_split(contents: Contents) -> bool:
    """Whether sd-scripts trained the parts of fused layers apart."""
    text = contents.metadata.get("ss_network_args")
    try:
        arguments = json.loads(text) if isinstance(text, str) else None
    except ValueError:
        return False
    value = arguments.get("split_qkv") if isinstance(arguments, dict) else None
    return value is True or (isinstance(value, str) and value.lower() == "true")


FORMAT = Format(name="kohya", recognise=recognise, read=read, write=kohya.write)
