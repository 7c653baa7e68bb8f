"""The demo: the journey of a user, through the same code, in a temporary home."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adaptrix.cli.output import Output, table
from adaptrix.cli.quieting import quiet_libraries
from adaptrix.registry.registry import Registry
from adaptrix.registry.settings import Settings
from adaptrix.samples import ADAPTERS, BASE_NAME
from adaptrix.samples.composition import COMPOSED, WEIGHTS
from adaptrix.samples.metrics import exact_match
from adaptrix.samples.tasks import Item, read_heldout
from adaptrix.schema.report import Verdict

if TYPE_CHECKING:
    from adaptrix.loader.session import Session
    from adaptrix.registry.reports import PullReport

BASE_AT_MOST = 0.10
ADAPTER_AT_LEAST = 0.90
COMPOSED_AT_LEAST = 0.80
MAX_NEW_TOKENS = 24
BATCH = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskScore:
    """Exact match on the held-out items of one task, 0 to 1; None where not measured."""

    task: str
    items: int
    base: float
    adapter: float
    composed: float | None
    prompt: str
    answer: str

    @property
    def passed(self) -> bool:
        """Whether the adapter has its skill, and the composition keeps it."""
        alone = self.base <= BASE_AT_MOST and self.adapter >= ADAPTER_AT_LEAST
        return alone and (self.composed is None or self.composed >= COMPOSED_AT_LEAST)


def run_demo(out: Output) -> int:
    """Run the journey and return the exit status."""
    started = time.perf_counter()
    os.environ["HF_HUB_OFFLINE"] = "1"
    with tempfile.TemporaryDirectory(prefix="adaptrix-demo-") as folder:
        settings = Settings(home=Path(folder) / "home", offline=True)
        with Registry(settings=settings) as registry:
            pulled = list(_pull(registry, out))
            composed = _compose(registry, out)
            scores = list(_measure(registry, out))
    verdicts_pass = all(row["verdict"] is Verdict.PASS for row in pulled)
    passed = verdicts_pass and all(score.passed for score in scores)
    seconds = time.perf_counter() - started
    lines = [*_score_lines(scores), "", f"{'PASS' if passed else 'FAIL'} in {seconds:.0f} s"]
    out.document(
        {
            "verdict": Verdict.PASS if passed else Verdict.FAIL,
            "adapters": pulled,
            "compositions": [composed],
            "scores": [_score_row(score) for score in scores],
            "seconds": seconds,
        },
        lines=lines,
        ids=["PASS" if passed else "FAIL"],
    )
    return 0 if passed else 1


def _pull(registry: Registry, out: Output) -> Iterator[dict[str, Any]]:
    out.say(f"Five adapters for {BASE_NAME}, each saved by another tool:\n")
    for sample in ADAPTERS:
        started = time.perf_counter()
        report = registry.pull(
            str(sample.path),
            name=sample.name,
            description=sample.description,
            domain=sample.domain,
            capabilities=sample.capabilities,
        )
        row = _pull_row(sample.name, report, time.perf_counter() - started)
        out.say(
            f"  pull {sample.name:9} {report.format:5} {report.layout:13} {report.architecture} "
            f"({report.confidence:.3f})  {report.modules:2} modules  {report.fidelity}  "
            f"{report.verdict}  {row['seconds']:.2f} s",
        )
        yield row


def _pull_row(name: str, report: PullReport, seconds: float) -> dict[str, Any]:
    return {
        "name": name,
        "digest": report.digest,
        "format": report.format,
        "layout": report.layout,
        "family": report.architecture,
        "confidence": report.confidence,
        "modules": report.modules,
        "fidelity": report.fidelity,
        "verdict": report.verdict,
        "seconds": seconds,
    }


def _compose(registry: Registry, out: Output) -> dict[str, Any]:
    report = registry.compose(list(WEIGHTS.items()), output=COMPOSED)
    recipe = " + ".join(f"{weight:g}·{name}" for name, weight in WEIGHTS.items())
    out.say(
        f"\n  compose {report.reference} = {recipe}: {report.modules} modules, "
        f"relative error {report.error:.1g}\n",
    )
    return {
        "reference": report.reference,
        "digest": report.digest,
        "weights": WEIGHTS,
        "modules": report.modules,
        "error": report.error,
        "fidelity": report.fidelity,
    }


def _measure(registry: Registry, out: Output) -> Iterator[TaskScore]:
    quiet_libraries()
    from adaptrix.loader.plan import WeightedAdapter  # noqa: PLC0415
    from adaptrix.loader.session import Session  # noqa: PLC0415

    names = [*(sample.name for sample in ADAPTERS), COMPOSED]
    adapters = [WeightedAdapter(name=name, adapter=registry.open(name).adapter) for name in names]
    session = Session.open(BASE_NAME)
    session.known = {entry.name: entry for entry in adapters}
    for sample in ADAPTERS:
        exercises = read_heldout(sample.name)
        base, _ = _score(session, exercises, {})
        adapter, first = _score(session, exercises, {sample.name: 1.0})
        composed = None
        if sample.name in WEIGHTS:
            composed, _ = _score(session, exercises, {COMPOSED: 1.0})
        yield TaskScore(
            task=sample.name,
            items=len(exercises),
            base=base,
            adapter=adapter,
            composed=composed,
            prompt=exercises[0].prompt,
            answer=first,
        )


def _score(session: Session, exercises: list[Item], weights: dict[str, float]) -> tuple[float, str]:
    """Exact match with a set of adapters in effect, and the first completion."""
    from adaptrix.loader.generate import GenerateOptions  # noqa: PLC0415

    session.use(weights)
    session.self_check()
    options = GenerateOptions(max_new_tokens=MAX_NEW_TOKENS)
    texts: list[str] = []
    for start in range(0, len(exercises), BATCH):
        prompts = [item.prompt for item in exercises[start : start + BATCH]]
        texts += [done.text for done in session.generate(prompts, options)]
    right = sum(exact_match(text, item) for text, item in zip(texts, exercises, strict=True))
    return right / len(exercises), texts[0].strip()


def _score_lines(scores: list[TaskScore]) -> list[str]:
    rows = [
        (
            score.task,
            score.items,
            f"{score.base:.1%}",
            f"{score.adapter:.1%}",
            "-" if score.composed is None else f"{score.composed:.1%}",
            "PASS" if score.passed else "FAIL",
        )
        for score in scores
    ]
    lines = ["Exact match on held-out items:", ""]
    lines += table(("TASK", "ITEMS", "BASE", "ADAPTER", COMPOSED.upper(), ""), rows)
    lines += ["", "One answer each:", ""]
    for score in scores:
        lines += [f"  {score.prompt}", f"    -> {score.answer}"]
    return lines


def _score_row(score: TaskScore) -> dict[str, Any]:
    return {
        "task": score.task,
        "items": score.items,
        "base": score.base,
        "adapter": score.adapter,
        "composed": score.composed,
        "passed": score.passed,
        "example": {"prompt": score.prompt, "answer": score.answer},
    }
