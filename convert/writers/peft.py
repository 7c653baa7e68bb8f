"""Writes what PEFT 0.8 and later load: the canonical stored form of every adapter.

``adapter_model.safetensors`` with PEFT's keys, sorted, and the smallest
``adapter_config.json`` that says the same: patterns carry full module paths, so that the
matching rules before and after PEFT 0.14 agree on every module.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from adaptrix.convert.arrays import from_array
from adaptrix.convert.diffusion.bare import KEY, without_component
from adaptrix.convert.layouts.renames import has_experts, is_raw_weight
from adaptrix.convert.numeric import np
from adaptrix.convert.safetensors_file import safetensors_bytes
from adaptrix.convert.writers.files import bytes_file, encoded_file
from adaptrix.convert.writers.peft_experts import CONVENTION, Stacks, check_plain, stacks
from adaptrix.convert.writers.scales import Alphas, alphas_of, most_common, number
from adaptrix.convert.writers.targets import target_modules
from adaptrix.convert.written import Written
from adaptrix.schema import media_types
from adaptrix.schema.adapter import (
    AdaptedModule,
    Adapter,
    BaseRequirement,
    Carried,
    ModuleKind,
    Replacement,
    ReplacementRole,
    module_tensors,
)
from adaptrix.schema.canonical import Json
from adaptrix.schema.errors import Refused
from adaptrix.schema.report import Fidelity
from adaptrix.schema.tensor import DType, LazyTensor

_PREFIX = "base_model.model."
KASA, DIAGONAL = "kasa_config", "lora_diag"
_HEADS = ("classifier", "score")


def write(adapter: Adapter) -> Written:
    """The adapter as PEFT's two files.

    Raises:
        Refused: PEFT has no configuration that means this adapter.
    """
    if adapter.carried is not None:
        return _as_it_is(adapter.carried)
    if not adapter.modules:
        raise Refused("an adapter without modules cannot be written", where="peft")
    adapter, component = without_component(adapter)
    folded = stacks(adapter)
    plain = tuple(m for m in adapter.modules if m.kind is not ModuleKind.PARAMETER)
    alphas = alphas_of((*plain, *folded.logical))
    config = _config(replace(adapter, modules=(*plain, *folded.logical)), alphas)
    text = json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    tensors = file_tensors(adapter, folded)
    metadata = {"format": "pt"} | ({KEY: component} if component else {})
    weights = encoded_file(
        "adapter_model.safetensors",
        partial(safetensors_bytes, tensors, metadata),
        media_types.WEIGHT_RAW,
    )
    settings = bytes_file("adapter_config.json", text.encode(), media_types.WEIGHT_CONFIG_RAW)
    exact = alphas.max_error == 0.0
    return Written(
        files=(weights, settings),
        fidelity=Fidelity.EXACT if exact else Fidelity.ROUNDING,
        max_abs_error=alphas.max_error,
        tensors=len(tensors),
    )


def _as_it_is(carried: Carried) -> Written:
    text = json.dumps(dict(carried.config), indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    weights = encoded_file(
        "adapter_model.safetensors",
        partial(safetensors_bytes, carried.named, {"format": "pt"}),
        media_types.WEIGHT_RAW,
    )
    settings = bytes_file("adapter_config.json", text.encode(), media_types.WEIGHT_CONFIG_RAW)
    return Written(
        files=(weights, settings),
        fidelity=Fidelity.EXACT,
        max_abs_error=0.0,
        tensors=len(carried.named),
    )


def file_tensors(adapter: Adapter, folded: Stacks | None = None) -> dict[str, LazyTensor]:
    """Tensors under the names that PEFT's own saver gives them."""
    adapted = {str(module.path) for module in adapter.modules}
    found = {_PREFIX + n: t for n, t in (folded or stacks(adapter)).tensors.items()}
    for module in adapter.modules:
        if module.kind is ModuleKind.PARAMETER:
            continue
        found.update({_PREFIX + n: t for n, t in module_tensors(module).items()})
        if KASA in adapter.extra:
            found[f"{_PREFIX}{module.path}.{DIAGONAL}"] = _diagonal(module)
    for replacement in adapter.replacements:
        found[_PREFIX + _key(replacement, adapted)] = replacement.tensor
    return found


def _key(replacement: Replacement, adapted: set[str]) -> str:
    if replacement.role is ReplacementRole.TRAINABLE_TOKENS:
        return f"{replacement.parameter}.token_adapter.trainable_tokens_delta"
    module, _, leaf = replacement.parameter.rpartition(".")
    if replacement.role is ReplacementRole.MODULES_TO_SAVE or module not in adapted:
        return replacement.parameter
    # A wrapped module keeps the base's own parameters below base_layer since PEFT 0.7.
    return f"{module}.base_layer.{leaf}"


