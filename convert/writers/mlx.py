"""Writes MLX-LM's ``adapters.safetensors`` and ``adapter_config.json``.

MLX-LM has one scale and one rank for all modules; what differs from that is refused, never
approximated.
"""

from __future__ import annotations

import json
from collections.abc import Container, Mapping
from dataclasses import replace
from functools import partial

from adaptrix.convert.arrays import transpose
from adaptrix.convert.layouts.mlx import mlx_name
from adaptrix.convert.safetensors_file import safetensors_bytes
from adaptrix.convert.writers.files import bytes_file, encoded_file
from adaptrix.convert.writers.stacked_experts import is_expert, stacks
from adaptrix.convert.written import Written
from adaptrix.schema import media_types
from adaptrix.schema.adapter import AdaptedModule, Adapter, ModuleKind
from adaptrix.schema.canonical import Json
from adaptrix.schema.errors import Refused
from adaptrix.schema.report import Fidelity
from adaptrix.schema.tensor import LazyTensor

LAYERS = {ModuleKind.LINEAR, ModuleKind.CONV1D}
"""Kinds that are linear layers in MLX, GPT-2's Conv1D among them: its weight is transposed."""


def write(adapter: Adapter) -> Written:
    """The adapter as MLX-LM's two files: factors transposed, one absolute scale.

    Raises:
        Refused: several scales or ranks, tensors that MLX-LM has no place for.
    """
    experts = stacks(adapter, "mlx")
    plain = tuple(module for module in adapter.modules if not is_expert(module))
    whole = replace(adapter, modules=(*plain, *(stack.logical for stack in experts)))
    kinds = LAYERS | {ModuleKind.EMBEDDING} | {stack.logical.kind for stack in experts}
    check_holds(whole, "mlx", "MLX-LM", kinds)
    paths = names_of(whole, "mlx")
    tensors: dict[str, LazyTensor] = {}
    for stack in experts:
        name = paths[stack.logical.path]
        tensors |= {f"{name}.lora_a": stack.a, f"{name}.lora_b": stack.b}
    keys: list[Json] = [*sorted({_key(path) for path in paths.values()})]
    return two_files(replace(adapter, modules=plain), paths, config_of(whole, keys), tensors)


def two_files(
    adapter: Adapter,
    paths: Mapping[str, str],
    config: Mapping[str, Json],
    stacked: Mapping[str, LazyTensor] | None = None,
) -> Written:
    """``adapters.safetensors`` under the names in ``paths``, and ``adapter_config.json``."""
    tensors = dict(stacked or {})
    for module in adapter.modules:
        tensors |= _tensors(module, paths[module.path])
    text = json.dumps(config, indent=4, sort_keys=True) + "\n"
    weights = encoded_file(
        "adapters.safetensors",
        partial(safetensors_bytes, tensors, {"format": "mlx"}),
        media_types.WEIGHT_RAW,
    )
    settings = bytes_file("adapter_config.json", text.encode(), media_types.WEIGHT_CONFIG_RAW)
    return Written(
        files=(weights, settings), fidelity=Fidelity.EXACT, max_abs_error=0.0, tensors=len(tensors)
    )


def check_holds(adapter: Adapter, target: str, tool: str, kinds: Container[ModuleKind]) -> None:
    """Refuse what MLX's layers cannot hold.

    Raises:
        Refused: several scales or ranks, other kinds of modules, biases, absolute tensors.
    """
    problem = _problem(adapter, tool, kinds)
    if problem:
        raise Refused(problem, where=target, code="unsupported_target")


def names_of(adapter: Adapter, target: str) -> dict[str, str]:
    """MLX-LM's name of every module.

    Raises:
        Refused: a module whose name there is not known.
    """
    found: dict[str, str] = {}
    for module in adapter.modules:
        name = mlx_name(adapter.family, module.path)
        if name is None:
            message = f"the name that MLX's class gives {module.path} is not known"
            raise Refused(message, where=target, code="unsupported_target")
        found[str(module.path)] = name
    return found


def _problem(adapter: Adapter, tool: str, kinds: Container[ModuleKind]) -> str:
    """What it cannot hold; empty when it can hold all."""
    if not adapter.modules:
        return "an adapter without modules cannot be written"
    if adapter.replacements:
        return f"{tool} has no place for {adapter.replacements[0].parameter}"
    first = adapter.modules[0]
    for module in adapter.modules:
        if module.kind not in kinds:
            return f"{tool} has no place for {module.path} ({module.kind})"
        if module.bias_delta is not None:
            return f"{tool} has no place for a bias of {module.path}"
        if module.scale.value != first.scale.value or module.rank != first.rank:
            return (
                f"{tool} has one scale and one rank, not those of {first.path} "
                f"({first.scale.value:g}, {first.rank}) and {module.path} "
                f"({module.scale.value:g}, {module.rank})"
            )
        if (module.magnitude is None) != (first.magnitude is None):
            return f"{tool} has DoRA on all modules or none, not as on {module.path}"
    return ""


def _tensors(module: AdaptedModule, path: str) -> dict[str, LazyTensor]:
    found = {f"{path}.lora_a": transpose(module.a), f"{path}.lora_b": transpose(module.b)}
    if module.magnitude is not None:
        found[f"{path}.m"] = module.magnitude
    return found


def _key(path: str) -> str:
    """The name inside a layer; outside the layers the whole path (``linear_to_lora_layers``)."""
    _, inside, rest = path.partition(".h." if ".h." in path else ".layers.")
    return rest.partition(".")[2] if inside else path


def config_of(adapter: Adapter, keys: list[Json]) -> dict[str, Json]:
    """MLX-LM's configuration, with the names of the adapted modules."""
    first = adapter.modules[0]
    dora = first.magnitude is not None
    return {
        "fine_tune_type": "dora" if dora else "lora",
        # MLX-LM counts from the last layer, and how many there are is not known here: all of
        # them. A layer that the file has nothing for keeps lora_b = 0.
        "num_layers": -1,
        "lora_parameters": {
            "rank": first.rank,
            "scale": first.scale.value,
            "dropout": 0.0,
            "keys": keys,
        },
        "model": adapter.base_name,
    }
