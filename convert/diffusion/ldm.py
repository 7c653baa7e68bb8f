"""The UNet of Stable Diffusion as its first code names it: ``input_blocks_4_1_…``.

Blocks are numbered through; diffusers groups them by resolution, two layers and a sampler in
each. Every published model has two layers per block, which is what the arithmetic needs. Both
directions work on flat names (``_`` for dots). Source: CompVis/latent-diffusion
``openaimodel.py`` and Stability-AI/generative-models for ``label_emb``.
"""

from __future__ import annotations

import re

LAYERS = 2
_BLOCK = re.compile(r"(input|output)_blocks_(\d+)_(\d)_(.+)|middle_block_(\d)_(.+)")
_RESNET = {
    "in_layers_2": "conv1", "out_layers_3": "conv2", "emb_layers_1": "time_emb_proj",
    "skip_connection": "conv_shortcut",
}  # fmt: skip
_OUTER = {
    "input_blocks_0_0": "conv_in", "out_2": "conv_out",
    "time_embed_0": "time_embedding_linear_1", "time_embed_2": "time_embedding_linear_2",
    "label_emb_0_0": "add_embedding_linear_1", "label_emb_0_2": "add_embedding_linear_2",
}  # fmt: skip


def is_ldm(flat: str) -> bool:
    """Whether ``flat`` can only be a name of the first code."""
    return flat in _OUTER or _BLOCK.fullmatch(flat) is not None


def from_ldm(flat: str) -> str | None:
    """The flat name in diffusers' naming, or None for what is none of the first code's."""
    if flat in _OUTER:
        return _OUTER[flat]
    match = _BLOCK.fullmatch(flat)
    if match is None:
        return None
    side, number, place, rest, middle, inside = match.groups()
    if side is None:
        return _middle(int(middle), inside)
    if side == "input":
        return _input(int(number), int(place), rest)
    return _output(int(number), int(place), rest)


def _middle(place: int, rest: str) -> str | None:
    if place == 1:
        return f"mid_block_attentions_0_{rest}"
    return _resnet(f"mid_block_resnets_{place // 2}", rest) if place in (0, 2) else None


def _input(number: int, place: int, rest: str) -> str | None:
    block, layer = divmod(number - 1, LAYERS + 1)
    if number < 1 or place > 1:
        return None
    if layer == LAYERS:
        return f"down_blocks_{block}_downsamplers_0_conv" if (place, rest) == (0, "op") else None
    if place == 1:
        return f"down_blocks_{block}_attentions_{layer}_{rest}"
    return _resnet(f"down_blocks_{block}_resnets_{layer}", rest)


def _output(number: int, place: int, rest: str) -> str | None:
    block, layer = divmod(number, LAYERS + 1)
    if rest == "conv" and place in (1, 2) and layer == LAYERS:
        return f"up_blocks_{block}_upsamplers_0_conv"
    if place == 1:
        return f"up_blocks_{block}_attentions_{layer}_{rest}"
    return _resnet(f"up_blocks_{block}_resnets_{layer}", rest) if place == 0 else None


def _resnet(prefix: str, rest: str) -> str | None:
    return f"{prefix}_{_RESNET[rest]}" if rest in _RESNET else None
