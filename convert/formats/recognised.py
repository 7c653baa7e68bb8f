"""What is recognised and refused: other tools' formats, and things that are no LoRA.

One row per kind: the keys that tell it, what it is called, and why it is not converted.
Nothing here is ever "unknown": a user learns what the file is and what to do with it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from adaptrix.convert.contents import Contents
from adaptrix.convert.draft import Draft, Format, Recognition, refuse
from adaptrix.convert.formats.peft_methods import module_hints
from adaptrix.convert.options import ReadOptions
from adaptrix.schema.report import Problem


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One recognised kind of file.

    Attributes:
        name: Format name in reports.
        method: Method in reports.
        code: Problem code that refuses it.
        message: What it is and why it is refused.
        keys: Found in a tensor's name when the tensor is of this kind.
        score: Score when all tensors are of this kind; scaled by their share.
        hint: What to do, when the code's own hint is too general.
        least: Smallest share of tensors that makes it this kind.
        with_file: Whether ``keys`` looks at ``file:name``.
    """

    name: str
    method: str
    code: str
    message: str
    keys: re.Pattern[str]
    score: float = 0.9
    hint: str = ""
    least: float = 0.3
    with_file: bool = False


def _kind(name: str, method: str, code: str, message: str, keys: str, **more: float | str) -> Kind:
    return Kind(
        name=name,
        method=method,
        code=code,
        message=message,
        keys=re.compile(keys),
        score=float(more.get("score", 0.9)),
        hint=str(more.get("hint", "")),
        least=float(more.get("least", 0.3)),
        with_file=bool(more.get("with_file")),
    )


_UNSUPPORTED = "unsupported_method"
_SOFT = "it stores virtual tokens or prefixes, not weight updates"
KINDS: tuple[Kind, ...] = (
    _kind("soft-prompt", "prompt_tuning", "soft_prompt", _SOFT, r"(^|\.)(prompt_embeddings|prompt_encoder\b|prompt_tuning)", score=0.95),
    _kind("prefix-tuning", "prefix_tuning", "soft_prompt", _SOFT, r"prefix_encoder|prefix_tuning|(^|\.)past_key_values\b", score=0.95),
    _kind("adaption-prompt", "adaption_prompt", "soft_prompt", _SOFT, r"adaption_(prompt|gate)|(^|\.)(adapter_query|adapter_wte|gating_factor)\b", score=0.95),
    _kind("textual-inversion", "textual_inversion", "soft_prompt", "it stores embeddings of new words", r"^(clip_[lg]|<[^>]+>|emb_params|string_to_param.*)$", least=0.6),
    _kind("ia3", "ia3", "ia3", "IA³ stores factors of activations, no low-rank update", r"\.ia3_l\b", score=0.95),
    _kind("xlora", "xlora", "routed_adapter", "X-LoRA mixes several adapters by a classifier", r"internal_xlora_classifier", score=0.99, least=0.0),
    _kind("poly", "poly", "routed_adapter", "Poly mixes skills by a router", r"poly_(router|lora)", score=0.99, least=0.0),
    _kind("adapterhub", "bottleneck", "bottleneck_adapter", "bottleneck adapters add layers to the model", r"\.adapters?\.[^.]+\.adapter_(down|up)|\.adapter_(down|up)\.|phm_rule", score=0.95),
    _kind("comfyui", "lora", _UNSUPPORTED, "factors named lora_down and lora_up, of modules that no known model has", r"[._](lora_|lora\.)(down|up)\.weight$", score=0.85),
    _kind("keras", "lora", _UNSUPPORTED, "LoRA of Keras: factors are numbered by layer, without names or alpha", r"lora_(kernel|embeddings)_[ab]$", score=0.95, hint="Save each layer's lora_kernel_a and lora_kernel_b as PEFT's lora_A and lora_B."),
    _kind("tensor-list", "lora", _UNSUPPORTED, "a bare list of matrices without names; perhaps factors of lora_diffusion", r"^\d+$", score=0.7, hint="Convert it to safetensors with the tool that wrote it."),
    _kind("adalora", "adalora", _UNSUPPORTED, "AdaLoRA without its configuration, which has the rank that scales it", r"\.lora_E\b", score=0.97, least=0.1, hint="Put adapter_config.json beside it."),
    _kind("phi-4-multimodal", "full_checkpoint", "full_checkpoint", "a base model that carries its own adapters", r"\.lora_[AB]\.(speech|vision)\.weight$", score=0.99, least=0.01),
    _kind("ip-adapter", "ip_adapter", _UNSUPPORTED, "an IP-Adapter adds layers to the model", r"^(ip_adapter|image_proj)\.", score=0.9),
    _kind("optimizer-state", "optimizer_state", "not_an_adapter", "the state of an optimizer, not of an adapter", r"(^|\.)(exp_avg(_sq)?|momentum_buffer|state_sum)$|^state\.\d+\.", score=0.97, hint="Give the adapter's weights, which stand beside it."),
    _kind("deepspeed-shard", "sharded_state", "sharded_state", "one rank's part of a DeepSpeed or FSDP state", r"(single_partition_of_)?fp32_(flat_)?groups?\b|_flat_param|fp32_from_fp16|flat_param", score=0.98, least=0.01),
    _kind("full-checkpoint", "full_checkpoint", "full_checkpoint", "weights of a whole model, and no adapter factors", r"(^|/)(kernel|embedding|scale|bias)$|\.?(weight|bias|inv_freq|running_(mean|var)|scales|biases|qweight|qzeros)$", score=0.5, least=0.6),
)  # fmt: skip


def recognise_kind(kind: Kind, contents: Contents) -> Recognition | None:
    """Recognise ``kind`` by the share of tensors that have its keys."""
    names = [(file.name, name) for file in contents.tensor_files for name in file.tensors]
    if not names:
        return None
    hits = [name for place, name in names if _is_hit(kind, place, name)]
    share = len(hits) / len(names)
    if not hits or share < kind.least:
        return None
    score = kind.score if kind.least < 0.3 else kind.score * (0.5 + 0.5 * share)
    evidence = f"{len(hits)} of {len(names)} keys look like {kind.name}, first {hits[0]}"
    return Recognition(score=score, evidence=(evidence,))


def is_sharded_state(contents: Contents) -> bool:
    """Whether a file is one rank's part of a training state."""
    shard = next(kind for kind in KINDS if kind.method == "sharded_state")
    return any(shard.keys.search(name) for name in contents.tensors)


def _is_hit(kind: Kind, place: str, name: str) -> bool:
    return kind.keys.search(f"{place}:{name}" if kind.with_file else name) is not None


def read_kind(kind: Kind, contents: Contents, _options: ReadOptions) -> Draft:
    """Refuse it, with its reason."""
    config = contents.config or {}
    declared = config.get("base_model_name_or_path") or config.get("model_name") or ""
    return refuse(
        contents,
        method=kind.method,
        problems=(Problem.of(kind.code, kind.message, hint=kind.hint),),
        reason=f"{kind.name}: not converted",
        hints=module_hints(contents),
        base_name=declared if isinstance(declared, str) else "",
    )


def _format(kind: Kind) -> Format:
    recognise: Callable[[Contents], Recognition | None] = partial(recognise_kind, kind)
    read = partial(read_kind, kind)
    return Format(name=kind.name, recognise=recognise, read=read, several_files=True)


FORMATS: tuple[Format, ...] = tuple(_format(kind) for kind in KINDS)