def _config(adapter: Adapter, alphas: Alphas) -> dict[str, Json]:
    modules = adapter.modules
    parameters = _parameters(adapter)
    check_plain(modules, parameters.values())
    rank, alpha = most_common([(m.rank, alphas.values[m.path]) for m in modules])
    config: dict[str, Json] = {
        "peft_type": "LORA",
        "task_type": adapter.task_type or None,
        "base_model_name_or_path": adapter.base_name or None,
        "r": rank,
        "lora_alpha": number(alpha),
        # PEFT cannot drop inputs of raw parameters, and refuses to try.
        "lora_dropout": 0.0 if parameters else _dropout(adapter),
        "target_modules": list(target_modules(_without(adapter, parameters))),
        "bias": _bias(adapter),
        "fan_in_fan_out": any(m.kind is ModuleKind.CONV1D for m in modules),
        "modules_to_save": _modules_to_save(adapter) or None,
        "inference_mode": True,
        "init_lora_weights": True,
    }
    if parameters:
        config["target_parameters"] = sorted(parameters.values())
        config["peft_version"] = CONVENTION
    if adapter.base_revision:
        config["revision"] = adapter.base_revision
    if alphas.rslora:
        config["use_rslora"] = True
    if _every_or_none(modules, "magnitude"):
        config["use_dora"] = True
    if _every_or_none(modules, "bias_delta"):
        config["lora_bias"] = True
    # PEFT looks a parameter up by its full name, a module by its path.
    ranks: dict[str, Json] = {
        parameters.get(m.path, m.path): m.rank for m in modules if m.rank != rank
    }
    scaled: dict[str, Json] = {
        parameters.get(p, p): number(value) for p, value in alphas.values.items() if value != alpha
    }
    if ranks:
        config["rank_pattern"] = _longest_first(ranks)
    if scaled:
        config["alpha_pattern"] = _longest_first(scaled)
    if adapter.needs_base is BaseRequirement.RESIDUAL:
        config |= _residual(adapter)
    if rows := _token_rows(adapter):
        config["trainable_token_indices"] = rows
    return config


def _parameters(adapter: Adapter) -> dict[str, str]:
    """Full parameter name by path, for what PEFT wraps as a parameter."""
    return {
        m.path: m.path if m.kind is ModuleKind.PARAMETER else f"{m.path}.weight"
        for m in adapter.modules
        if m.kind is ModuleKind.PARAMETER
        or is_raw_weight(adapter.family, m.path)
        or _is_caught(adapter.family, m.path)
    }


_OLD_EXPERTS = {"gate", "gate_proj", "up_proj", "down_proj", "w1", "w2", "w3"}


def _is_caught(family: str, path: str) -> bool:
    """Whether PEFT would take a target for one of its family's former experts.

    Since 0.19 it maps every target that ends so to the stacked parameters, shared experts
    and dense layers too (``_convert_peft_config_moe``); as a parameter it is left alone.
    """
    return path.rpartition(".")[2] in _OLD_EXPERTS and has_experts(family)


def _without(adapter: Adapter, parameters: Mapping[str, str]) -> Adapter:
    return replace(adapter, modules=tuple(m for m in adapter.modules if m.path not in parameters))


def _residual(adapter: Adapter) -> dict[str, Json]:
    """What tells PEFT to take the base apart as in training."""
    if KASA in adapter.extra:
        return {KASA: adapter.extra[KASA]}
    kept = ("init_lora_weights", "loftq_config", "corda_config", "lora_ga_config")
    return {name: adapter.extra[name] for name in kept if name in adapter.extra}


def _diagonal(module: AdaptedModule) -> LazyTensor:
    """Ones: KaSA's own diagonal is folded into ``B``, and PEFT wants one."""
    ones = np.ones(module.rank, dtype="<f4")
    return from_array(ones, DType.F32, f"{module.path}.{DIAGONAL}")


def _longest_first(pattern: Mapping[str, Json]) -> dict[str, Json]:
    return dict(sorted(pattern.items(), key=lambda entry: (-len(entry[0]), entry[0])))


def _dropout(adapter: Adapter) -> float:
    value = adapter.extra.get("lora_dropout", 0.0)
    return float(value) if isinstance(value, int | float) and 0 <= value < 1 else 0.0


def _every_or_none(modules: tuple[AdaptedModule, ...], name: str) -> bool:
    """Whether all modules have it; PEFT has one switch for all of them."""
    lacking = [m.path for m in modules if getattr(m, name) is None]
    if lacking and len(lacking) != len(modules):
        raise Refused(
            f"{len(lacking)} of {len(modules)} modules have no {name.replace('_', ' ')}, first "
            f"{lacking[0]}; PEFT's configuration says all or none",
            where="peft",
            code="unsupported_target",
        )
    return not lacking and bool(modules)


def _bias(adapter: Adapter) -> str:
    adapted = {str(m.path) for m in adapter.modules}
    biases = [r for r in adapter.replacements if r.role is ReplacementRole.BIAS]
    if not biases:
        return "none"
    inside = all(r.parameter.rpartition(".")[0] in adapted for r in biases)
    return "lora_only" if inside else "all"


def _modules_to_save(adapter: Adapter) -> list[str]:
    """Modules to declare: the producer's names where they cover, else the parents."""
    declared = adapter.extra.get("modules_to_save")
    names = [n for n in declared if isinstance(n, str)] if isinstance(declared, list) else []
    found: set[str] = set()
    for replacement in adapter.replacements:
        if replacement.role is ReplacementRole.MODULES_TO_SAVE:
            covering = [n for n in (*names, *_HEADS) if f".{n}." in f".{replacement.parameter}"]
            parent = replacement.parameter.rpartition(".")[0]
            found.add(covering[0] if covering else parent)
    return sorted(found)


def _token_rows(adapter: Adapter) -> dict[str, Json]:
    return {
        r.parameter.rpartition(".")[2]: list(r.rows)
        for r in adapter.replacements
        if r.role is ReplacementRole.TRAINABLE_TOKENS
    }
