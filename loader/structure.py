"""The structure of a base model: every module that an adapter may change, by path.

Built on torch's meta device from the configuration alone: no weights, no memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import transformers
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForSeq2SeqLM,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.pytorch_utils import Conv1D

from adaptrix.schema.adapter import ModuleKind, ModulePath
from adaptrix.schema.errors import FormatError


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleShape:
    """One module of the base.

    Attributes:
        kind: What it is; ``PARAMETER`` for one expert's slice, or a matrix, of a parameter.
        parameter: Name of the parameter that holds its weight.
        in_features: Columns that ``A`` must have.
        out_features: Rows that ``B`` must have.
        has_bias: Whether a bias can be changed.
        mergeable: Whether its weight is a matrix of floats; a quantised module has only
            its forward, and takes adapters attached.
        attachable: Whether it has a forward of its own: a parameter has none, and is merged.
        expert: Which slice of the parameter it is, or None for all of it.
        transposed: Whether the weight is stored ``(in, out)``.
    """

    kind: ModuleKind
    parameter: str
    in_features: int
    out_features: int
    has_bias: bool = False
    mergeable: bool = True
    attachable: bool = True
    expert: int | None = None
    transposed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseStructure:
    """Structure of a base model.

    Attributes:
        name: Where it comes from, for messages.
        family: transformers' ``model_type``.
        modules: Shape by module path.
        parameters: Shape by parameter name.
        tied: Parameter names that share storage with another parameter.
        parameter_count: Elements in all parameters.
        dtype: The type that the configuration names.
    """

    name: str
    family: str
    modules: Mapping[ModulePath, ModuleShape]
    parameters: Mapping[str, tuple[int, ...]]
    tied: frozenset[str]
    parameter_count: int
    dtype: torch.dtype


def structure_of_config(config: PretrainedConfig, name: str) -> BaseStructure:
    """Structure of the causal language model that ``config`` describes."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    found = structure_of(model, name)
    quantised = getattr(config, "quantization_config", None)
    return _as_quantised(found, quantised) if quantised else found


def _as_quantised(found: BaseStructure, settings: Any) -> BaseStructure:
    """The same with linear modules as the quantiser will leave them: with a forward alone.

    What it will do is known only once it has loaded the weights; by their documentation
    quantisers of transformers take every linear module but the output head and what a list
    in their settings names.
    """
    values = settings if isinstance(settings, Mapping) else settings.to_dict()
    lists = ("modules_to_not_convert", "llm_int8_skip_modules", "ignore")
    kept = {"lm_head", *(name for key in lists for name in values.get(key) or ())}
    modules = {
        path: replace(shape, mergeable=False)
        if shape.kind is ModuleKind.LINEAR and shape.attachable and not _among(path, kept)
        else shape
        for path, shape in found.modules.items()
    }
    return replace(found, modules=modules)


def _among(path: str, names: set[str]) -> bool:
    return any(f".{name}." in f".{path}." for name in names)


def modules_of_folder(folder: str) -> dict[str, tuple[str, int, int]]:
    """``(kind, out, in)`` by path of the model that a folder's ``config.json`` describes.

    Raises:
        FormatError: transformers has no class for it, or the class does not take it.
    """
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        model = _largest(config)
    except (ValueError, KeyError, TypeError, AttributeError, OSError, ImportError) as error:
        raise FormatError(
            f"no model can be built from it: {str(error).strip().partition(chr(10))[0][:200]}",
            where=f"{folder}/config.json",
            hint="Code from a repository is never run; a newer transformers may know the type.",
        ) from error
    return {
        path: (shape.kind.value, shape.out_features, shape.in_features)
        for path, shape in _shapes(model)
    }


def _largest(config: PretrainedConfig) -> Any:
    """The class that ``architectures`` names, else the first that takes the configuration."""
    named = [getattr(transformers, name, None) for name in config.architectures or []]
    with torch.device("meta"):
        for model_class in named:
            if isinstance(model_class, type) and issubclass(model_class, PreTrainedModel):
                return model_class(config)
        autos: tuple[Any, ...] = (
            AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoModelForImageTextToText, AutoModel,
        )  # fmt: skip
        fitting = [auto for auto in autos if type(config) in auto._model_mapping]
        return (fitting or [AutoModel])[0].from_config(config)


