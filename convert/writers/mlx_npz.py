"""Writes MLX-LM's ``adapters.npz`` of before April 2024, with what its reader has to be told.

The file holds transposed factors alone. ``mlx_lm.generate --adapter-file`` and mlx-examples'
``lora.py`` adapt every module that it names and always apply the scale 20; ``mlx_lm.lora
--config`` takes scale, rank and layers from a YAML file, and JSON is YAML. It applies
``scale·alpha/rank`` (versions before and after: ``scale``), so alpha is written as the rank,
which makes both the same. Source: mlx-examples, ``llms/mlx_lm/lora.py`` and
``tuner/utils.py`` at 2024-01-23 to 2024-04-01.
"""

from __future__ import annotations

import json
import re

from adaptrix.convert.architecture.known_bases import known_base
from adaptrix.convert.writers.files import bytes_file
from adaptrix.convert.writers.mlx import LAYERS, check_holds, names_of
from adaptrix.convert.writers.npz_file import transposed_npz
from adaptrix.convert.written import Written
from adaptrix.schema import media_types
from adaptrix.schema.adapter import Adapter
from adaptrix.schema.canonical import Json
from adaptrix.schema.errors import Refused
from adaptrix.schema.report import Fidelity, Problem
from adaptrix.schema.tensor import LazyTensor

_NAME, _CONFIG = "adapters.npz", "adapter_config.json"
_BUILT_IN_SCALE = 20.0
_PLACE = re.compile(r"\w+\.(?:layers|h)\.(?P<layer>\d+)\.(?P<key>.+)")


def write(adapter: Adapter) -> Written:
    """The adapter as ``adapters.npz`` and ``adapter_config.json``.

    Raises:
        Refused: several scales or ranks; modules or tensors that MLX-LM of that time had no
            place for (DoRA, embeddings, the head).
    """
    check_holds(adapter, "mlx-npz", "MLX-LM", LAYERS)
    names = names_of(adapter, "mlx-npz")
    tensors: dict[str, LazyTensor] = {}
    layers, keys = set(), set()
    for module in adapter.modules:
        name = names[module.path]
        place = _PLACE.fullmatch(name)
        if place is None or module.magnitude is not None:
            part = "DoRA" if place else "modules outside of the layers"
            message = f"MLX-LM had no {part} before it left npz: {module.path}"
            raise Refused(message, where="mlx-npz", code="unsupported_target")
        layers.add(int(place["layer"]))
        keys.add(place["key"])
        tensors |= {f"{name}.lora_a": module.a, f"{name}.lora_b": module.b}
    weights, notes = transposed_npz(_NAME, tensors)
    count, told = _layer_count(adapter, layers)
    text = json.dumps(_config(adapter, count, sorted(keys)), indent=4, sort_keys=True) + "\n"
    settings = bytes_file(_CONFIG, text.encode(), media_types.WEIGHT_CONFIG_RAW)
    return Written(
        files=(weights, settings),
        fidelity=Fidelity.EXACT,
        max_abs_error=0.0,
        tensors=len(tensors),
        problems=(*notes, *_about_scale(adapter), *told),
    )


def _layer_count(adapter: Adapter, layers: set[int]) -> tuple[int, tuple[Problem, ...]]:
    """How many of the last layers are adapted: MLX-LM counts from the end."""
    known = known_base(adapter.base_name)
    if known is not None and known.dimensions.layers:
        return known.dimensions.layers - min(layers), ()
    message = f"lora_layers counts from the last layer, taken to be number {max(layers)}"
    hint = "Add to lora_layers as many layers as the base has behind that one."
    problem = Problem.of("reader_settings", message, where=f"{_CONFIG}:lora_layers", hint=hint)
    return max(layers) + 1, () if min(layers) == 0 else (problem,)


def _about_scale(adapter: Adapter) -> tuple[Problem, ...]:
    scale = adapter.modules[0].scale.value
    if scale == _BUILT_IN_SCALE:
        return ()
    message = f"the file has no place for the scale {scale:g}; without one MLX-LM applies 20"
    hint = f"Run mlx_lm.lora --config {_CONFIG}, which says it."
    return (Problem.of("reader_settings", message, where=_NAME, hint=hint),)


def _config(adapter: Adapter, layers: int, keys: list[str]) -> dict[str, Json]:
    first = adapter.modules[0]
    return {
        "model": adapter.base_name,
        "adapter_file": _NAME,
        "lora_layers": layers,
        "lora_parameters": {
            "rank": first.rank,
            "alpha": first.rank,
            "scale": first.scale.value,
            "dropout": 0.0,
            "keys": [*keys],
        },
    }
