"""Models of one type on the meta device, and the shape of everything an adapter may change."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import nn
from transformers import CONFIG_MAPPING, PretrainedConfig
from transformers.models.auto import modeling_auto
from transformers.pytorch_utils import Conv1D

HEADLESS = "MODEL_MAPPING_NAMES"
_PREFERRED = (
    "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES", "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES",
    "MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES", "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES",
    "MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES",
    "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES",
)  # fmt: skip
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True, slots=True)
class Entry:
    """One module or parameter: what it is, and its sizes.

    ``dims`` is ``(out, in)`` of the update for modules, the whole shape for parameters.
    """

    kind: str
    dims: tuple[int, ...]


Entries = Mapping[str, Entry]


def model_classes(model_type: str) -> dict[str, type[Any]]:
    """Auto mapping name to the class that it has for ``model_type``, preferred ones first."""
    names = [
        n for n in dir(modeling_auto) if n.startswith("MODEL_") and n.endswith("_MAPPING_NAMES")
    ]
    names.sort(key=lambda n: (n != HEADLESS, n not in _PREFERRED, n))
    found: dict[str, type[Any]] = {}
    for name in names:
        listed = getattr(modeling_auto, name).get(model_type)
        for class_name in listed if isinstance(listed, tuple | list) else [listed]:
            loaded = getattr(transformers, class_name, None) if class_name else None
            if isinstance(loaded, type) and loaded not in found.values():
                found[f"{name}:{class_name}"] = loaded
    return found


def default_config(model_type: str) -> PretrainedConfig:
    """The configuration that the type has without any argument."""
    config: PretrainedConfig = CONFIG_MAPPING[model_type]()
    return config


def build(model_class: type[Any], config: PretrainedConfig) -> nn.Module:
    """The model without memory for weights."""
    with torch.device("meta"):
        model: nn.Module = model_class(config)
    return model


def entries_of(model: nn.Module) -> dict[str, Entry]:
    """Everything in ``model`` that an adapter may change, by path."""
    found = {}
    for path, module in model.named_modules():
        own = _module_entry(module)
        if own is not None:
            found[path] = own
        for name, entry in _parameter_entries(path, module, plain=own is None):
            found[f"{path}.{name}" if name and path else name or path] = entry
    return {path: entry for path, entry in found.items() if path}


def _module_entry(module: nn.Module) -> Entry | None:
    match module:
        case nn.Linear():
            return Entry("linear", (module.out_features, module.in_features))
        case Conv1D():
            return Entry("conv1d", (module.weight.shape[1], module.weight.shape[0]))
        case nn.Embedding():
            return Entry("embedding", (module.embedding_dim, module.num_embeddings))
        case nn.Conv1d() | nn.Conv2d() | nn.Conv3d():
            return Entry("conv", (module.out_channels, module.in_channels))
        case _:
            return None


def _parameter_entries(path: str, module: nn.Module, *, plain: bool) -> Iterator[tuple[str, Entry]]:
    """Matrices that are parameters of a module of their own kind: experts, routers, attention."""
    for name, value in module.named_parameters(recurse=False):
        dims = tuple(value.shape)
        if name == "in_proj_weight":
            yield name, Entry("parameter", dims)
        elif not plain:
            continue
        elif len(dims) == 2 and name == "weight" and min(dims) > 1:
            yield "", Entry("weight", dims)
        elif (len(dims) == 3 and dims[0] > 1) or (len(dims) == 2 and "expert" in f"{path}.{name}"):
            yield name, Entry("parameter", dims)
