"""PEFT's keys taken apart: wrapper prefixes off, leaf and adapter name found.

Grammar and wrappers as PEFT's ``get_peft_model_state_dict`` and the training frameworks
write them: DDP's ``module.``, ``torch.compile``'s ``_orig_mod.`` (also mid-path), FSDP's
``_fsdp_wrapped_module.``, the dicts that trainers save (``state_dict.``, ``app.model.``),
doubled ``base_model.model.``, and in-memory adapter names (``lora_A.default.weight``).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

_WRAPPERS = re.compile(
    r"(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|_forward_module)(?:\.|$)"
)
_CONTAINERS = re.compile(
    r"(?!base_model\.)((?:(?:state_dict|module|model|app|llm|pretrained_model)\.)+(?=base_model\.)"
    r"|(?:\w+\.)+?(?=base_model\.model\.))"
)
"""What stands before a PEFT model's own root: the dict or the model that a trainer keeps it in."""
_OF_ALL = {"state_dict", "module", "model", "app"}
_FACTOR = re.compile(
    r"(?:(?P<path>.*)\.)?(?P<leaf>lora_A|lora_B|lora_embedding_A|lora_embedding_B"
    r"|lora_magnitude_vector|lora_diag)(?:\.(?P<rest>[^.]+(?:\.(?:weight|bias))?))?"
)
_TOKENS = re.compile(
    r"(?P<path>.*?)\.(?:token_adapter\.)?trainable_tokens_delta(?:\.(?P<name>[^.]+))?"
)
FACTOR_LEAVES = frozenset({
    "lora_A.weight", "lora_B.weight", "lora_B.bias", "lora_embedding_A", "lora_embedding_B",
    "lora_magnitude_vector", "lora_diag",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Key:
    """One key: ``path`` of the module, ``leaf`` of the adapter or parameter.

    ``leaf`` is one of :data:`FACTOR_LEAVES`, ``trainable_tokens_delta``,
    ``base_layer.weight``/``.bias``, ``modules_to_save``, ``original_module``,
    ``parameter`` (any other ``.weight``/``.bias``), or ``""`` for what is none of these;
    for ``modules_to_save``, ``original_module`` and ``parameter`` the path ends with the
    parameter's name.
    """

    path: str
    leaf: str
    adapter: str = ""


def container_of(key: str) -> str:
    """The model that holds a PEFT model in ``key``, ``""`` without; ``llm`` of ``model.llm.``."""
    match = _CONTAINERS.match(_WRAPPERS.sub("", key))
    names = match[1].split(".") if match else []
    return ".".join(name for name in names if name and name not in _OF_ALL)


def strip_wrappers(key: str) -> str:
    """``key`` without wrapper prefixes; a second call changes nothing."""
    key = _WRAPPERS.sub("", key)
    if match := _CONTAINERS.match(key):
        key = key[match.end() :]
    while True:
        for prefix in ("module.", "state_dict.", "base_model.model.", "base_model."):
            if key.startswith(prefix):
                key = key[len(prefix) :]
                break
        else:
            # A PEFT model inside of another model, or of another PEFT model.
            return key.replace(".base_model.model.", ".")


@lru_cache(maxsize=16_384)
def parse_key(key: str) -> Key:
    """Take one key of a PEFT file apart."""
    bare = strip_wrappers(key)
    if match := _FACTOR.fullmatch(bare):
        return _factor(match["path"] or "", match["leaf"], match["rest"] or "")
    if match := _TOKENS.fullmatch(bare):
        return Key(match["path"], "trainable_tokens_delta", match["name"] or "")
    for mark in ("modules_to_save", "original_module"):
        head, found, tail = bare.partition(f".{mark}.")
        if found:
            name, _, rest = tail.partition(".")
            named = rest and name == "default"
            return Key(f"{head}.{rest if named else tail}", mark, name if named else "")
    path, _, parameter = bare.rpartition(".")
    if parameter not in {"weight", "bias"} or ".parametrizations." in bare:
        return Key(bare, "")
    if path.endswith(".base_layer"):
        return Key(path.removesuffix(".base_layer"), f"base_layer.{parameter}")
    return Key(bare, "parameter")


def _factor(path: str, leaf: str, rest: str) -> Key:
    name, _, parameter = rest.rpartition(".")
    if parameter not in {"weight", "bias"}:
        name, parameter = rest, ""
    if leaf in {"lora_A", "lora_B"}:
        return Key(path, f"{leaf}.{parameter}" if parameter else leaf, name)
    # The magnitude was a parameter before PEFT 0.12 and a module afterwards.
    return Key(path, leaf if parameter != "bias" else "", name)