def structure_of(model: nn.Module, name: str) -> BaseStructure:
    """Structure of a model that exists already."""
    shapes = {
        parameter: tuple(value.shape)
        for parameter, value in model.named_parameters(remove_duplicate=False)
    }
    config: Any = model.config
    return BaseStructure(
        name=name,
        family=str(config.model_type),
        modules={ModulePath(path): shape for path, shape in _shapes(model)},
        parameters=shapes,
        tied=_tied(model),
        parameter_count=sum(value.numel() for value in model.parameters()),
        dtype=config.dtype if isinstance(config.dtype, torch.dtype) else torch.float32,
    )


def _shapes(model: nn.Module) -> Iterator[tuple[str, ModuleShape]]:
    """Everything that takes a low-rank update: modules, then what parameters are left."""
    held = set()
    for path, module in model.named_modules():
        shape = _shape(module, f"{path}.weight" if path else "weight")
        if shape is not None:
            held.add(shape.parameter)
            yield path, shape
    for path, module in model.named_modules():
        for name, value in module.named_parameters(path, recurse=False):
            if name not in held:
                yield from _slices(name, value, module)


def _slices(name: str, value: torch.Tensor, module: nn.Module) -> Iterator[tuple[str, ModuleShape]]:
    """A matrix, or the experts of a stack of them, that has no module of its own."""
    experts = value.ndim == 3 and ".experts." in name
    if value.ndim != 2 and not experts:
        return
    # The canonical orientation: schema/adapter.py, docs/renames.md.
    turned = experts and bool(getattr(module, "is_transposed", False))
    rows, columns = value.shape[-2:]
    whole = ModuleShape(
        kind=ModuleKind.PARAMETER,
        parameter=name,
        in_features=rows if turned else columns,
        out_features=columns if turned else rows,
        mergeable=value.is_floating_point() and value.itemsize > 1,
        attachable=False,
        transposed=turned,
    )
    if experts:
        for expert in range(len(value)):
            yield f"{name}.{expert}", replace(whole, expert=expert)
    elif name.endswith(".weight"):
        yield name.removesuffix(".weight"), replace(whole, kind=ModuleKind.LINEAR)
    else:
        yield name, whole


def _shape(module: nn.Module, parameter: str) -> ModuleShape | None:
    match module:
        case nn.Linear():
            return _linear(module, parameter)
        case Conv1D():
            return ModuleShape(
                kind=ModuleKind.CONV1D,
                parameter=parameter,
                in_features=module.weight.shape[0],
                out_features=module.weight.shape[1],
                has_bias=True,
                transposed=True,
            )
        case nn.Embedding():
            return ModuleShape(
                kind=ModuleKind.EMBEDDING,
                parameter=parameter,
                in_features=module.num_embeddings,
                out_features=module.embedding_dim,
                transposed=True,
            )
        case _ if isinstance(getattr(module, "in_features", None), int):
            # GPTQ, AWQ, HQQ …: their own classes, told by what they have in common.
            sized = isinstance(getattr(module, "out_features", None), int)
            return _linear(module, parameter) if sized else None
        case _:
            return None


def _linear(module: Any, parameter: str) -> ModuleShape:
    weight = getattr(module, "weight", None)
    shape = (module.out_features, module.in_features)
    plain = (
        type(weight) is nn.Parameter
        and weight.is_floating_point()
        and weight.itemsize > 1
        and tuple(weight.shape) == shape
        # torchao keeps a Linear and changes what its parameter holds.
        and type(weight.data) is torch.Tensor
    )
    return ModuleShape(
        kind=ModuleKind.LINEAR,
        parameter=parameter,
        in_features=module.in_features,
        out_features=module.out_features,
        has_bias=isinstance(getattr(module, "bias", None), torch.Tensor),
        mergeable=plain,
    )


def _tied(model: nn.Module) -> frozenset[str]:
    names: dict[int, list[str]] = {}
    for name, value in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(value), []).append(name)
    return frozenset(name for group in names.values() if len(group) > 1 for name in group)
