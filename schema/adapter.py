"""The canonical adapter: what every format is read into and written from.

One :class:`AdaptedModule` per adapted parameter, in PEFT's orientation: ``A (r, in)``,
``B (out, r)``, ``ΔW = scale · B · A`` of shape ``(out, in)`` (LoRA, Hu et al. 2021,
eq. 3). Nothing is folded while reading: scale, magnitude and bias stay beside the
factors. Paths are module paths of the current transformers class of the base model.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NewType

from adaptrix.schema.canonical import Json
from adaptrix.schema.tensor import LazyTensor

ModulePath = NewType("ModulePath", str)
"""Dotted path of a module in the transformers class, e.g. ``model.layers.0.mlp.fc1``."""


class ModuleKind(enum.StrEnum):
    """What the adapted parameter belongs to."""

    LINEAR = "linear"
    CONV1D = "conv1d_transposed"
    """GPT-2's Conv1D: the base weight is ``(in, out)`` (``fan_in_fan_out``)."""
    EMBEDDING = "embedding"
    """``A (r, vocabulary)``, ``B (width, r)``; ΔW of the base weight is ``(B·A)ᵀ``."""
    CONV = "conv"
    """Convolution: ``A (r, in, *kernel)``, ``B (out, r, 1…)``."""
    PARAMETER = "parameter"
    """One expert's slice of a stacked parameter, at ``<parameter>.<expert>``: ΔW is the slice
    as stored, or its transpose where the class says ``is_transposed``; or a bare 2-D parameter."""


class ScaleRule(enum.StrEnum):
    """How the producer defines the scale."""

    ALPHA_OVER_R = "alpha/r"
    ALPHA_OVER_SQRT_R = "alpha/sqrt(r)"
    ABSOLUTE = "absolute"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """Effective scale of one module and where it comes from.

    Attributes:
        value: The factor ``s`` in ``ΔW = s·B·A``.
        rule: The producer's rule.
        alpha: The producer's alpha; for an absolute scale, ``s·r``.
        rank: The rank that the rule divides by.
    """

    value: float
    rule: ScaleRule
    alpha: float
    rank: int

    @classmethod
    def from_alpha(cls, alpha: float, rank: int, *, rslora: bool = False) -> Scale:
        """``alpha/r``, or ``alpha/√r`` for rsLoRA (Kalajdzievski 2023, theorem 3.2)."""
        if rslora:
            value, rule = alpha / math.sqrt(rank), ScaleRule.ALPHA_OVER_SQRT_R
        else:
            value, rule = alpha / rank, ScaleRule.ALPHA_OVER_R
        return cls(value=value, rule=rule, alpha=float(alpha), rank=rank)

    @classmethod
    def absolute(cls, value: float, rank: int) -> Scale:
        """A scale that is applied as it stands (MLX-LM)."""
        return cls(value=value, rule=ScaleRule.ABSOLUTE, alpha=value * rank, rank=rank)


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptedModule:
    """The update of one parameter of the base model.

    Attributes:
        path: Module path in the current transformers class.
        kind: What kind of module it is.
        source: The module's name in the source file (``…mixer.Wqkv``).
        a: Down factor ``(r, in)``.
        b: Up factor ``(out, r)``.
        scale: Effective scale with its provenance.
        magnitude: DoRA magnitude ``(out,)`` or None (Liu et al. 2024, eq. 5).
        bias_delta: ``lora_B.bias`` ``(out,)``: added to the output times the scale, or None.
    """

    path: ModulePath
    kind: ModuleKind
    source: str
    a: LazyTensor
    b: LazyTensor
    scale: Scale
    magnitude: LazyTensor | None = None
    bias_delta: LazyTensor | None = None

    @property
    def rank(self) -> int:
        """Number of rows of ``A``."""
        return self.a.shape[0]

    @property
    def in_features(self) -> int:
        """Columns of ``A``."""
        return math.prod(self.a.shape[1:])

    @property
    def out_features(self) -> int:
        """Rows of ``B``."""
        return self.b.shape[0]


class ReplacementRole(enum.StrEnum):
    """Why a file carries absolute tensors beside the factors."""

    MODULES_TO_SAVE = "modules_to_save"
    BIAS = "bias"
    EMBEDDING = "embedding"
    """Copy of ``embed_tokens``/``lm_head`` that PEFT saves with a resized vocabulary."""
    TRAINABLE_TOKENS = "trainable_tokens"


@dataclass(frozen=True, slots=True, kw_only=True)
class Replacement:
    """A tensor that replaces a parameter (or rows of it) of the base.

    Attributes:
        parameter: Dotted parameter name, e.g. ``lm_head.weight``.
        tensor: The new value.
        role: Why the file carries it.
        rows: For trainable tokens: the row indices that ``tensor`` replaces; else empty.
    """

    parameter: str
    tensor: LazyTensor
    role: ReplacementRole
    rows: tuple[int, ...] = ()


