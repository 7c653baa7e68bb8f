"""Does composing help? Exact match of base, parents and every method, on the samples.

``python -m adaptrix.samples.composed_skills`` prints two tables, for math + code and for all
five, and draws them with ``--plot``. Every setting of a method is tried on validation items;
the one with the best mean over the tasks is measured on held-out items. Each of three seeds
draws other items, other masks and another order of examples. About an hour on one core.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from adaptrix.cli.quieting import quiet_libraries
from adaptrix.compose.combine import combine
from adaptrix.compose.inputs import Input
from adaptrix.compose.tensors import held
from adaptrix.convert.reading import ReadOptions, read_adapter
from adaptrix.convert.source import open_path
from adaptrix.loader.examples import Example, tokens_of
from adaptrix.loader.generate import GenerateOptions
from adaptrix.loader.grams import input_grams
from adaptrix.loader.learning import learn_weights
from adaptrix.loader.plan import WeightedAdapter
from adaptrix.loader.session import Session
from adaptrix.samples import ADAPTERS, BASE_NAME
from adaptrix.samples.metrics import score
from adaptrix.samples.tasks import Item, items
from adaptrix.schema.adapter import Adapter
from adaptrix.schema.errors import AdaptrixError
from adaptrix.schema.recipe import WeightRule

SETS = (("math", "code"), ("math", "instruct", "news", "code", "qa"))
PLAIN = ("base", "best parent", "simple average")
SEEDS = (0, 1, 2)
VALIDATION, HELD_OUT, LEARNED_FROM = 40, 100, 64
SUMS = (0.5, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2)
Scores = Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One way to compose: a method, a weight for all, parameters."""

    method: str
    weight: float = 1.0
    parameters: Mapping[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        named = {"w": self.weight, **self.parameters}
        return " ".join(f"{name}={value:g}" for name, value in named.items())


def _grid(method: str, weights: Sequence[float] = (1.0,), **more: Sequence[float]) -> list[Setting]:
    return [
        Setting(method=method, weight=weight, parameters=dict(zip(more, values, strict=True)))
        for weight, *values in itertools.product(weights, *more.values())
    ]


DENSITIES, SCALES = (0.3, 0.7, 1.0), (1.0, 1.5, 2.0)
WEIGHTS = (0.7, 0.9, 1.0, 1.1)
GRIDS: Mapping[str, Sequence[Setting]] = {
    grid[0].method: grid
    for grid in (
        _grid("linear", SUMS),
        _grid("svd", SUMS, rank=(8,)),
        _grid("slerp"), _grid("nuslerp"), _grid("multislerp"), _grid("karcher"),
        _grid("model_stock"),
        _grid("ties", density=DENSITIES, scale=SCALES),
        _grid("ties@dense", density=(0.3, 1.0), scale=(1.0, 2.0), rank=(32,)),
        _grid("core_space", density=DENSITIES, scale=SCALES),
        _grid("knots", density=DENSITIES, scale=SCALES),
        _grid("dare_linear", WEIGHTS, density=(0.5, 0.9)),
        _grid("dare_ties", density=(0.5, 0.9), scale=SCALES),
        _grid("della", density=(0.5, 0.9), scale=SCALES),
        _grid("breadcrumbs", WEIGHTS, density=(0.5, 0.9)),
        _grid("magnitude_prune", WEIGHTS, density=(0.5, 0.9)),
        _grid("sce", density=(0.5, 1.0), scale=(1.0, 2.0)),
        _grid("tsv_m", SUMS),
        _grid("iso_c", scale=(0.5, 1.0, 1.5, 2.0)),
        _grid("iso_cts", scale=(0.5, 1.0, 1.5, 2.0)),
        _grid("cart", WEIGHTS, keep=(0.5, 1.0)),
        _grid("ctm", density=(0.5, 1.0), scale=SCALES),
        _grid("pico", (1.0, 1.5, 2.0)),
        _grid("pico+ties", (1.0, 1.5, 2.0), density=(0.5, 1.0)),
        _grid("regmean", (1.0, 1.5, 2.0, 3.0)),
        _grid("learned"),
        _grid("compat:peft-linear", SUMS),
        _grid("compat:peft-svd", SUMS),
        _grid("compat:peft-ties", (1.0, 2.0), density=DENSITIES),
        _grid("compat:peft-dare_linear", (0.5, 1.0), density=(0.5, 0.9)),
        _grid("compat:peft-magnitude_prune", (0.5, 1.0), density=(0.5, 0.9)),
    )
}  # fmt: skip


class Bench:
    """The base, the five adapters, and items to measure them on."""

    def __init__(self) -> None:
        read = {
            sample.name: read_adapter(open_path(sample.path), ReadOptions()).adapter
            for sample in ADAPTERS
        }
        self.adapters: dict[str, Adapter] = {n: a for n, a in read.items() if a is not None}
        self.session = Session.open(BASE_NAME)
        self.grams: dict[str, dict[str, torch.Tensor]] = {}

    def scores(self, chosen: Adapter | None, tasks: Sequence[str], split: str, seed: int) -> Scores:
        """Exact match by task; on validation items, of the reference answers alone."""
        count = VALIDATION if split == "validation" else HELD_OUT
        known = () if chosen is None else (WeightedAdapter(name="it", adapter=chosen),)
        self.session.known = {entry.name: entry for entry in known}
        self.session.use(dict.fromkeys(self.session.known, 1.0))
        found = {}
        for task in tasks:
            drawn = items(task, split, count, seed)
            # What one pass finds to be the greedy answer need not be generated.
            left = [
                item for item, right in zip(drawn, self._greedy(drawn), strict=True) if not right
            ]
            solved = float(len(drawn) - len(left))
            if left and split == "heldout":
                prompts = [item.prompt for item in left]
                done = self.session.generate(prompts, GenerateOptions(max_new_tokens=24))
                solved += len(left) * score([one.text for one in done], left)
            found[task] = solved / len(drawn)
        return found

    @torch.inference_mode()
    def _greedy(self, drawn: Sequence[Item]) -> list[bool]:
        """Whether the reference answer is what greedy decoding gives, token by token."""
        base = self.session.base
        examples = [Example(prompt=item.prompt, answer=item.answer) for item in drawn]
        batch = tokens_of(base.tokenizer, examples, base.device)
        logits = base.model(input_ids=batch.ids, attention_mask=batch.mask, use_cache=False).logits
        wanted = batch.labels[:, 1:]
        right: list[bool] = ((logits[:, :-1].argmax(-1) == wanted) | (wanted < 0)).all(1).tolist()
        return right

    def composed(self, tasks: Sequence[str], setting: Setting, seed: int) -> Adapter:
        """The adapter that a setting makes.

        Raises:
            AdaptrixError: the method refuses these adapters.
        """
        if setting.method == "learned":
            return self._learned(tasks, seed)
        grams = self._grams(tasks) if setting.method == "regmean" else {}
        inputs = [
            Input(
                adapter=self.adapters[task],
                weight=setting.weight,
                grams={path: held(gram, path) for path, gram in grams.get(task, {}).items()},
            )
            for task in tasks
        ]
        return combine(inputs, setting.method, setting.parameters, seed=seed).adapter

    def _learned(self, tasks: Sequence[str], seed: int) -> Adapter:
        """Weights by layer from a few training items of every task."""
        self.session.detach()
        start = [
            WeightedAdapter(name=task, adapter=self.adapters[task], weight=1.0) for task in tasks
        ]
        examples = [one for task in tasks for one in _examples(task, seed)]
        found = learn_weights(self.session.base, start, examples, steps=60, seed=seed)
        return combine([
            Input(adapter=self.adapters[task], rules=tuple(
                WeightRule(weight=weight, layers=(layer, layer))
                for layer, weight in found.weights[task].items() if layer is not None
            ))
            for task in tasks
        ]).adapter  # fmt: skip

    def _grams(self, tasks: Sequence[str]) -> Mapping[str, Mapping[str, torch.Tensor]]:
        paths = sorted({m.path for task in self.adapters for m in self.adapters[task].modules})
        for task in tasks:
            if task not in self.grams:
                own = WeightedAdapter(name=task, adapter=self.adapters[task])
                self.session.known = {task: own}
                self.session.use({task: 1.0})
                self.grams[task] = input_grams(self.session, _examples(task, 0), paths)
        return self.grams


def _examples(task: str, seed: int) -> list[Example]:
    chosen = items(task, "train", LEARNED_FROM, seed)
    return [Example(prompt=item.prompt, answer=item.answer) for item in chosen]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of a table: scores by seed and task, or why there are none."""

    name: str
    chosen: tuple[str, ...] = ()
    scores: tuple[Scores, ...] = ()
    refused: str = ""

    @property
    def means(self) -> list[float]:
        """Mean over the tasks, by seed."""
        return [statistics.fmean(found.values()) for found in self.scores]

    @property
    def mean(self) -> float:
        """Mean over tasks and seeds; -1 where refused."""
        return statistics.fmean(self.means) if self.scores else -1.0


def measure(bench: Bench, tasks: Sequence[str], name: str) -> Row:
    """Base, best parent, simple average, or a method."""
    if name == "best parent":
        rows = [_fixed(bench, tasks, f"{name} ({task})", bench.adapters[task]) for task in tasks]
        return max(rows, key=lambda row: row.mean)
    if name == "base":
        return _fixed(bench, tasks, name, None)
    if name == "simple average":
        plain = Setting(method="linear", weight=1 / len(tasks))
        return _fixed(bench, tasks, name, bench.composed(tasks, plain, 0))
    try:
        return _tuned(bench, tasks, GRIDS[name])
    except AdaptrixError as error:
        return Row(name=name, refused=str(error).partition("\n")[0])


def _fixed(bench: Bench, tasks: Sequence[str], name: str, made: Adapter | None) -> Row:
    found = tuple(bench.scores(made, tasks, "heldout", seed) for seed in SEEDS)
    return Row(name=name, scores=found)


def _tuned(bench: Bench, tasks: Sequence[str], grid: Sequence[Setting]) -> Row:
    chosen, scores = [], []
    for seed in SEEDS:
        tried = [
            (statistics.fmean(bench.scores(made, tasks, "validation", seed).values()), -index, made)
            for index, made in enumerate(bench.composed(tasks, one, seed) for one in grid)
        ]
        _, index, made = max(tried, key=lambda entry: entry[:2])
        chosen.append(str(grid[-index]))
        scores.append(bench.scores(made, tasks, "heldout", seed))
    return Row(name=grid[0].method, chosen=tuple(chosen), scores=tuple(scores))


def lines(rows: Sequence[Row], tasks: Sequence[str]) -> Iterator[str]:
    """A Markdown table, the best first."""
    yield f"| | {' | '.join(tasks)} | mean | by seed | chosen on validation |"
    yield "|---|" + "---|" * (len(tasks) + 3)
    for row in sorted(rows, key=lambda one: -one.mean):
        if row.refused:
            yield f"| {row.name} | {' | '.join('–' for _ in tasks)} | – | | refuses: {row.refused} |"
            continue
        cells = [f"{statistics.fmean(found[task] for found in row.scores):.1%}" for task in tasks]
        seeds = ", ".join(f"{mean:.1%}" for mean in row.means)
        yield (
            f"| {row.name} | {' | '.join(cells)} | {row.mean:.1%} | {seeds} | "
            f"{'; '.join(dict.fromkeys(row.chosen))} |"
        )


def draw(tables: Mapping[str, Sequence[Row]], path: Path) -> None:
    """Bars with the range over seeds."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - only to plot

    figure = Figure(figsize=(11, 8))
    for number, (title, rows) in enumerate(tables.items(), 1):
        axes: Any = figure.add_subplot(1, len(tables), number)
        shown = sorted((row for row in rows if row.scores), key=lambda row: row.mean)
        means = [row.mean for row in shown]
        spread = [
            [max(0.0, mean - min(row.means)) for mean, row in zip(means, shown, strict=True)],
            [max(0.0, max(row.means) - mean) for mean, row in zip(means, shown, strict=True)],
        ]
        plain = {"base", "simple average"}
        colours = [
            "#999999" if row.name in plain or row.name.startswith("best parent") else "#3465a4"
            for row in shown
        ]
        axes.barh([row.name for row in shown], means, xerr=spread, color=colours)
        axes.set_title(title, fontsize=10)
        axes.set_xlim(0, 1)
        axes.tick_params(labelsize=8)
        axes.set_xlabel("exact match, mean of the tasks")
    figure.tight_layout()
    figure.savefig(path, format="png", dpi=100)


def _read(path: Path | None) -> dict[str, dict[str, Row]]:
    """Rows of an earlier run, by set and name."""
    if path is None or not path.exists():
        return {}
    found = json.loads(path.read_text(encoding="utf-8"))
    return {
        title: {name: Row(**row) for name, row in rows.items()} for title, rows in found.items()
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--plot", type=Path, help="PNG to draw")
    parser.add_argument("--scores", type=Path, help="JSON file to continue and to keep")
    parser.add_argument("--methods", nargs="*", default=[*PLAIN, *GRIDS], help="only these")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    quiet_libraries()
    tables = _read(arguments.scores)
    bench = Bench() if arguments.methods else None
    for tasks, name in itertools.product(SETS, arguments.methods if bench else ()):
        rows = tables.setdefault(" + ".join(tasks), {})
        if bench and name not in rows:
            rows[name] = measure(bench, tasks, name)
            print(f"{len(tasks)}: {name} {rows[name].mean:.3f}", file=sys.stderr, flush=True)
            if arguments.scores:
                document = {title: {n: asdict(row) for n, row in table.items()}
                            for title, table in tables.items()}  # fmt: skip
                arguments.scores.write_text(json.dumps(document, indent=1), encoding="utf-8")
    for title, table in tables.items():
        print(f"**{title}**", "", *lines(list(table.values()), title.split(" + ")), "", sep="\n")
    if arguments.plot:
        draw({title: list(table.values()) for title, table in tables.items()}, arguments.plot)


if __name__ == "__main__":
    main()
