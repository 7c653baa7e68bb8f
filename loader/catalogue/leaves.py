"""A configuration as numbers under dotted names, and the same configuration with some changed."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping
from typing import Any

from transformers import PretrainedConfig

Number = int | float
_NO_SIZE = re.compile(
    r"token|(^|[._])ids?$|_id(x|s)?$|seed|beam|stride|window|iters|dropout|loss|cost|top_?k|per_tok"
    r"|interval|freq|theta|eps$|bos|eos|pad_|_std|initializer|version|temperature|penalty|scale_factor"
    r"|length_penalty|min_length|id2label|label2id|problem|quant.*config|_drop|probability|_prob"
)  # fmt: skip
_RATIO = re.compile(r"ratio|expan|mult|factor")
_MAY_BE_SET = re.compile(r"inner|intermediate|ffn|head_dim|key_value|kv|size|dim|rank|width")
_NO_SWITCH = re.compile(
    r"cache|output_|return_|tie_|tied|remove_|scale|norm|is_(encoder_)?decoder|bias"
)
_OTHER_VALUES: Mapping[str, Any] = {"feed_forward_proj": "gated-gelu", "q_lora_rank": None}
"""T5 1.1 and Flan have a gate; DeepSeek's small models no low-rank query."""
PUBLISHED: Mapping[str, tuple[str, ...]] = {"qwen3_moe": ("head_dim",)}
"""Sizes that published configurations have, the code reads, and the class does not declare."""
LAYERS = re.compile(r"layers?$|(^|[._])depth$|blocks$")


def leaves(tree: Any, prefix: str = "") -> Iterator[tuple[str, Number]]:
    """Numbers in a configuration that may decide a size, by dotted name."""
    branches = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, value in branches:
        name = f"{prefix}{key}"
        if isinstance(value, bool) or _NO_SIZE.search(str(name)):
            continue
        if isinstance(value, dict) or (isinstance(value, list | tuple) and len(value) <= 16):
            yield from leaves(value, f"{name}.")
        elif (isinstance(value, int) and value > 0) or (
            isinstance(value, float) and value > 0 and _RATIO.search(name)
        ):
            yield name, value


def unset(tree: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Names of sizes that the default leaves empty."""
    for key, value in tree.items():
        if value is None and _MAY_BE_SET.search(str(key)) and not _NO_SIZE.search(str(key)):
            yield f"{prefix}{key}"
        elif isinstance(value, dict):
            yield from unset(value, f"{prefix}{key}.")


def switches(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Settings that are no numbers and may decide which modules there are, with another value."""
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, bool):
            if not _NO_SWITCH.search(name):
                yield name, not value
        elif isinstance(value, dict):
            yield from switches(value, f"{name}.")
        elif key in _OTHER_VALUES and value != _OTHER_VALUES[key]:
            yield name, _OTHER_VALUES[key]


def changed(config: PretrainedConfig, values: Mapping[str, Any]) -> PretrainedConfig:
    """The same configuration with other numbers; lists as long as a changed count are derived anew."""
    tree = copy.deepcopy(config.to_dict())
    for name, value in values.items():
        *parents, last = name.split(".")
        node: Any = tree
        for part in parents:
            node = node[int(part)] if isinstance(node, list | tuple) else node[part]
            if isinstance(node, tuple):
                raise TypeError(name)
        if isinstance(node, list):
            node[int(last)] = value
            continue
        if LAYERS.search(name) and isinstance(node.get(last), int):
            _drop_lists(node, node[last])
        node[last] = value
    made: PretrainedConfig = type(config).from_dict(tree)
    return made


def _drop_lists(node: dict[str, Any], length: int) -> None:
    for key in [k for k, v in node.items() if isinstance(v, list | tuple) and len(v) == length > 1]:
        del node[key]
