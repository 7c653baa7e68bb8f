"""What a format's reader hands on: factors under the file's own names, nothing dropped.

A :class:`Draft` is the state between a file and the canonical adapter: keys are taken
apart, factors are paired and stand in PEFT's orientation, but module paths are still in
the producer's naming. ``Format`` is the interface that every format fills.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from adaptrix.convert.contents import Contents
from adaptrix.convert.options import ReadOptions
from adaptrix.convert.written import Written
from adaptrix.schema.adapter import (
    Adapter,
    BaseRequirement,
    Carried,
    ModuleKind,
    Replacement,
    Scale,
)
from adaptrix.schema.canonical import Json
from adaptrix.schema.report import Fidelity, IgnoredTensor, Problem
from adaptrix.schema.tensor import LazyTensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Factors:
    """One pair of factors, as :class:`adaptrix.schema.adapter.AdaptedModule` before checks.

    Attributes:
        path: Module path without wrapper prefixes, in the producer's naming.
        source: The module's name in the file.
        a: ``(r, in)``.
        b: ``(out, r)``.
        kind: What is adapted.
        scale: None while alpha is unknown.
        magnitude: DoRA magnitude ``(out,)``.
        bias_delta: ``(out,)``.
    """

    path: str
    source: str
    a: LazyTensor
    b: LazyTensor
    kind: ModuleKind = ModuleKind.LINEAR
    scale: Scale | None = None
    magnitude: LazyTensor | None = None
    bias_delta: LazyTensor | None = None

    @property
    def rank(self) -> int:
        """Rows of ``A``; 0 for a scalar, which no check lets through."""
        return self.a.shape[0] if self.a.shape else 0

    def tensors(self) -> tuple[LazyTensor, ...]:
        """The tensors that are there."""
        every = (self.a, self.b, self.magnitude, self.bias_delta)
        return tuple(t for t in every if t is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """Everything one source says.

    Attributes:
        method: ``lora``, ``dora``, ``prompt_tuning`` …
        total: Number of tensors in all files that were read.
        factors: Paired factors.
        replacements: Absolute tensors, parameters in the producer's naming.
        ignored: Tensors left out, with the reason.
        unknown: Tensors that no rule explains.
        problems: What was found while reading.
        base_name: Declared base model or ``""``.
        base_revision: Declared revision or ``""``.
        base_class: Class that the producer says it adapted, or ``""``.
        architecture: Family that the content itself states (GGUF), or ``""``.
        layout: Layout that the format implies, or ``""`` when the paths decide.
        task_type: PEFT task type or ``""``.
        needs_base: What the adapter needs of its base.
        fan_in_fan_out: Whether the producer says that base weights are ``(in, out)``.
        hints: Module paths of a refused method, for telling the family.
        fidelity: Whether the factors are the file's own, or were computed from them.
        extra: Settings to keep.
        carried: What is kept as it is, without factors.
    """

    method: str = "lora"
    total: int
    factors: tuple[Factors, ...] = ()
    replacements: tuple[Replacement, ...] = ()
    ignored: tuple[IgnoredTensor, ...] = ()
    unknown: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()
    base_name: str = ""
    base_revision: str = ""
    base_class: str = ""
    architecture: str = ""
    layout: str = ""
    task_type: str = ""
    needs_base: BaseRequirement = BaseRequirement.NONE
    fan_in_fan_out: bool = False
    hints: tuple[str, ...] = ()
    fidelity: Fidelity = Fidelity.EXACT
    extra: Mapping[str, Json] = field(default_factory=dict)
    carried: Carried | None = None

    @property
    def used(self) -> int:
        """How many tensors are in ``factors`` and ``replacements``."""
        return self.total - len(self.ignored) - len(self.unknown)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recognition:
    """How well a format explains a source.

    Attributes:
        score: From 0 to 1; the highest wins, ties go to the earlier format.
        evidence: What in the content says so.
    """

    score: float
    evidence: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """One file format.

    Attributes:
        name: As in ``inspect`` and ``--to``.
        recognise: Tells from content alone; None when it is something else.
        read: Takes the content apart; never raises for content it recognised.
        write: Writes a canonical adapter; None for what can only be read or recognised.
        several_files: Whether one adapter may be several files that are no shards.
    """

    name: str
    recognise: Callable[[Contents], Recognition | None]
    read: Callable[[Contents, ReadOptions], Draft]
    write: Callable[[Adapter], Written] | None = None
    several_files: bool = False


def refuse(
    contents: Contents,
    *,
    method: str,
    problems: Iterable[Problem],
    reason: str,
    hints: Iterable[str] = (),
    base_name: str = "",
) -> Draft:
    """A draft of something recognised and refused: every tensor ignored with ``reason``."""
    names = [name for file in contents.tensor_files for name in file.tensors]
    return Draft(
        method=method,
        total=len(names),
        ignored=tuple(IgnoredTensor(name=name, reason=reason) for name in names),
        problems=tuple(problems),
        hints=tuple(hints),
        base_name=base_name,
    )


def placed_draft(
    contents: Contents,
    placed: Sequence[Factors],
    unknown: tuple[str, ...],
    noted: Iterable[Problem],
    obstacles: Sequence[Problem],
    *,
    base_name: str,
    layout: str,
) -> Draft:
    """Factors of a decoder at their places in the base; refused where one has none.

    Args:
        contents: The source.
        placed: Factors under the names of the base's class.
        unknown: Tensors that are no factors.
        noted: Problems to report in any case.
        obstacles: Why something could not be placed; the first is reported.
        base_name: The declared base.
        layout: Name of the source's naming.
    """
    if obstacles:
        return refuse(
            contents,
            method="lora",
            problems=(*noted, obstacles[0]),
            reason="not placed in the base model",
            base_name=base_name,
        )
    return Draft(
        total=len(contents.tensors),
        factors=tuple(placed),
        unknown=unknown,
        problems=tuple(noted),
        base_name=base_name,
        task_type="CAUSAL_LM",
        layout=layout,
    )
