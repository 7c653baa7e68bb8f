"""Which projections a family has fused, and the names under which others have them apart.

A :class:`Form` gives each module of a block its part (``q``, ``gate`` …) or the parts it is
fused of. Forms of one ``kin`` are the same network under other names, so that an adapter
may go from one to another; every family can also have its fused modules written apart, in
place (``split``). Rotary embeddings are the same within a kin, no row moves inside a head.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from adaptrix.convert.layouts.renames import slots

QKV = ("q", "k", "v")
GATED = ("gate", "up")


@dataclass(frozen=True, slots=True)
class Fused:
    """A fused module.

    Attributes:
        order: Row order, see :mod:`adaptrix.convert.layouts.row_orders`.
        parts: Its parts.
        apart: Tail of each part when it is written apart.
    """

    order: str
    parts: tuple[str, ...]
    apart: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """Names of one family's modules.

    Attributes:
        kin: Name of the network; forms of one kin can be exchanged.
        blocks: Templates that a block's modules begin with, today's class first.
        fused: Fused modules by tail.
        parts: Tail of every part that is a module of its own.
        outer: Template by part outside of the blocks.
        aliases: Part by other tails, for reading.
        marks: Beginnings of paths, one of which must be there for the names to be this form's.
    """

    kin: str = ""
    blocks: tuple[str, ...] = ("model.layers.{}.", "layers.{}.")
    fused: Mapping[str, Fused] = field(default_factory=dict)
    parts: Mapping[str, str] = field(default_factory=dict)
    outer: Mapping[str, str] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)
    marks: tuple[str, ...] = ("",)

    def named(self, part: str) -> str | None:
        """Tail under which ``part`` of a block stands apart in this form."""
        if part in self.parts:
            return self.parts[part]
        for fused in self.fused.values():
            if part in fused.parts:
                return fused.apart[fused.parts.index(part)]
        return None

    def holder(self, part: str) -> tuple[str, Fused] | None:
        """The fused module that ``part`` belongs to."""
        for tail, fused in self.fused.items():
            if part in fused.parts:
                return tail, fused
        return None

    def tails(self) -> Mapping[str, str]:
        """Part by tail, fused modules written apart."""
        found = {tail: part for part, tail in self.parts.items()} | dict(self.aliases)
        for fused in self.fused.values():
            found |= dict(zip(fused.apart, fused.parts, strict=True))
        return found

    def place(self, path: str) -> tuple[str, str] | None:
        """``(block, tail)`` of a path inside a block, the block with its number."""
        template, numbers = slots(path)
        for block in self.blocks:
            if template.startswith(block) and numbers:
                start = block.format(numbers[0])
                return start, path.removeprefix(start)
        return None


def _qkv(tail: str, order: str = "blocks") -> dict[str, Fused]:
    base = tail.rpartition(".")[0]
    return {tail: Fused(order, QKV, tuple(f"{base}.{p}_proj" for p in QKV))}


_GATE_UP = {"mlp.gate_up_proj": Fused("blocks", GATED, ("mlp.gate_proj", "mlp.up_proj"))}
_ATTENTION = {p: f"self_attn.{p}_proj" for p in "qkvo"}
_MLP = {p: f"mlp.{p}_proj" for p in ("gate", "up", "down")}
_OUTER = {"embed": "model.embed_tokens", "head": "lm_head"}
_LLAMA = Form(kin="llama", parts={**_ATTENTION, **_MLP}, outer=_OUTER)
_GLM = Form(kin="glm", fused=_GATE_UP, parts={**_ATTENTION, "down": "mlp.down_proj"}, outer=_OUTER)
_CLIP_MLP = {"out": "self_attn.out_proj", "fc": "mlp.fc1", "proj": "mlp.fc2"}
_SAM = {p: p for p in ("attn.qkv", "attn.proj", "mlp.lin1", "mlp.lin2")}
_H = ("transformer.h.{}.", "h.{}.")
_NEOX = ("gpt_neox.layers.{}.", "layers.{}.")
FORMS: Mapping[str, Form] = {
    **dict.fromkeys(("llama", "mistral", "qwen2"), _LLAMA),
    "phi3": Form(
        kin="llama", outer=_OUTER, fused={**_qkv("self_attn.qkv_proj"), **_GATE_UP},
        parts={"o": "self_attn.o_proj", "down": "mlp.down_proj"},
    ),
    "baichuan": Form(
        kin="llama", outer=_OUTER, fused=_qkv("self_attn.W_pack"),
        parts={"o": "self_attn.o_proj", **_MLP},
    ),
    "internlm2": Form(
        kin="llama", fused=_qkv("attention.wqkv", "groups"),
        parts={"o": "attention.wo", "gate": "feed_forward.w1", "up": "feed_forward.w3",
               "down": "feed_forward.w2"},
        outer={"embed": "model.tok_embeddings", "head": "output"},
    ),
    "qwen": Form(
        kin="llama", blocks=_H, fused=_qkv("attn.c_attn"),
        parts={"o": "attn.c_proj", "gate": "mlp.w2", "up": "mlp.w1", "down": "mlp.c_proj"},
        outer={"embed": "transformer.wte", "head": "lm_head"},
    ),
    "chatglm": Form(
        kin="glm", blocks=("transformer.encoder.layers.{}.", "encoder.layers.{}."),
        fused={**_qkv("self_attention.query_key_value"),
               "mlp.dense_h_to_4h": Fused("blocks", GATED, ("mlp.gate_proj", "mlp.up_proj"))},
        parts={"o": "self_attention.dense", "down": "mlp.dense_4h_to_h"},
        outer={"embed": "transformer.embedding.word_embeddings", "head": "transformer.output_layer"},
    ),
    "glm": _GLM, "glm4": _GLM,
    "phi3small": Form(
        fused={**_qkv("self_attn.query_key_value", "groups"),
               "mlp.up_proj": Fused("pairs", GATED, ("mlp.gate_proj", "mlp.linear_proj"))},
        parts={"o": "self_attn.dense", "down": "mlp.down_proj"},
    ),
    "gpt_neox": Form(blocks=_NEOX, fused=_qkv("attention.query_key_value", "heads")),
    "gpt_neox_japanese": Form(
        blocks=("gpt_neox_japanese.layers.{}.", "layers.{}."),
        fused=_qkv("attention.query_key_value", "heads"),
    ),
    "bloom": Form(blocks=_H, fused=_qkv("self_attention.query_key_value", "heads")),
    "falcon": Form(blocks=_H, fused=_qkv("self_attention.query_key_value", "groups")),
    "persimmon": Form(fused=_qkv("self_attn.query_key_value", "heads")),
    "codegen": Form(blocks=_H, fused=_qkv("attn.qkv_proj", "mp4")),
    "gpt2": Form(blocks=_H, fused=_qkv("attn.c_attn")),
    "gpt_bigcode": Form(blocks=_H, fused=_qkv("attn.c_attn", "groups")),
    "mpt": Form(blocks=("transformer.blocks.{}.", "blocks.{}."), fused=_qkv("attn.Wqkv")),
    "dbrx": Form(
        blocks=("transformer.blocks.{}.", "blocks.{}."),
        fused=_qkv("norm_attn_norm.attn.Wqkv"),
    ),
    "clip": Form(
        kin="clip", blocks=("vision_model.encoder.layers.{}.", "text_model.encoder.layers.{}."),
        parts={**{p: f"self_attn.{p}_proj" for p in QKV}, **_CLIP_MLP},
    ),
    "open-clip": Form(
        kin="clip",
        blocks=("visual.transformer.resblocks.{}.", "transformer.resblocks.{}.",
                "text.transformer.resblocks.{}."),
        fused={"attn": Fused("blocks", QKV, tuple(f"attn.{p}_proj" for p in QKV))},
        parts={"out": "attn.base_layer.out_proj", "fc": "mlp.c_fc", "proj": "mlp.c_proj"},
        aliases={"attn.out_proj": "out"},
        marks=("visual.", "text."),
    ),
    "sam": Form(kin="sam", blocks=("vision_encoder.layers.{}.",), parts=_SAM),
    "segment-anything": Form(kin="sam", blocks=("image_encoder.blocks.{}.",), parts=_SAM),
    "modernbert": Form(
        fused={**_qkv("attn.Wqkv"), "mlp.Wi": Fused("blocks", ("input", "gate"), ("mlp.input_proj", "mlp.gate_proj"))},
    ),
}  # fmt: skip
"""Form of each family's own class. Falcon, multi-query GPT-BigCode: one group of all heads
is ``q‖k‖v``, as many groups as heads is one ``[q k v]`` per head."""


def kin_of(family: str) -> str:
    """The network a family's form is one of, ``""`` without."""
    form = FORMS.get(family)
    return "" if form is None else form.kin


def relatives(family: str) -> tuple[str, ...]:
    """Families whose names an adapter of ``family`` can be given, itself left out."""
    kin = kin_of(family)
    return tuple(
        sorted(
            name for name, form in FORMS.items() if kin == form.kin != "" != name and name != family
        )
    )
