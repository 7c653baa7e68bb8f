"""The order in which lora_diffusion meets the layers of Stable Diffusion.

Its files number the adapted layers as they are met: the parents whose class is wanted, in the
order in which they were registered, and inside each its linear layers. In the UNet of
diffusers that is all down blocks, all up blocks, then the middle; in a block the attentions
before the resnets; in an attention q, k, v, out; the feed-forward stood between the two
attentions before diffusers 0.15 and stands after them since. CLIP registers k, v, q, out.
Source: cloneofsimo/lora ``lora_diffusion/lora.py`` (``_find_modules``, ``inject_trainable_lora``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product

from adaptrix.convert.diffusion.models import Module, pipelines

_ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
_CLIP = ("k_proj", "v_proj", "q_proj", "out_proj")
_RESNET = ("conv1", "time_emb_proj", "conv2", "conv_shortcut")
_BLOCKS = (
    *((f"down_blocks.{i}", 2 * (i < 3), 2) for i in range(4)),
    *((f"up_blocks.{i}", 3 * (i > 0), 3) for i in range(4)),
    ("mid_block", 1, 2),
)
"""Path, attentions and resnets of each block of Stable Diffusion 1 and 2."""
Shape = tuple[int, int]


def walks(component: str, shapes: Sequence[Shape]) -> list[tuple[str, ...]]:
    """Paths of ``shapes`` (outputs, inputs; in file order) in every way that fits a model."""
    makers = _unets() if component == "unet" else (_texts(),)
    found: dict[tuple[str, ...], None] = {}
    for maker in makers:
        for pipeline in pipelines():
            if pipeline.family != "stable-diffusion":
                continue
            known = [(f"{component}.{p}", pipeline.module(f"{component}.{p}")) for p in maker]
            met = [(path, module) for path, module in known if module is not None]
            if len(met) == len(shapes) and all(map(_same, (m for _, m in met), shapes)):
                found[tuple(path for path, _ in met)] = None
    return list(found)


def _same(module: Module, shape: Shape) -> bool:
    return (module.out_features, module.in_features) == shape


def _unets() -> Iterator[tuple[str, ...]]:
    """Layers of the UNet for each set of wanted parents and each order of the feed-forward."""
    for gated, resnets, last in product((False, True), (False, True), (False, True)):
        if last and not gated:
            continue
        yield tuple(_unet(gated=gated, resnets=resnets, last=last))


def _unet(*, gated: bool, resnets: bool, last: bool) -> Iterator[str]:
    for block, attentions, layers in _BLOCKS:
        for j in range(attentions):
            inside = f"{block}.attentions.{j}.transformer_blocks.0"
            gate = [f"{inside}.ff.net.0.proj"] if gated else []
            first, second = ([f"{inside}.{n}.{t}" for t in _ATTENTION] for n in ("attn1", "attn2"))
            yield from (*first, *second, *gate) if last else (*first, *gate, *second)
        for j in range(layers if resnets else 0):
            yield from (f"{block}.resnets.{j}.{tail}" for tail in _RESNET)


def _texts() -> tuple[str, ...]:
    return tuple(
        f"text_model.encoder.layers.{i}.self_attn.{tail}" for i in range(32) for tail in _CLIP
    )
