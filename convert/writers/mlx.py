"""Writes MLX-LM's ``adapters.safetensors`` and ``adapter_config.json``.

MLX-LM has one scale and one rank for all modules; what differs from that is refused, never
approximated.
"""

from __future__ import annotations

import json
from functools import partial

from adaptrix.convert.arrays import transpose
from adaptrix.convert.safetensors_file import safetensors_bytes
from adaptrix.convert.writers.files import bytes_file, encoded_file
from adaptrix.convert.written import Written
from adaptrix.schema import media_types
from adaptrix.schema.adapter import AdaptedModule, Adapter, ModuleKind
from adaptrix.schema.canonical import Json
from adaptrix.schema.errors import Refused
from adaptrix.schema.report import Fidelity
from adaptrix.schema.tensor import LazyTensor


def write(adapter: Adapter) -> Written:
    """The adapter as MLX-LM's two files: factors transposed, one absolute scale.

    Raises:
        Refused: several scales or ranks, tensors that MLX-LM has no place for.
    """
    problem = _problem(adapter)
    if problem:
        raise Refused(problem, where="mlx", code="unsupported_target")
    tensors: dict[str, LazyTensor] = {}
    for module in adapter.modules:
        tensors |= _tensors(module)
    text = json.dumps(_config(adapter), indent=4, sort_keys=True) + "\n"
    weights = encoded_file(
        "adapters.safetensors",
        partial(safetensors_bytes, tensors, {"format": "mlx"}),
        media_types.WEIGHT_RAW,
    )
    config = bytes_file("adapter_config.json", text.encode(), media_types.WEIGHT_CONFIG_RAW)
    return Written(
        files=(weights, config), fidelity=Fidelity.EXACT, max_abs_error=0.0, tensors=len(tensors)
    )


def _problem(adapter: Adapter) -> str:
    """What MLX-LM cannot hold; empty when it can hold all."""
    if not adapter.modules:
        return "an adapter without modules cannot be written"
    if adapter.replacements:
        return f"MLX-LM has no place for {adapter.replacements[0].parameter}"
    scales = {module.scale.value for module in adapter.modules}
    if len(scales) > 1 or len(adapter.ranks) > 1:
        return f"MLX-LM has one scale and one rank, not {len(scales)} and {len(adapter.ranks)}"
    for module in adapter.modules:
        if module.kind not in (ModuleKind.LINEAR, ModuleKind.EMBEDDING):
            return f"MLX-LM has no place for {module.path} ({module.kind})"
        if module.bias_delta is not None:
            return f"MLX-LM has no place for a bias of {module.path}"
    having = [module for module in adapter.modules if module.magnitude is not None]
    return "MLX-LM has DoRA on all modules or none" if len(having) % len(adapter.modules) else ""


def _tensors(module: AdaptedModule) -> dict[str, LazyTensor]:
    found = {
        f"{module.path}.lora_a": transpose(module.a),
        f"{module.path}.lora_b": transpose(module.b),
    }
    if module.magnitude is not None:
        found[f"{module.path}.m"] = module.magnitude
    return found


def _key(path: str) -> str:
    """The name inside a layer; outside the layers the whole path (``linear_to_lora_layers``)."""
    _, inside, rest = path.partition(".layers.")
    return rest.partition(".")[2] if inside else path


def _config(adapter: Adapter) -> dict[str, Json]:
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
            "keys": sorted({_key(module.path) for module in adapter.modules}),
        },
        "model": adapter.base_name,
    }
