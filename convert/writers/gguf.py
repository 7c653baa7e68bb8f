"""Writes a GGUF LoRA for llama.cpp: Phi-2, with the names of its current converter.

llama.cpp reads one alpha and divides it by each module's own rank, so modules may differ in
rank as long as one alpha explains every scale.
"""

from __future__ import annotations

import re
from functools import partial

from adaptrix.convert.arrays import transpose
from adaptrix.convert.gguf_file import gguf_bytes
from adaptrix.convert.numeric import np
from adaptrix.convert.writers.files import encoded_file
from adaptrix.convert.writers.scales import alpha_for
from adaptrix.convert.written import Written
from adaptrix.schema import media_types
from adaptrix.schema.adapter import AdaptedModule, Adapter, ModuleKind
from adaptrix.schema.canonical import Json
from adaptrix.schema.errors import Refused
from adaptrix.schema.report import Fidelity
from adaptrix.schema.tensor import LazyTensor

_BLOCKS = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.dense": "attn_output", "mlp.fc1": "ffn_up", "mlp.fc2": "ffn_down",
}  # fmt: skip
_OUTER = {"model.embed_tokens": "token_embd", "lm_head": "output"}
_PATH = re.compile(r"model\.layers\.(\d+)\.(.+)")


def write(adapter: Adapter) -> Written:
    """The adapter as one ``adapter.gguf``.

    Raises:
        Refused: another family than phi, several alphas, or tensors that GGUF adapters
            have no place for.
    """
    problem = _problem(adapter)
    if problem:
        raise Refused(problem, where="gguf", code="unsupported_target")
    alphas = {alpha_for(module, float(module.rank)) for module in adapter.modules}
    alpha = alphas.pop()
    # The file holds float32; llama.cpp divides in float32 as well.
    stored = float(np.float32(alpha))
    error = max(abs(stored / m.rank - m.scale.value) for m in adapter.modules)
    if alphas or stored == 0.0:
        raise Refused(
            "GGUF has one alpha for all modules, and it cannot be 0",
            where="gguf",
            code="unsupported_target",
        )
    tensors: dict[str, LazyTensor] = {}
    for module in adapter.modules:
        tensors |= _tensors(module)
    file = encoded_file(
        "adapter.gguf",
        partial(gguf_bytes, _fields(adapter, stored), tensors),
        media_types.WEIGHT_RAW,
    )
    return Written(
        files=(file,),
        fidelity=Fidelity.ROUNDING if error else Fidelity.EXACT,
        max_abs_error=error,
        tensors=len(tensors),
    )


def _fields(adapter: Adapter, alpha: float) -> dict[str, Json]:
    fields: dict[str, Json] = {
        "general.architecture": "phi2",
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


def _problem(adapter: Adapter) -> str:
    if not adapter.modules:
        return "an adapter without modules cannot be written"
    if adapter.family != "phi":
        return f"GGUF is written for phi, not for {adapter.family or 'an unknown family'}, yet"
    if adapter.replacements:
        return f"GGUF adapters have no place for {adapter.replacements[0].parameter}"
    for module in adapter.modules:
        if _name(module) is None or module.kind not in (ModuleKind.LINEAR, ModuleKind.EMBEDDING):
            return f"llama.cpp's phi2 has no place for {module.path}"
        if module.magnitude is not None or module.bias_delta is not None:
            return f"GGUF adapters have no place for a magnitude or bias of {module.path}"
    return ""


def _name(module: AdaptedModule) -> str | None:
    if module.path in _OUTER:
        return _OUTER[module.path]
    match = _PATH.fullmatch(module.path)
    tail = _BLOCKS.get(match[2]) if match else None
    return f"blk.{match[1]}.{tail}" if match and tail else None


def _tensors(module: AdaptedModule) -> dict[str, LazyTensor]:
    embedding = module.kind is ModuleKind.EMBEDDING
    name = _name(module)
    return {
        f"{name}.weight.lora_a": transpose(module.a) if embedding else module.a,
        f"{name}.weight.lora_b": module.b,
    }
