"""Writes what loralib's ``lora_state_dict`` saves, and alpha beside it.

loralib has no file for its settings: alpha, the rank and the enabled parts of merged layers
are written to a small JSON file, for this tool and for the reader's ``lora.Linear(...)``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

from adaptrix.convert.arrays import bits, content
from adaptrix.convert.formats.peft_replacements import HEADS
from adaptrix.convert.numeric import np
from adaptrix.convert.writers.files import bytes_file
from adaptrix.convert.writers.scales import alpha_for, number
from adaptrix.convert.writers.torch_file import torch_file
from adaptrix.convert.written import Written
from adaptrix.schema import media_types
from adaptrix.schema.adapter import AdaptedModule, Adapter, ModuleKind, ReplacementRole
from adaptrix.schema.canonical import Json
from adaptrix.schema.errors import Refused
from adaptrix.schema.report import Fidelity
from adaptrix.schema.tensor import LazyTensor

_PARTS = 3
FUSED_NAMES = ("c_attn", "qkv", "qkv_proj", "query_key_value", "Wqkv")
"""Last names of layers that hold q, k and v."""


def write(adapter: Adapter) -> Written:
    """The adapter as ``lora.bin`` and ``adapter_config.json``.

    Raises:
        Refused: several alphas, DoRA, convolutions, tensors that loralib has no name for.
    """
    if not adapter.modules:
        raise Refused("an adapter without modules cannot be written", where="loralib")
    tensors: dict[str, LazyTensor] = {}
    flags: set[tuple[bool, ...]] = set()
    alphas: dict[float, str] = {}
    for module in adapter.modules:
        _check(module)
        enabled = _merged(module)
        b = _compact(module, enabled) if enabled else module.b
        flags |= {enabled} if enabled else set()
        alphas.setdefault(alpha_for(module, float(b.shape[1])), str(module.path))
        tensors[f"{module.path}.lora_A"] = module.a
        tensors[f"{module.path}.lora_B"] = b
    for entry in adapter.replacements:
        head = HEADS & set(entry.parameter.split("."))
        # Its own reader takes biases and classifiers; nothing would say what else this is.
        if entry.role is not ReplacementRole.BIAS and not head:
            raise _refused(f"loralib saves no {entry.parameter}")
        tensors[entry.parameter] = entry.tensor
    if len(alphas) > 1 or len(flags) > 1:
        places = ", ".join(f"{alpha:g} of {path}" for alpha, path in list(alphas.items())[:4])
        parts = f" and {len(flags)} choices of merged parts" * (len(flags) > 1)
        raise _refused(f"loralib's layers are written with one alpha, not {places}{parts}")
    config: dict[str, Json] = {
        "lora_alpha": number(next(iter(alphas))),
        "r": min(m.scale.rank for m in adapter.modules),
        "base_model_name_or_path": adapter.base_name,
        "task_type": adapter.task_type,
    }
    if flags:
        config["enable_lora"] = list(flags.pop())
    text = json.dumps(config, indent=2, sort_keys=True) + "\n"
    settings = bytes_file("adapter_config.json", text.encode(), media_types.WEIGHT_CONFIG_RAW)
    return Written(
        files=(torch_file("lora.bin", tensors), settings),
        fidelity=Fidelity.EXACT,
        max_abs_error=0.0,
        tensors=len(tensors),
    )


def _check(module: AdaptedModule) -> None:
    if module.kind in (ModuleKind.CONV, ModuleKind.PARAMETER):
        raise _refused(f"loralib factorises a {module.kind} otherwise: {module.path}")
    if module.magnitude is not None or module.bias_delta is not None:
        raise _refused(f"loralib has no magnitude and no bias of {module.path}")
    if alpha_for(module, float(module.scale.rank)) / module.scale.rank != module.scale.value:
        raise _refused(f"no alpha gives the scale {module.scale.value} of {module.path} exactly")
    if module.kind is ModuleKind.EMBEDDING and module.path.rpartition(".")[2] not in (
        "embed_tokens", "wte", "word_embeddings", "shared",
    ):  # fmt: skip
        raise _refused(f"the file would not say that {module.path} is an embedding")


def _merged(module: AdaptedModule) -> tuple[bool, ...]:
    """Enabled parts when ``B`` is block-diagonal in blocks of the scale's rank, else empty."""
    rank = module.scale.rank
    if module.rank == rank:
        return _only_part(module)
    count, rest = divmod(module.rank, rank)
    height, odd = divmod(module.out_features, _PARTS)
    places = [] if rest or odd else _places(module, count, height)
    if len(places) != count or len(set(places)) != count or sorted(places) != places:
        raise _refused(f"{module.path} has rank {module.rank} and a scale of rank {rank}")
    return tuple(part in places for part in range(_PARTS))


def _only_part(module: AdaptedModule) -> tuple[bool, ...]:
    """A fused layer of which one third of the rows is adapted was a merged layer."""
    height, odd = divmod(module.out_features, _PARTS)
    if odd or not module.path.endswith(FUSED_NAMES):
        return ()
    rows = bits(module.b).reshape(_PARTS, height * module.rank)
    used = tuple(bool(flag) for flag in np.any(rows != 0, axis=1))
    return used if sum(used) == 1 else ()


def _places(module: AdaptedModule, count: int, height: int) -> list[int]:
    """Row block of each column block, as far as it has exactly one."""
    rank = module.scale.rank
    wide = bits(module.b).reshape(_PARTS, height, count, rank)
    used = np.any(wide != 0, axis=(1, 3))  # (parts, column blocks)
    return [int(np.argmax(used[:, c])) for c in range(count) if used[:, c].sum() == 1]


def _compact(module: AdaptedModule, enabled: Sequence[bool]) -> LazyTensor:
    rank, height = module.scale.rank, module.out_features // _PARTS
    blocks = [part for part, flag in enumerate(enabled) if flag]

    def load() -> memoryview:
        wide = bits(module.b)
        return content(
            np.concatenate(
                [
                    wide[part * height : (part + 1) * height, i * rank : (i + 1) * rank]
                    for i, part in enumerate(blocks)
                ]
            )
        )

    return replace(module.b, shape=(len(blocks) * height, rank), load=load)


def _refused(message: str) -> Refused:
    return Refused(message, where="loralib", code="unsupported_target")
