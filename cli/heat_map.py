"""A diff as lines for people, with a heat map: layers down, kinds of modules across."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from adaptrix.cli.output import table

if TYPE_CHECKING:
    from adaptrix.registry.diffing import DiffReport, ModuleDiff

SHADES = " ░▒▓█"
MODULES_SHOWN = 12
_LAYER = re.compile(r"(?:^|\.)(\d+)(?:\.|$)")


def diff_lines(report: DiffReport) -> Iterator[str]:
    """What ``diff`` prints."""
    yield f"a {report.a}  {report.digest_a.short}"
    yield f"b {report.b}  {report.digest_b.short}"
    if report.same_tensors:
        yield f"the same tensors, bit for bit ({len(report.modules)} modules)"
    else:
        yield (
            f"{_counts(report)}; cosine {_number(report.cosine)}, "
            f"‖a-b‖/(‖a‖+‖b‖) {report.share:.3g}"
        )
        yield ""
        yield from heat_map(report.modules)
        yield ""
        yield from _module_table(report.modules)
    for kind, entries in (("replaces", report.replacements), ("says", report.fields)):
        for entry in entries:
            yield f"{kind} {entry.field}: {entry.a or '-'} -> {entry.b or '-'}"
    yield from report.card


def heat_map(modules: tuple[ModuleDiff, ...]) -> Iterator[str]:
    """One cell per module, shaded by its share: blank is the same, full is apart."""
    yield from shaded(
        {module.path: module.share for module in modules},
        "share of the two updates that is not common",
    )


def shaded(values: Mapping[str, float], meaning: str) -> Iterator[str]:
    """Layers down, kinds of modules across, each cell shaded by a value from 0 to 1."""
    cells = {(_layer(path), _kind(path)): value for path, value in values.items()}
    columns = sorted({kind for _, kind in cells})
    rows = sorted({layer for layer, _ in cells}, key=lambda text: (len(text), text))
    width = max(len(row) for row in rows) if rows else 0
    for number, column in enumerate(columns):
        yield f"{'':{width}}  {'|  ' * number}{column}"
    for row in rows:
        shown = [_cell(cells.get((row, column))) for column in columns]
        yield f"{row:{width}}  {' '.join(shown)}".rstrip()
    yield f"{'':{width}}  0 {SHADES[1:]} 1: {meaning}; · none"


def _cell(share: float | None) -> str:
    if share is None:
        return "· "
    return SHADES[min(len(SHADES) - 1, int(share * len(SHADES)))] * 2


def _layer(path: str) -> str:
    found = _LAYER.search(path)
    return found[1] if found else "-"


def _kind(path: str) -> str:
    return path.rpartition(".")[2]


def _counts(report: DiffReport) -> str:
    found: dict[str, int] = {}
    for module in report.modules:
        found[module.status] = found.get(module.status, 0) + 1
    return ", ".join(f"{count} {status.replace('_', ' ')}" for status, count in found.items())


def _module_table(modules: tuple[ModuleDiff, ...]) -> Iterator[str]:
    """The modules that differ most."""
    changed = sorted((m for m in modules if m.status != "same"), key=lambda m: (-m.share, m.path))
    rows = [
        (
            module.path, module.status.replace("_", " "), _number(module.cosine),
            f"{module.share:.3g}", f"{module.norm_a:.4g} -> {module.norm_b:.4g}",
            f"{module.rank_a} -> {module.rank_b}", f"{module.scale_a:g} -> {module.scale_b:g}",
            ", ".join(module.beside),
        )
        for module in changed[:MODULES_SHOWN]
    ]  # fmt: skip
    header = ("MODULE", "", "COSINE", "SHARE", "NORM", "RANK", "SCALE", "BESIDE")
    yield from table(header, rows)
    if len(changed) > MODULES_SHOWN:
        yield f"… {len(changed) - MODULES_SHOWN} more (--json lists them all)"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
