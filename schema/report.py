"""Verdicts, problems and what ``inspect`` says. Pure values; see ``problems`` for codes."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from adaptrix.schema.adapter import BaseRequirement
from adaptrix.schema.problems import PROBLEM_CODES, Severity


class Verdict(enum.StrEnum):
    """Outcome of a check."""

    PASS = "PASS"
    FAIL = "FAIL"
    INCONCLUSIVE = "INCONCLUSIVE"

    @property
    def exit_status(self) -> int:
        """Exit status of a command whose outcome this is."""
        return {"PASS": 0, "FAIL": 1, "INCONCLUSIVE": 3}[self.value]


class Fidelity(enum.StrEnum):
    """How a conversion relates to its source."""

    EXACT = "exact"
    """Copies, slices and permutations only: the same ΔW bit for bit."""
    ROUNDING = "rounding"
    """Algebraically exact, rounded once to the output's dtype."""
    APPROXIMATE = "approximate"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Something a user should know.

    Attributes:
        code: A key of :data:`adaptrix.schema.problems.PROBLEM_CODES`.
        severity: error, warning or note.
        where: Tensor, module or file; ``""`` for the whole.
        message: What was wanted and what was found.
        hint: What to do next.
    """

    code: str
    severity: Severity
    where: str
    message: str
    hint: str

    @classmethod
    def of(cls, code: str, message: str, *, where: str = "", hint: str = "") -> Problem:
        """A problem with the severity and default hint of its code.

        Raises:
            KeyError: ``code`` is not in the table.
        """
        spec = PROBLEM_CODES[code]
        return cls(
            code=code, severity=spec.severity, where=where, message=message, hint=hint or spec.hint
        )


def verdict_of(problems: tuple[Problem, ...] | list[Problem]) -> Verdict:
    """FAIL for any definite error, else INCONCLUSIVE for any open question, else PASS."""
    outcomes = {PROBLEM_CODES[problem.code].outcome for problem in problems}
    if "FAIL" in outcomes:
        return Verdict.FAIL
    return Verdict.INCONCLUSIVE if "INCONCLUSIVE" in outcomes else Verdict.PASS


@dataclass(frozen=True, slots=True, kw_only=True)
class FormatReport:
    """Which file format it is.

    Attributes:
        name: ``peft``, ``mlx``, ``gguf``, … or ``unknown``.
        method: ``lora``, ``rslora``, ``dora``, ``prompt_tuning``, ``full_checkpoint`` …
        evidence: What in the content says so.
    """

    name: str
    method: str
    evidence: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A family that the content may belong to; probabilities sum to at most 1."""

    family: str
    probability: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchitectureReport:
    """Which model family and module naming the content is made for.

    Attributes:
        family: transformers' ``model_type``, or ``unknown``.
        layout: Module naming: ``transformers``, ``phi-l1`` … ``phi-l5``.
        confidence: Probability of ``family``.
        candidates: All candidates, most probable first.
        evidence: What in the content says so.
    """

    family: str
    layout: str
    confidence: float
    candidates: tuple[Candidate, ...] = ()
    evidence: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseCandidate:
    """A known base that the content may be made for; probabilities sum to at most 1."""

    name: str
    probability: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseModelReport:
    """Base models: the declared one (evidence, never proof) and those that fit by shape.

    Attributes:
        declared: Name in the file, or None.
        matches: Known bases that fit, the likeliest first.
        candidates: The likeliest of them with their probabilities; bases with the same
            dimensions share, and what is left is for bases that nobody has listed.
        compatible: Whether it fits the base asked for (or the declared one when known);
            None when that could not be checked.
    """

    declared: str | None
    matches: tuple[str, ...] = ()
    compatible: bool | None = None
    candidates: tuple[BaseCandidate, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleReport:
    """One adapted module.

    Attributes:
        path: Canonical path.
        source: Name in the file.
        kind: ``linear``, ``embedding`` …
        in_features: Columns of ``A``.
        out_features: Rows of ``B``.
        rank: Rows of ``A``.
        alpha: Producer's alpha, None when unknown.
        scale: Effective scale, None when unknown.
    """

    path: str
    source: str
    kind: str
    in_features: int
    out_features: int
    rank: int
    alpha: float | None
    scale: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class IgnoredTensor:
    """A tensor that is deliberately not used, with the reason."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorAccount:
    """Every tensor of every file: used, ignored with a reason, or unknown.

    ``total == used + len(ignored) + len(unknown)`` always holds.
    """

    total: int
    used: int
    ignored: tuple[IgnoredTensor, ...] = ()
    unknown: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """What ``inspect`` says about a source; field meanings as in the CLI contract.

    ``needs_base`` is what the adapter needs of its base beyond fitting it.
    """

    source: str
    verdict: Verdict
    format: FormatReport
    architecture: ArchitectureReport
    base_model: BaseModelReport
    layers: tuple[int, ...]
    parameters: int
    bytes: int
    dtypes: tuple[str, ...]
    modules: tuple[ModuleReport, ...]
    tensors: TensorAccount
    convertible: bool
    fidelity: Fidelity
    problems: tuple[Problem, ...] = ()
    needs_base: BaseRequirement = BaseRequirement.NONE
