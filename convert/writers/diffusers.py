"""Writes what diffusers 0.34 and later load: one file for the whole pipeline.

``pytorch_lora_weights.safetensors`` with PEFT's factors below each component's name, and each
component's configuration in the metadata, from which diffusers takes ranks and alphas. Paths
of text encoders are matched by their end, for transformers before 5 has ``text_model.``
before them and later versions may not.
"""

from __future__ import annotations

import json
from functools import partial

from adaptrix.convert.safetensors_file import safetensors_bytes
from adaptrix.convert.writers.components import modules_by_component
from adaptrix.convert.writers.files import encoded_file
from adaptrix.convert.writers.scales import alphas_of, most_common, number
from adaptrix.convert.written import Written
from adaptrix.schema import media_types
from adaptrix.schema.adapter import AdaptedModule, Adapter
from adaptrix.schema.canonical import Json
from adaptrix.schema.errors import Refused
from adaptrix.schema.report import Fidelity
from adaptrix.schema.tensor import LazyTensor

NAME = "pytorch_lora_weights.safetensors"
Placed = list[tuple[str, AdaptedModule]]


def write(adapter: Adapter) -> Written:
    """The adapter as diffusers' file.

    Raises:
        Refused: modules of no diffusion pipeline, or tensors without a place.
    """
    tensors: dict[str, LazyTensor] = {}
    settings: dict[str, Json] = {}
    error = 0.0
    for component, placed in modules_by_component(adapter, "diffusers").items():
        for path, module in placed:
            tensors |= {f"{component}.{path}.{k}": t for k, t in _tensors(module).items()}
        config, wrong = _config(placed)
        settings |= {f"{component}.{name}": value for name, value in config.items()}
        error = max(error, wrong)
    text = json.dumps(settings, indent=2, sort_keys=True, ensure_ascii=False)
    metadata = {"format": "pt", "lora_adapter_metadata": text}
    weights = encoded_file(
        NAME, partial(safetensors_bytes, tensors, metadata), media_types.WEIGHT_RAW
    )
    return Written(
        files=(weights,),
        fidelity=Fidelity.EXACT if error == 0.0 else Fidelity.ROUNDING,
        max_abs_error=error,
        tensors=len(tensors),
    )


def _tensors(module: AdaptedModule) -> dict[str, LazyTensor]:
    found = {"lora_A.weight": module.a, "lora_B.weight": module.b}
    if module.magnitude is not None:
        found["lora_magnitude_vector"] = module.magnitude
    if module.bias_delta is not None:
        found["lora_B.bias"] = module.bias_delta
    return found


def _config(placed: Placed) -> tuple[dict[str, Json], float]:
    """PEFT's ``LoraConfig`` of one component, and the largest error of a scale."""
    modules = [module for _, module in placed]
    alphas = alphas_of(modules)
    values = {path: (m.rank, alphas.values[m.path]) for path, m in placed}
    rank, alpha = most_common(list(values.values()))
    ranks: dict[str, Json] = {_end(p): r for p, (r, _) in values.items() if r != rank}
    scaled: dict[str, Json] = {_end(p): number(a) for p, (_, a) in values.items() if a != alpha}
    targets: list[Json] = [_end(path) for path, _ in sorted(placed, key=lambda entry: entry[0])]
    config: dict[str, Json] = {
        "r": rank,
        "lora_alpha": number(alpha),
        "rank_pattern": ranks,
        "alpha_pattern": scaled,
        "target_modules": targets,
        "use_rslora": alphas.rslora,
        "use_dora": _all_or_none(placed, "magnitude"),
        "lora_bias": _all_or_none(placed, "bias_delta"),
    }
    return config, alphas.max_error


def _end(path: str) -> str:
    return path.removeprefix("text_model.")


def _all_or_none(placed: Placed, name: str) -> bool:
    lacking = [module.path for _, module in placed if getattr(module, name) is None]
    if lacking and len(lacking) != len(placed):
        raise Refused(
            f"{len(lacking)} of {len(placed)} modules have no {name.replace('_', ' ')}, first "
            f"{lacking[0]}; diffusers' configuration says all or none",
            where="diffusers",
            code="unsupported_target",
        )
    return not lacking
