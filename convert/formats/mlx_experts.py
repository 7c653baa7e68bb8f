"""MLX-LM's layers of experts: one pair of factors per expert, under the expert's own name.

MLX-LM stacks ``experts.N.gate_proj`` to ``switch_mlp.gate_proj`` (Qwen, DeepSeek, OLMoE …)
and Mixtral's ``experts.N.w1``, ``w2``, ``w3`` to ``gate_proj``, ``down_proj``, ``up_proj``.
Source: mlx_lm, ``tuner/lora.py`` (``LoRASwitchLinear``) and ``sanitize`` of the models.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from adaptrix.convert.arrays import reshape, row_blocks
from adaptrix.convert.draft import Factors
from adaptrix.schema.tensor import LazyTensor

_STACK = re.compile(r"(?P<block>.+)\.switch_(?:mlp|glu)\.(?P<part>\w+)")
_MIXTRAL = {"gate_proj": "w1", "down_proj": "w2", "up_proj": "w3"}
MAX_EXPERTS = 1024


def expert_pairs(
    path: str, leaves: Mapping[str, str], tensors: Mapping[str, LazyTensor]
) -> list[Factors]:
    """Pairs of the experts at ``path``; empty when it is no layer of experts."""
    a, b = tensors[leaves["lora_a"]], tensors[leaves["lora_b"]]
    match = _STACK.fullmatch(path)
    if match is None or len(b.shape) != 3 or not 0 < b.shape[0] <= MAX_EXPERTS:
        return []
    experts, out, rank = b.shape
    if len(a.shape) == 3:
        a = reshape(a, (a.shape[0] * a.shape[1], a.shape[2]))
    if len(a.shape) != 2 or a.shape[0] != experts * rank or "m" in leaves:
        return []
    downs = row_blocks(a, experts)  # (r, in) each
    ups = row_blocks(reshape(b, (experts * out, rank)), experts)
    source = leaves["lora_a"].removesuffix(".lora_a")
    return [
        Factors(path=_name(match, number), source=f"{source}[{number}]", a=down, b=up)
        for number, (down, up) in enumerate(zip(downs, ups, strict=True))
    ]


def _name(match: re.Match[str], number: int) -> str:
    block, part = match["block"], match["part"]
    if block.endswith("block_sparse_moe"):
        part = _MIXTRAL.get(part, part)
    return f"{block}.experts.{number}.{part}"
