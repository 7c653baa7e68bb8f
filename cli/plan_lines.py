"""A composition's plan for people: a table of pairs, a heat map, a recommendation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from adaptrix.cli.heat_map import shaded
from adaptrix.cli.output import table
from adaptrix.schema.errors import UsageError

if TYPE_CHECKING:
    from adaptrix.compose.planning import Plan


def plan_lines(plan: Plan, names: Sequence[str]) -> Iterator[str]:
    """What ``compose --plan`` prints."""
    rows = [
        (
            f"{names[row.one]} + {names[row.other]}", row.where, str(row.modules),
            f"{row.cosine:+.3f}", f"{row.overlap:.1%}", f"{row.norm_ratio:.2f}",
            f"{row.sign_conflict:.1%}",
        )
        for row in plan.pairs
    ]  # fmt: skip
    header = ("PAIR", "WHERE", "MODULES", "COSINE", "OVERLAP", "NORMS", "OPPOSED")
    yield from table(header, rows)
    shared = {m.path: abs(m.cosine) for m in plan.modules if m.cosine is not None}
    if shared:
        yield ""
        yield from shaded(shared, "|cosine| of the two updates that are most opposed")
    yield ""
    yield f"rank {plan.rank} would lose {plan.loss:.1%} of the sum's energy"
    if plan.at_risk:
        listed = ", ".join(map(str, plan.at_risk))
        yield f"layers whose updates work against each other: {listed}"
    settings = "".join(f" --param {name}={value:g}" for name, value in plan.parameters.items())
    yield f"recommended: --method {plan.method}{settings}: {plan.reason}"


def write_plot(plan: Plan, path: Path) -> None:
    """Draw the least cosine of every module as a PNG.

    Raises:
        UsageError: matplotlib is not installed, or no two adapters share a module.
    """
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 - heavy, and only for this
    except ImportError as error:
        raise UsageError(
            "matplotlib is needed to plot", where="--plot", hint="pip install matplotlib"
        ) from error
    shown = [m for m in plan.modules if m.cosine is not None and m.layer is not None]
    if not shown:
        raise UsageError("no two adapters share a module: nothing to plot", where="--plot")
    kinds = sorted({module.kind for module in shown})
    layers = sorted({module.layer for module in shown if module.layer is not None})
    values = {(m.layer, m.kind): m.cosine for m in shown if m.cosine is not None}
    grid = [[values.get((layer, kind), float("nan")) for kind in kinds] for layer in layers]
    figure = Figure(figsize=(1.5 + 0.9 * len(kinds), 1.5 + 0.25 * len(layers)))
    axes = figure.add_subplot()
    image = axes.imshow(grid, cmap="RdBu", vmin=-1, vmax=1, aspect="auto")
    axes.set_xticks(range(len(kinds)), kinds, rotation=45, ha="right")
    axes.set_yticks(range(len(layers)), [str(layer) for layer in layers])
    axes.set_ylabel("layer")
    axes.set_title("least cosine of two updates")
    figure.colorbar(image)
    figure.tight_layout()
    figure.savefig(path, format="png", dpi=120)
