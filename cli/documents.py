"""The ``--json`` documents that are no report of a lower room, as types.

``docs/generate.py`` publishes a JSON Schema of every entry of :func:`documents`; a test
holds what the commands print against them. Stable: keys are added, never taken away.
"""

from __future__ import annotations

from typing import Any, NotRequired

from typing_extensions import TypedDict

from adaptrix.compose.planning import ModulePlan, PairRow
from adaptrix.registry.diffing import DiffReport
from adaptrix.registry.doctor import DoctorReport
from adaptrix.registry.exporting import LayoutReport
from adaptrix.registry.pushing import PushReport
from adaptrix.registry.remote_pulling import PullAllReport
from adaptrix.registry.remotes import RemoteRow
from adaptrix.registry.reports import (
    ComposeReport,
    ConvertReport,
    LogRow,
    MoveRow,
    PullReport,
    Row,
    SimilarRow,
    VerifyReport,
)
from adaptrix.registry.statistics import StatsReport
from adaptrix.schema.digest import Digest
from adaptrix.schema.record import AdapterRecord
from adaptrix.schema.report import Fidelity, Inspection, Problem, Verdict
from adaptrix.store.fsck import FsckReport
from adaptrix.store.gc import GcReport
from adaptrix.store.rebuild import ReindexReport
from adaptrix.store.usage import Usage


class MethodParameter(TypedDict):
    """A parameter of a merge method; its default is null when it is not used."""

    name: str
    summary: str
    default: float | None


class MethodRow(TypedDict):
    """A merge method."""

    name: str
    summary: str
    reference: str
    spaces: list[str]
    parameters: list[MethodParameter]


class MethodsDocument(TypedDict):
    """``compose --methods``."""

    rows: list[MethodRow]


class ComposePlanDocument(TypedDict):
    """``compose --plan``."""

    adapters: list[str]
    rank: int
    loss: float
    pairs: list[PairRow]
    modules: list[ModulePlan]
    at_risk: list[int]
    method: str
    parameters: dict[str, float]
    reason: str


class WeightRow(TypedDict):
    """A learned weight; its layer is null for modules outside the layers."""

    adapter: str
    layer: int | None
    weight: float


class WeighDocument(TypedDict):
    """``weigh``: losses are means per answer token."""

    recipe: str
    examples: int
    steps: int
    seed: int
    loss_before: float
    loss_after: float
    rows: list[WeightRow]


class GramsDocument(TypedDict):
    """``grams``; ``diagonal`` counts modules of which the diagonal alone was kept."""

    path: str
    modules: int
    diagonal: int
    examples: int
    bytes: int


class InitDocument(TypedDict):
    """``init``."""

    home: str


class RowsDocument(TypedDict):
    """``ls`` and ``search``."""

    rows: list[Row]


class LogDocument(TypedDict):
    """``log``; with ``--moves`` the rows are moves."""

    rows: list[LogRow] | list[MoveRow]


class ReflogDocument(TypedDict):
    """``reflog``."""

    rows: list[MoveRow]


class SimilarDocument(TypedDict):
    """``similar``."""

    rows: list[SimilarRow]


class FileDescriptor(TypedDict):
    """An OCI descriptor."""

    mediaType: str
    digest: str
    size: int
    annotations: dict[str, str]


class ShowDocument(TypedDict):
    """``show``."""

    reference: str
    digest: Digest
    record: AdapterRecord
    files: list[FileDescriptor]
    card: str


class RemotesDocument(TypedDict):
    """``remote``: all remotes after the command."""

    rows: list[RemoteRow]


class LoginDocument(TypedDict):
    """``login``."""

    remote: str
    url: str
    username: str


class TagDocument(TypedDict):
    """``tag``."""

    reference: str
    digest: Digest


class RmDocument(TypedDict):
    """``rm``."""

    reference: str
    removed: bool


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


class DemoAdapter(TypedDict):
    """A pulled sample."""

    name: str
    digest: Digest | None
    format: str
    layout: str
    family: str
    confidence: float
    modules: int
    fidelity: Fidelity
    verdict: Verdict
    seconds: float


class DemoComposition(TypedDict):
    """A composition of samples."""

    reference: str
    digest: Digest | None
    weights: dict[str, float]
    modules: int
    error: float
    fidelity: Fidelity


class DemoExample(TypedDict):
    """A prompt and what the adapter made of it."""

    prompt: str
    answer: str


class DemoScore(TypedDict):
    """Exact match on one task, 0 to 1; ``composed`` is null where it was not measured."""

    task: str
    items: int
    base: float
    adapter: float
    composed: float | None
    passed: bool
    example: DemoExample


class DemoDocument(TypedDict):
    """``demo``."""

    verdict: Verdict
    adapters: list[DemoAdapter]
    compositions: list[DemoComposition]
    scores: list[DemoScore]
    seconds: float


class ErrorFields(TypedDict):
    """What an error says."""

    code: str
    message: str
    hint: str
    where: str


class ErrorDocument(TypedDict):
    """Any command that fails: one document on stderr."""

    error: ErrorFields


def documents() -> dict[str, Any]:
    """Type of the document by the name of its schema's file."""
    return {
        "compose": ComposeReport,
        "compose-methods": MethodsDocument,
        "compose-plan": ComposePlanDocument,
        "rebase": ComposeReport,
        "convert": ConvertReport,
        "demo": DemoDocument,
        "diff": DiffReport,
        "doctor": DoctorReport,
        "du": Usage,
        "error": ErrorDocument,
        "export": ConvertReport,
        "export-layout": LayoutReport,
        "fsck": FsckReport,
        "gc": GcReport,
        "grams": GramsDocument,
        "init": InitDocument,
        "inspect": Inspection,
        "log": LogDocument,
        "login": LoginDocument,
        "ls": RowsDocument,
        "pull": PullReport,
        "pull-all": PullAllReport,
        "push": PushReport,
        "reflog": ReflogDocument,
        "reindex": ReindexReport,
        "remote": RemotesDocument,
        "restore": MoveRow,
        "rm": RmDocument,
        "run": RunDocument,
        "run-batch": BatchDocument,
        "run-compare": CompareDocument,
        "run-dry-run": PlanDocument,
        "search": RowsDocument,
        "show": ShowDocument,
        "similar": SimilarDocument,
        "stats": StatsReport,
        "tag": TagDocument,
        "verify": VerifyReport,
        "weigh": WeighDocument,
    }