class BaseRequirement(enum.StrEnum):
    """What the adapter needs of its base beyond fitting it."""

    NONE = "none"
    MERGE = "merge"
    """Exact only together with the base weights (DoRA)."""
    RESIDUAL = "residual"
    """Trained on a modified base (PiSSA, OLoRA, CorDA, LoftQ)."""


CARRIED = "carried"
"""Kind of the modules of an adapter that is kept as it is; their sizes and ranks are 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Carried:
    """An adapter that is kept as it is: its method is no pair of factors.

    Attributes:
        config: The producer's configuration.
        named: Tensors under the names of the producer's file.
        paths: Adapted modules, sorted, in the producer's naming.
    """

    config: Mapping[str, Json]
    named: Mapping[str, LazyTensor]
    paths: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """One adapter in canonical form.

    Attributes:
        modules: Sorted by path, at most one per path.
        replacements: Absolute tensors, sorted by parameter.
        family: transformers' ``model_type`` of the base, ``""`` when unknown.
        base_name: Declared base model, as text; never opened.
        base_revision: Declared revision or ``""``.
        format: Name of the source format (``peft``, ``mlx``, ``gguf``).
        layout: Name of the source's module naming (``phi-l4`` …, ``transformers``).
        method: ``lora``, ``rslora`` or ``dora``; of a carried adapter, its own.
        task_type: PEFT's task type, ``CAUSAL_LM`` when the source names none.
        needs_base: What it needs of its base.
        extra: Producer's settings that change nothing here but must not be lost
            (``init_lora_weights``, ``lora_dropout``, ``peft_version`` …).
        carried: What is kept instead of modules, or None.
    """

    modules: tuple[AdaptedModule, ...]
    replacements: tuple[Replacement, ...] = ()
    family: str = ""
    base_name: str = ""
    base_revision: str = ""
    format: str
    layout: str
    method: str = "lora"
    task_type: str = "CAUSAL_LM"
    needs_base: BaseRequirement = BaseRequirement.NONE
    extra: Mapping[str, Json] = field(default_factory=dict)
    carried: Carried | None = None

    @property
    def obstacle(self) -> str:
        """Why it cannot be added to weights or to other adapters; ``""`` when it can."""
        if self.carried is None:
            return ""
        return f"kept as it is: {self.method} is no low-rank update by itself"

    @property
    def ranks(self) -> tuple[int, ...]:
        """Distinct ranks, ascending."""
        return tuple(sorted({module.rank for module in self.modules}))

    @property
    def parameter_count(self) -> int:
        """Elements in all tensors."""
        if self.carried is not None:
            return sum(tensor.count for tensor in self.carried.named.values())
        factors = sum(m.a.count + m.b.count for m in self.modules)
        extras = sum(
            t.count for m in self.modules for t in (m.magnitude, m.bias_delta) if t is not None
        )
        return factors + extras + sum(r.tensor.count for r in self.replacements)

    def tensors(self) -> dict[str, LazyTensor]:
        """All tensors by canonical name, sorted.

        Names are PEFT's leaves on the canonical path, without ``base_model.model.``:
        ``<path>.lora_A.weight``, ``<path>.lora_B.weight``, ``<path>.lora_B.bias``,
        ``<path>.lora_magnitude_vector``, ``<path>.lora_embedding_A``/``_B``, and the
        parameter name of a replacement. A carried adapter has the producer's names.
        """
        if self.carried is not None:
            return dict(sorted(self.carried.named.items()))
        found: dict[str, LazyTensor] = {}
        for module in self.modules:
            found.update(module_tensors(module))
        for replacement in self.replacements:
            suffix = ""
            if replacement.role is ReplacementRole.TRAINABLE_TOKENS:
                suffix = ".token_adapter.trainable_tokens_delta"
            found[replacement.parameter + suffix] = replacement.tensor
        return dict(sorted(found.items()))


def module_tensors(module: AdaptedModule) -> dict[str, LazyTensor]:
    """Tensors of one module by canonical name."""
    embedding = module.kind is ModuleKind.EMBEDDING
    down, up = ("lora_embedding_A", "lora_embedding_B") if embedding else (
        "lora_A.weight", "lora_B.weight",
    )  # fmt: skip
    named = {f"{module.path}.{down}": module.a, f"{module.path}.{up}": module.b}
    if module.magnitude is not None:
        named[f"{module.path}.lora_magnitude_vector"] = module.magnitude
    if module.bias_delta is not None:
        named[f"{module.path}.lora_B.bias"] = module.bias_delta
    return named
