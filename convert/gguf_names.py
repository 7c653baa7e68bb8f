"""llama.cpp's tensor names, per architecture, and the module each stands for.

From gguf-py's ``constants.py`` and ``tensor_mapping.py``; who permutes q and k, and which
classes share an architecture, from ``convert_hf_to_gguf.py``. The map is many-to-one there;
here each architecture has the one inverse that fits its transformers class.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

FUSED_QKV = "self_attn.Wqkv"
"""Phi's fused attention input, rows q‖k‖v, which the current class has no module for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufArchitecture:
    """Names of one architecture.

    Attributes:
        family: transformers' ``model_type``.
        others: Further types that llama.cpp loads as this one.
        blocks: Tail in ``model.layers.N`` by name in ``blk.N``.
        permuted: Whether rows of q and k are stored in pairs (rotary layout of llama.cpp).
    """

    family: str
    blocks: Mapping[str, str]
    permuted: bool = False
    others: tuple[str, ...] = ()

    @property
    def names(self) -> Mapping[str, str]:
        """Name in ``blk.N`` by tail in ``model.layers.N``."""
        return {tail: name for name, tail in self.blocks.items()}


_SPLIT = {
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
}  # fmt: skip
_GATED = {
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}  # fmt: skip
_LLAMA = {**_SPLIT, "attn_output": "self_attn.o_proj", **_GATED}
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
ARCHITECTURES: Mapping[str, GgufArchitecture] = {
    "phi2": GgufArchitecture(family="phi", blocks=_PHI2),
    "phi3": GgufArchitecture(family="phi3", blocks=_PHI3),
    "llama": GgufArchitecture(family="llama", blocks=_LLAMA, permuted=True, others=("mistral",)),
    "qwen2": GgufArchitecture(family="qwen2", blocks=_LLAMA),
    "qwen3": GgufArchitecture(family="qwen3", blocks=_LLAMA),
    "gemma": GgufArchitecture(family="gemma", blocks=_LLAMA),
    "gemma2": GgufArchitecture(family="gemma2", blocks=_LLAMA),
    "gemma3": GgufArchitecture(family="gemma3_text", blocks=_LLAMA),
    "stablelm": GgufArchitecture(family="stablelm", blocks=_LLAMA),
    "starcoder2": GgufArchitecture(family="starcoder2", blocks=_STARCODER2),
}
OUTER: Mapping[str, str] = {"token_embd": "model.embed_tokens", "output": "lm_head"}


def architecture_of(family: str) -> tuple[str, GgufArchitecture] | None:
    """Name and names of the architecture that llama.cpp loads a family as."""
    for name, architecture in ARCHITECTURES.items():
        if family in (architecture.family, *architecture.others):
            return name, architecture
    return None
