"""The ``--json`` documents that are no report of a lower room, as types.

``docs/generate.py`` publishes a JSON Schema of every entry of :func:`documents`; a test
holds what the commands print against them. Stable: keys are added, never taken away.
"""

from __future__ import annotations

from typing import Any

from typing_extensions import TypedDict

from adaptrix.cli.run_documents import (
    BatchDocument,
    CompareDocument,
    PlanDocument,
    RunDocument,
    SaveDocument,
)
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
from adaptrix.schema.report import Fidelity, Inspection, Verdict
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
        "run-save": SaveDocument,
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
