"""llama.cpp's tensor names, per architecture, and the module each stands for.

From gguf-py's ``constants.py`` and ``tensor_mapping.py``; who permutes q and k, and which
classes share an architecture, from ``convert_hf_to_gguf.py``. The map is many-to-one there;
here each architecture has the one inverse that fits its transformers class. Rows of a fused
q, k, v are brought to ``q‖k‖v`` by the converters of BLOOM, GPT-NeoX and Falcon.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

FUSED_QKV = "self_attn.Wqkv"
"""Phi's fused attention input, rows q‖k‖v, which the current class has no module for."""


_TIED = {"token_embd": "model.embed_tokens"}
_OUTER = {**_TIED, "output": "lm_head"}


@dataclass(frozen=True, kw_only=True)
class GgufArchitecture:
    """Names of one architecture.

    Attributes:
        family: transformers' ``model_type``.
        others: Further types that llama.cpp loads as this one.
        with_experts: The one of them that has experts.
        block: What the path of a block begins with.
        blocks: Tail in a block by name in ``blk.N``.
        outer: Path by name outside of the blocks.
        permuted: Whether rows of q and k are stored in pairs (rotary layout of llama.cpp).
        order: Row order of the class's fused q, k, v, which llama.cpp stores as ``q‖k‖v``.
    """

    family: str
    blocks: Mapping[str, str]
    block: str = "model.layers."
    outer: Mapping[str, str] = field(default_factory=lambda: _OUTER)
    permuted: bool = False
    order: str = "blocks"
    others: tuple[str, ...] = ()
    with_experts: str = ""

    @cached_property
    def _place(self) -> re.Pattern[str]:
        return re.compile(re.escape(self.block) + r"(\d{1,4})\.(.+)")

    def name_of(self, path: str) -> str | None:
        """llama.cpp's name of module ``path``, without ``.weight``."""
        for name, outer in self.outer.items():
            if path == outer:
                return name
        match = self._place.fullmatch(path)
        for name, tail in self.blocks.items():
            if match and match[2] == tail:
                return f"blk.{int(match[1])}.{name}"
        return None

    def path_of(self, name: str) -> str | None:
        """Inverse of :meth:`name_of`."""
        match = re.fullmatch(r"blk\.(\d{1,4})\.(\w+)", name)
        if match is None:
            return self.outer.get(name)
        tail = self.blocks.get(match[2])
        return None if tail is None else f"{self.block}{int(match[1])}.{tail}"


_SPLIT = {
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
}  # fmt: skip
_GATED = {
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}  # fmt: skip
_ATTENTION = {**_SPLIT, "attn_output": "self_attn.o_proj"}
_LLAMA = {**_ATTENTION, **_GATED}
_PHI2 = {
    **_SPLIT, "attn_qkv": FUSED_QKV, "attn_output": "self_attn.dense",
    "ffn_up": "mlp.fc1", "ffn_down": "mlp.fc2",
}  # fmt: skip
_PHI3 = {
    "attn_qkv": "self_attn.qkv_proj", "attn_output": "self_attn.o_proj",
    "ffn_up": "mlp.gate_up_proj", "ffn_down": "mlp.down_proj",
}  # fmt: skip
_STARCODER2 = {
    **_SPLIT, "attn_output": "self_attn.o_proj", "ffn_up": "mlp.c_fc", "ffn_down": "mlp.c_proj",
}  # fmt: skip
_EXPERTS = {
    "ffn_gate_inp": "mlp.gate", "ffn_gate_exps": "mlp.experts.gate_proj",
    "ffn_up_exps": "mlp.experts.up_proj", "ffn_down_exps": "mlp.experts.down_proj",
}  # fmt: skip
"""Experts are stacked, ``gate`` and ``up`` apart: no modules of the class by themselves."""
_SHARED = {
    "ffn_gate_shexp": "mlp.shared_expert.gate_proj", "ffn_up_shexp": "mlp.shared_expert.up_proj",
    "ffn_down_shexp": "mlp.shared_expert.down_proj",
}  # fmt: skip
_MOE = {**_ATTENTION, **_EXPERTS}
_DENSE = {"ffn_up": "mlp.dense_h_to_4h", "ffn_down": "mlp.dense_4h_to_h"}
_BLOOM = {
    "attn_qkv": "self_attention.query_key_value", "attn_output": "self_attention.dense", **_DENSE,
}  # fmt: skip
_NEOX = {"attn_qkv": "attention.query_key_value", "attn_output": "attention.dense", **_DENSE}
_GPT2 = {
    "attn_qkv": "attn.c_attn", "attn_output": "attn.c_proj",
    "ffn_up": "mlp.c_fc", "ffn_down": "mlp.c_proj",
}  # fmt: skip
_WORDS = {"token_embd": "transformer.word_embeddings", "output": "lm_head"}
ARCHITECTURES: Mapping[str, GgufArchitecture] = {
    "phi2": GgufArchitecture(family="phi", blocks=_PHI2),
    "phi3": GgufArchitecture(family="phi3", blocks=_PHI3),
    "llama": GgufArchitecture(
        family="llama", blocks={**_LLAMA, **_EXPERTS}, permuted=True,
        others=("mistral", "mixtral"), with_experts="mixtral",
    ),
    "qwen2": GgufArchitecture(family="qwen2", blocks=_LLAMA),
    "qwen3": GgufArchitecture(family="qwen3", blocks=_LLAMA),
    # The head of Gemma and Gemma 2 is the embedding, and has no name of its own.
    "gemma": GgufArchitecture(family="gemma", blocks=_LLAMA, outer=_TIED),
    "gemma2": GgufArchitecture(family="gemma2", blocks=_LLAMA, outer=_TIED),
    "gemma3": GgufArchitecture(family="gemma3_text", blocks=_LLAMA),
    "stablelm": GgufArchitecture(family="stablelm", blocks=_LLAMA),
    "starcoder2": GgufArchitecture(family="starcoder2", blocks=_STARCODER2),
    "olmo2": GgufArchitecture(family="olmo2", blocks=_LLAMA),
    "qwen2moe": GgufArchitecture(family="qwen2_moe", blocks={**_MOE, **_SHARED}),
    "qwen3moe": GgufArchitecture(family="qwen3_moe", blocks=_MOE),
    "olmoe": GgufArchitecture(family="olmoe", blocks=_MOE),
    "gpt2": GgufArchitecture(
        family="gpt2", block="transformer.h.", blocks=_GPT2,
        outer={"token_embd": "transformer.wte", "output": "lm_head"},
    ),
    "bloom": GgufArchitecture(
        family="bloom", block="transformer.h.", blocks=_BLOOM, outer=_WORDS, order="heads",
    ),
    "falcon": GgufArchitecture(
        family="falcon", block="transformer.h.", blocks=_BLOOM, outer=_WORDS, order="groups",
    ),
    "gptneox": GgufArchitecture(
        family="gpt_neox", block="gpt_neox.layers.", blocks=_NEOX, order="heads",
        outer={"token_embd": "gpt_neox.embed_in", "output": "lm_head"},
    ),
}  # fmt: skip


def architecture_of(family: str) -> tuple[str, GgufArchitecture] | None:
    """Name and names of the architecture that llama.cpp loads a family as."""
    for name, architecture in ARCHITECTURES.items():
        if family in (architecture.family, *architecture.others):
            return name, architecture
    return None
