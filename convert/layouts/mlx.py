"""Names of modules in MLX-LM's classes, where they are known to be those of transformers or not.

MLX-LM before 0.32, and mlx-vlm, load what they have a place for and say nothing of the rest,
so a name that is not known here is refused. Checked against the classes of MLX-LM 0.32 by
``tests/engines/test_mlx_lm.py``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_SAME = re.compile(r"lm_head|model\.embed_tokens|model\.layers\.\d+\.(?!.*\bexperts\.).+")
"""Paths that are the same in both, experts excepted: MLX-LM stacks them."""
_OWN: Mapping[str, str] = {
    "gpt_bigcode": r"transformer\.h\.\d+\..+", "qwen": r"lm_head|transformer\.h\.\d+\..+",
    "mamba": r"backbone\.layers\.\d+\..+", "mamba2": r"backbone\.layers\.\d+\..+",
}  # fmt: skip
"""Families whose paths are the same, and begin otherwise."""
_BLOCKS: Mapping[str, tuple[str, str]] = {
    "gpt_neox": ("gpt_neox.layers.", r"attention\.(?:query_key_value|dense)|mlp\.dense_\w+"),
    "gpt2": ("transformer.h.", r"attn\.c_(?:attn|proj)|mlp\.c_(?:fc|proj)"),
}
"""What a block begins with in transformers, and its modules; in MLX-LM it is ``model.h.``."""
_MLX_BLOCK = "model.h."


_SWITCHED: Mapping[str, str] = {
    "qwen2_moe": "mlp", "qwen3_moe": "mlp", "olmoe": "mlp", "mixtral": "block_sparse_moe",
}  # fmt: skip
"""What holds the experts in MLX-LM, as ``switch_mlp``; in transformers it is ``mlp``."""
_EXPERTS = re.compile(r"(model\.layers\.\d+)\.mlp\.(experts\.)?(\w+)")


def _of_experts(family: str, path: str) -> str | None:
    match = _EXPERTS.fullmatch(path) if family in _SWITCHED else None
    if match is None:
        return None
    return f"{match[1]}.{_SWITCHED[family]}.{'switch_mlp.' if match[2] else ''}{match[3]}"


def mlx_name(family: str, path: str) -> str | None:
    """MLX-LM's name of a module; None when it is not known."""
    if family in _BLOCKS:
        block, tail = _BLOCKS[family]
        match = re.fullmatch(rf"{re.escape(block)}(\d+\.(?:{tail}))", path)
        return f"{_MLX_BLOCK}{match[1]}" if match else None
    if (inside := _of_experts(family, path)) is not None:
        return inside
    known = re.fullmatch(_OWN[family], path) if family in _OWN else _SAME.fullmatch(path)
    return path if known else None


def transformers_name(path: str) -> str:
    """Inverse of :func:`mlx_name`: the tail tells which class it is of."""
    for block, tail in _BLOCKS.values():
        match = re.fullmatch(rf"{re.escape(_MLX_BLOCK)}(\d+\.(?:{tail}))", path)
        if match:
            return f"{block}{match[1]}"
    return path
