"""Writes what diffusers before 0.22 loads: attention processors and LoRA layers of text encoders.

``unet.….attn1.processor.to_q_lora.down.weight`` and ``text_encoder.….q_proj.lora_linear_layer.
down.weight``. These files have no scale, which is 1: any other is multiplied into ``up``, in
float32. Attention is all that a processor holds; other modules of a UNet are refused by name.
Source: diffusers 0.21, ``loaders.py`` and ``models/attention_processor.py``.
"""

from __future__ import annotations

import re
from functools import partial

from adaptrix.convert.computed import times
from adaptrix.convert.safetensors_file import safetensors_bytes
from adaptrix.convert.writers.components import modules_by_component
from adaptrix.convert.writers.files import encoded_file
from adaptrix.convert.written import Written
from adaptrix.schema import media_types
from adaptrix.schema.adapter import AdaptedModule, Adapter, ModuleKind
from adaptrix.schema.errors import Refused
from adaptrix.schema.report import Fidelity
from adaptrix.schema.tensor import LazyTensor

TARGET, _NAME = "diffusers-old", "pytorch_lora_weights.safetensors"
_PROCESSOR = re.compile(r"(?P<attention>.+\.attn[12])\.(?P<part>to_[qkv]|to_out\.0)")
_ENCODERS = ("text_encoder", "text_encoder_2")


def write(adapter: Adapter) -> Written:
    """The adapter as diffusers' former file.

    Raises:
        Refused: modules that are no attention of a UNet and no linear layer of a text
            encoder, magnitudes, biases.
    """
    tensors: dict[str, LazyTensor] = {}
    exact = True
    for component, placed in modules_by_component(adapter, TARGET, magnitudes=False).items():
        for path, module in placed:
            name = f"{component}.{_name(component, path, module)}"
            exact &= module.scale.value == 1.0
            up = module.b if module.scale.value == 1.0 else times(module.b, module.scale.value)
            tensors |= {f"{name}.down.weight": module.a, f"{name}.up.weight": up}
    weights = encoded_file(
        _NAME, partial(safetensors_bytes, tensors, {"format": "pt"}), media_types.WEIGHT_RAW
    )
    return Written(
        files=(weights,),
        fidelity=Fidelity.EXACT if exact else Fidelity.ROUNDING,
        max_abs_error=0.0,
        tensors=len(tensors),
    )


def _name(component: str, path: str, module: AdaptedModule) -> str:
    processor = _PROCESSOR.fullmatch(path) if component == "unet" else None
    plain = module.kind is ModuleKind.LINEAR and module.bias_delta is None
    if plain and processor:
        part = processor["part"].removesuffix(".0")
        return f"{processor['attention']}.processor.{part}_lora"
    if plain and component in _ENCODERS:
        return f"{path}.lora_linear_layer"
    raise Refused(
        f"diffusers had no place for {module.path} before 0.22, or for its bias",
        where=TARGET,
        code="unsupported_target",
    )
