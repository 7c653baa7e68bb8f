"""What ``run --json`` prints, in each of its forms; see :mod:`adaptrix.cli.documents`."""

from __future__ import annotations

from typing import Any, NotRequired

from typing_extensions import TypedDict

from adaptrix.schema.report import Problem, Verdict


class UsedAdapter(TypedDict):
    """An adapter of a run."""

    reference: str
    digest: str
    weight: float


class RunPlace(TypedDict):
    """Where and how a run computed."""

    base: str
    base_config_digest: str
    mode: str
    dtype: str
    compute_dtype: str
    device: str
    peak_memory_bytes: int
    peak_device_memory_bytes: int | None


class RunDocument(RunPlace):
    """``run`` with a prompt; ``--batch``, ``--compare`` and ``--dry-run`` print others."""

    text: str
    finish: str
    adapters: list[UsedAdapter]
    seed: int
    tokens: int
    timings_s: dict[str, float]
    tokens_per_s: float
    survival: dict[str, Any]
    verdict: Verdict
    problems: list[Problem]


class SaveDocument(RunPlace):
    """``run --save`` without a prompt: the folder that was written."""

    path: str
    bytes: int
    adapters: list[UsedAdapter]
    timings_s: dict[str, float]
    survival: dict[str, Any]
    verdict: Verdict
    problems: list[Problem]


class BatchRow(TypedDict):
    """One row of ``run --batch``; without ``--json`` a line of its own."""

    index: int
    id: NotRequired[Any]
    text: str
    adapters: list[UsedAdapter]
    seed: int
    tokens: int
    finish: str


class BatchDocument(RunPlace):
    """``run --batch --json``."""

    rows: list[BatchRow]
    tokens: int
    timings_s: dict[str, float]
    tokens_per_s: float


class ComparedText(TypedDict):
    """One completion of a comparison; ``kl_nats`` is KL(it ‖ base) along the base's text."""

    adapters: str
    text: str
    tokens: int
    kl_nats: list[float]
    mean_kl_nats: float


class CompareDocument(RunPlace):
    """``run --compare``."""

    rows: list[ComparedText]


class PlannedShare(TypedDict):
    """One adapter's part in a module: it adds ``weight · scale · B·A``."""

    adapter: str
    weight: float
    rank: int
    scale: float
    dora: bool


class PlannedModule(TypedDict):
    """A module that would change."""

    path: str
    in_features: int
    out_features: int
    rank: int
    adapters: list[PlannedShare]


class PlannedReplacement(TypedDict):
    """A parameter that an adapter brings whole."""

    parameter: str
    adapter: str
    role: str


class PlannedSet(TypedDict):
    """What one set of adapters would do, and what it would take."""

    read_bytes: int
    written_bytes: int
    memory_bytes: int
    factor_bytes: int
    modules: list[PlannedModule]
    replacements: list[PlannedReplacement]


class PlanDocument(TypedDict):
    """``run --dry-run``: the types a base is held in, and one set or, for a batch, several."""

    plan: list[str]
    base: str
    mode: str
    device: str
    stored_dtype: str
    dtype: str
    compute_dtype: str
    base_bytes: int
    memory_bytes: int
    factor_bytes: int
    sets: list[PlannedSet]
