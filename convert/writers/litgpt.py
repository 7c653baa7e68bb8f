"""Writes LitGPT's ``lit_model.pth.lora`` and ``hyperparameters.yaml``.

LitGPT has one rank, one alpha and one switch per part (query, key, value, projection, MLP,
head) for the whole model; what differs from that is refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from adaptrix.convert.arrays import concat_rows
from adaptrix.convert.layouts.decoder import DECODERS, part_of
from adaptrix.convert.writers.families import other_family
from adaptrix.convert.writers.files import bytes_file
from adaptrix.convert.writers.scales import alpha_for, number
from adaptrix.convert.writers.torch_file import torch_file
from adaptrix.convert.written import Written
from adaptrix.schema import media_types
from adaptrix.schema.adapter import AdaptedModule, Adapter
from adaptrix.schema.errors import Refused
from adaptrix.schema.report import Fidelity
from adaptrix.schema.tensor import LazyTensor

_NAMES = {
    "o": "attn.proj", "gate": "mlp.fc_1", "up": "mlp.fc_2", "down": "mlp.proj", "fc": "mlp.fc",
}  # fmt: skip
_SWITCHES = {
    "lora_query": ("q",), "lora_key": ("k",), "lora_value": ("v",), "lora_projection": ("o",),
    "lora_mlp": ("gate", "up", "down", "fc"), "lora_head": ("head",),
}  # fmt: skip
Parts = dict[int | None, dict[str, AdaptedModule]]


def write(adapter: Adapter) -> Written:
    """The adapter as LitGPT's two files.

    Raises:
        Refused: a family, module, rank or scale that LitGPT's settings cannot say.
    """
    layers = _layers(adapter)
    rank, alpha = _one_scale(adapter.modules)
    switches = _switches(layers)
    tensors: dict[str, LazyTensor] = {}
    for layer, parts in layers.items():
        tensors |= _tensors(layer, parts)
    lines = {"lora_r": rank, "lora_alpha": number(alpha), "lora_dropout": 0.0, **switches}
    text = "".join(f"{name}: {str(value).lower()}\n" for name, value in lines.items())
    if adapter.base_name:
        text += f"checkpoint_dir: checkpoints/{adapter.base_name}\n"
    settings = bytes_file("hyperparameters.yaml", text.encode(), media_types.WEIGHT_CONFIG_RAW)
    return Written(
        files=(torch_file("lit_model.pth.lora", tensors, "model"), settings),
        fidelity=Fidelity.EXACT,
        max_abs_error=0.0,
        tensors=len(tensors),
    )


def _layers(adapter: Adapter) -> Parts:
    if not adapter.modules or adapter.family not in DECODERS:
        raise other_family("litgpt", adapter)
    if adapter.replacements:
        raise _refused(f"LitGPT has no place for {adapter.replacements[0].parameter}")
    layers: Parts = {}
    for module in adapter.modules:
        found = part_of(adapter.family, module.path)
        if found is None or found[0] == "embed":
            raise _refused(f"LitGPT adapts no {module.path}")
        if module.magnitude is not None or module.bias_delta is not None:
            raise _refused(f"LitGPT has no magnitude and no bias of {module.path}")
        layers.setdefault(found[1], {})[found[0]] = module
    return layers


def _one_scale(modules: Sequence[AdaptedModule]) -> tuple[int, float]:
    first = modules[0]
    alpha = alpha_for(first, float(first.rank))
    for module in modules:
        if module.rank != first.rank or module.scale.value != alpha / first.rank:
            raise _refused(f"LitGPT has one rank and one alpha; {module.path} has its own")
    return first.rank, alpha


def _switches(layers: Parts) -> dict[str, bool]:
    """Every layer has the same parts: LitGPT switches a part on in all of them."""
    blocks = [set(parts) for layer, parts in layers.items() if layer is not None]
    first = blocks[0] if blocks else set()
    for layer, parts in layers.items():
        if layer is not None and set(parts) != first:
            path = next(iter(parts.values())).path
            raise _refused(f"LitGPT adapts the same parts in all layers, not as at {path}")
    having = first | set(layers.get(None, {}))
    mlp = {"gate", "up", "down", "fc"} & having
    if mlp and mlp not in ({"gate", "up", "down"}, {"fc", "down"}):
        path = next(parts[name] for parts in layers.values() for name in mlp if name in parts).path
        raise _refused(f"LitGPT adapts the whole MLP or none of it, not only {path} and its like")
    return {name: bool(having & set(parts)) for name, parts in _SWITCHES.items()}


def _tensors(layer: int | None, parts: Mapping[str, AdaptedModule]) -> dict[str, LazyTensor]:
    found: dict[str, LazyTensor] = {}
    qkv = [parts[part] for part in ("q", "k", "v") if part in parts]
    if qkv:
        if len({(t.dtype, t.shape[1]) for m in qkv for t in (m.a, m.b)}) > 2:
            raise _refused(f"{qkv[0].path}: element types differ between q, k and v")
        found[f"transformer.h.{layer}.attn.qkv.lora_A"] = concat_rows([m.a for m in qkv])
        found[f"transformer.h.{layer}.attn.qkv.lora_B"] = concat_rows([m.b for m in qkv])
    for part, module in parts.items():
        if part not in ("q", "k", "v"):
            name = "lm_head" if layer is None else f"transformer.h.{layer}.{_NAMES[part]}"
            found[f"{name}.lora_A"], found[f"{name}.lora_B"] = module.a, module.b
    return found


def _refused(message: str) -> Refused:
    return Refused(message, where="litgpt", code="unsupported_target")
