"""Writes a GGUF LoRA for llama.cpp, with the names of its current converter.

llama.cpp reads one alpha and divides it by each module's own rank, so modules may differ in
rank as long as one alpha explains every scale. Rows of q and k are put in pairs where its
converter does so (``LlamaModel.permute``), rows of a fused q, k, v into blocks (``BloomModel``,
``FalconModel``); A has no rows of theirs and stays.
"""

from __future__ import annotations

import re
from functools import partial

from adaptrix.convert.arrays import take_rows, transpose
from adaptrix.convert.gguf_file import gguf_bytes
from adaptrix.convert.gguf_names import GgufArchitecture, architecture_of
from adaptrix.convert.layouts.experts import slice_of
from adaptrix.convert.layouts.forms import QKV
from adaptrix.convert.layouts.rotary import neighbour_rows
from adaptrix.convert.layouts.row_orders import part_rows
from adaptrix.convert.numeric import np
from adaptrix.convert.writers.families import other_family
from adaptrix.convert.writers.files import encoded_file
from adaptrix.convert.writers.heads import base_heads, heads_of
from adaptrix.convert.writers.scales import alpha_for
from adaptrix.convert.writers.stacked_experts import PARTS, is_expert, stacks
from adaptrix.convert.written import Written
from adaptrix.schema import media_types
from adaptrix.schema.adapter import AdaptedModule, Adapter, ModuleKind
from adaptrix.schema.canonical import Json
from adaptrix.schema.errors import Refused
from adaptrix.schema.report import Fidelity
from adaptrix.schema.tensor import LazyTensor

_KINDS = (ModuleKind.LINEAR, ModuleKind.EMBEDDING, ModuleKind.CONV1D)
"""GPT-2's Conv1D has its weight transposed in llama.cpp: a linear layer's, as the factors are."""


def write(adapter: Adapter) -> Written:
    """The adapter as one ``adapter.gguf``.

    Raises:
        Refused: a family whose names are not known, several alphas, tensors that GGUF
            adapters have no place for, or rows by head of a base that is not known.
    """
    name, architecture = _architecture(adapter)
    problem = _problem(adapter, name, architecture)
    if problem:
        raise Refused(problem, where="gguf", code="unsupported_target")
    experts = stacks(adapter)
    plain = tuple(module for module in adapter.modules if not is_expert(module))
    named = [*((m, str(m.path)) for m in plain), *((s.logical, s.parameter) for s in experts)]
    alphas = {alpha_for(module, float(module.rank)): path for module, path in named}
    alpha = next(iter(alphas))
    # The file holds float32; llama.cpp divides in float32 as well.
    stored = float(np.float32(alpha))
    error = max(abs(stored / m.rank - m.scale.value) for m, _ in named)
    if len(alphas) > 1 or stored == 0.0:
        places = ", ".join(f"{alpha:g} of {path}" for alpha, path in list(alphas.items())[:4])
        raise Refused(
            f"GGUF has one alpha for all modules, and it cannot be 0; this has {places}",
            where="gguf",
            code="unsupported_target",
        )
    tensors: dict[str, LazyTensor] = {}
    for module in plain:
        tensors |= _tensors(adapter, module, architecture)
    for stack in experts:
        name_of_part = architecture.name_of(stack.logical.path)
        tensors[f"{name_of_part}.weight.lora_a"] = stack.a
        tensors[f"{name_of_part}.weight.lora_b"] = stack.b
    file = encoded_file(
        "adapter.gguf",
        partial(gguf_bytes, _fields(adapter, name, stored), tensors),
        media_types.WEIGHT_RAW,
    )
    return Written(
        files=(file,),
        fidelity=Fidelity.ROUNDING if error else Fidelity.EXACT,
        max_abs_error=error,
        tensors=len(tensors),
    )


def _architecture(adapter: Adapter) -> tuple[str, GgufArchitecture]:
    found = architecture_of(adapter.family)
    if found is None:
        raise other_family("gguf", adapter)
    return found


def _fields(adapter: Adapter, architecture: str, alpha: float) -> dict[str, Json]:
    fields: dict[str, Json] = {
        "general.architecture": architecture,
        "general.type": "adapter",
        "adapter.type": "lora",
        "adapter.lora.alpha": alpha,
    }
    organisation, _, name = adapter.base_name.rpartition("/")
    if name and re.fullmatch(r"[\w.-]*", organisation):
        fields["general.base_model.count"] = 1
        fields["general.base_model.0.name"] = name
        if organisation:
            fields["general.base_model.0.organization"] = organisation
            url = f"https://huggingface.co/{adapter.base_name}"
            fields["general.base_model.0.repo_url"] = url
    return fields


def _problem(adapter: Adapter, name: str, architecture: GgufArchitecture) -> str:
    if not adapter.modules:
        return "an adapter without modules cannot be written"
    if adapter.replacements:
        return f"GGUF adapters have no place for {adapter.replacements[0].parameter}"
    for module in adapter.modules:
        if not _has_place(module, architecture):
            return f"llama.cpp's {name} has no place for {module.path}"
        if module.magnitude is not None or module.bias_delta is not None:
            return f"GGUF adapters have no place for a magnitude or bias of {module.path}"
    return ""


def _has_place(module: AdaptedModule, architecture: GgufArchitecture) -> bool:
    part = slice_of(module.path) if is_expert(module) else None
    if part is None:
        return architecture.name_of(module.path) is not None and module.kind in _KINDS
    container, _, name = part[0].rpartition(".")
    return all(architecture.name_of(f"{container}.{each}") for each in PARTS[name])


def _tensors(
    adapter: Adapter, module: AdaptedModule, architecture: GgufArchitecture
) -> dict[str, LazyTensor]:
    name = architecture.name_of(module.path)
    a, b = module.a, module.b
    if module.kind is ModuleKind.EMBEDDING:
        a = transpose(a)
    elif architecture.permuted and module.path.endswith(("q_proj", "k_proj")):
        part = module.path.rpartition(".")[2][0]
        heads = heads_of(adapter, part, module.out_features, module.path)
        b = take_rows(b, neighbour_rows(module.out_features, heads))
    elif architecture.order != "blocks" and f"{name}".endswith("attn_qkv"):
        b = take_rows(b, _block_rows(adapter, module, architecture.order))
    return {f"{name}.weight.lora_a": a, f"{name}.weight.lora_b": b}


def _block_rows(adapter: Adapter, module: AdaptedModule, order: str) -> list[int]:
    """Rows of all q, then of all k, then of all v."""
    rows = part_rows(order, QKV, module.out_features, base_heads(adapter))
    if rows is None:
        raise Refused(
            f"{module.out_features} rows of q, k and v are ordered by head, and the heads of "
            f"{adapter.base_name or 'the base'} are not known",
            where=str(module.path),
            code="unsupported_target",
            hint="Pass --base with the base model's folder or id.",
        )
    return [int(row) for part in QKV for row in rows[part]]
