"""Writes MLX-LM's ``adapters.safetensors`` and ``adapter_config.json``.

MLX-LM has one scale and one rank for all modules; what differs from that is refused, never
approximated.
"""

from __future__ import annotations

import json
import re
from collections.abc import Container, Mapping
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

NAMED = re.compile(r"lm_head|model\.embed_tokens|model\.layers\.\d+\.(?!.*\bexperts\.).+")
"""Paths that MLX-LM's classes share with those of transformers, experts excepted."""


def write(adapter: Adapter) -> Written:
    """The adapter as MLX-LM's two files: factors transposed, one absolute scale.

    Raises:
        Refused: several scales or ranks, tensors that MLX-LM has no place for.
    """
    check_holds(adapter, "mlx", "MLX-LM", {ModuleKind.LINEAR, ModuleKind.EMBEDDING})
    check_names(adapter, "mlx", NAMED)
    paths = {str(module.path): str(module.path) for module in adapter.modules}
    keys: list[Json] = [*sorted({_key(path) for path in paths})]
    return two_files(adapter, paths, config_of(adapter, keys))


def two_files(adapter: Adapter, paths: Mapping[str, str], config: Mapping[str, Json]) -> Written:
    """``adapters.safetensors`` under the names in ``paths``, and ``adapter_config.json``."""
    tensors: dict[str, LazyTensor] = {}
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


def check_names(adapter: Adapter, target: str, named: re.Pattern[str]) -> None:
    """Refuse modules whose name in MLX's classes is another one, or is not known.

    MLX loads what it has a place for and says nothing of the rest (``strict=False``): a file
    with other names would be the base itself.

    Raises:
        Refused: a module that does not match ``named``.
    """
    for module in adapter.modules:
        if not named.fullmatch(module.path):
            message = f"the name that MLX gives {module.path} is not known, and it would ignore it"
            raise Refused(message, where=target, code="unsupported_target")


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
    _, inside, rest = path.partition(".layers.")
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
