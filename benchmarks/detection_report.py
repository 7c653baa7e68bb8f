"""Figures of detection on drawn adapters, as a page and a reliability diagram."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

BINS = 15
_MOST_WRONG = 200


def rows_of(found: Sequence[Any], ratios: Mapping[str, float]) -> list[tuple[float, bool]]:
    """Probability of the first family, and whether it is right."""
    rows = []
    for one in found:
        chance, name = one.ranked(ratios)[0]
        rows.append((chance, name == one.case.family))
    return rows


def _named(found: Sequence[Any], ratios: Mapping[str, float]) -> list[tuple[float, bool]]:
    """Those of which a family comes first, and not ``unknown``."""
    rows = []
    for one in found:
        chance, name = one.ranked(ratios)[0]
        if name != "unknown":
            rows.append((chance, name == one.case.family))
    return rows


def calibration_error(rows: Sequence[tuple[float, bool]]) -> float:
    """Expected calibration error over equal bins of probability."""
    bins: dict[int, list[tuple[float, bool]]] = defaultdict(list)
    for row in rows:
        bins[min(BINS - 1, int(row[0] * BINS))].append(row)
    return sum(abs(sum(c for c, _ in b) - sum(r for _, r in b)) for b in bins.values()) / len(rows)


def fitting(one: Any) -> dict[str, str]:
    """Families whose classes have all names, with shapes of one configuration; how they fit."""
    return {
        name: shapes.kind
        for name, shapes in one.weighed.shapes.items()
        if not {"foreign_name", "wrapper"} & one.weighed.counts[name].keys()
        and shapes.kind != "inconsistent"
    }


def twins(found: Sequence[Any]) -> Counter[frozenset[str]]:
    """Families that fit as the right one does: content cannot tell them apart."""
    groups: Counter[frozenset[str]] = Counter()
    for one in found:
        fits = fitting(one)
        same = frozenset(name for name, kind in fits.items() if kind == fits.get(one.case.family))
        if one.case.family in same and len(same) > 1:
            groups[same] += 1
    return groups


def is_identifiable(one: Any) -> bool:
    """Whether someone who has every configuration could tell; see the page's definition."""
    fits, right = fitting(one), one.case.family
    if right not in fits:
        return False
    listed = {name for name, kind in fits.items() if kind in ("known", "default")}
    if len(fits) == 1 or listed == {right}:
        return True
    is_told = one.case.declared == "right" and one.told & fits.keys() == {right}
    return is_told and (right in listed or not listed)


def figures(found: Sequence[Any], ratios: Mapping[str, float]) -> list[str]:
    """The table's rows for one set."""
    rows = rows_of(found, ratios)
    sure = [right for chance, right in _named(found, ratios) if chance >= 0.99]
    alone = [r for r, one in zip(rows, found, strict=True) if is_identifiable(one)]
    named = [right for chance, right in _named(found, ratios) if chance >= 0.6]
    return [
        f"{len(rows)}",
        f"{sum(r for _, r in rows) / len(rows):.4f}",
        f"{len(named)}: {sum(named) / max(1, len(named)):.4f}",
        f"{len(sure)}: {sum(sure) / max(1, len(sure)):.4f}",
        f"{len(alone)}: {sum(r for _, r in alone) / max(1, len(alone)):.4f}",
        f"{calibration_error(rows):.4f}",
    ]


def wrong_rows(found: Sequence[Any], ratios: Mapping[str, float]) -> list[str]:
    """Every case whose named family (0.6 and more) is wrong."""
    rows = []
    for one in found:
        chance, name = one.ranked(ratios)[0]
        if chance >= 0.6 and name not in (one.case.family, "unknown"):
            own = next((c for c, n in one.ranked(ratios) if n == one.case.family), 0.0)
            case = one.case
            place = f"{case.saved} | {case.observations[0].path}"
            declared = f"{case.declared} {case.claims.base_name}"
            text = f"| {case.family} {own:.3f} | {name} {chance:.3f} | {declared} | {place} |"
            rows.append((chance, text))
    return [text for _, text in sorted(rows, reverse=True)]


def reliability_diagram(found: Sequence[Any], ratios: Mapping[str, float], path: Path) -> None:
    """Share that is right by probability; a perfect detector lies on the diagonal."""
    import matplotlib as mpl  # noqa: PLC0415

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    rows = rows_of(found, ratios)
    figure, axes = plt.subplots(figsize=(5, 5), dpi=110)
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=1)
    for i in range(BINS):
        inside = [r for r in rows if min(BINS - 1, int(r[0] * BINS)) == i]
        if inside:
            x = sum(c for c, _ in inside) / len(inside)
            y = sum(r for _, r in inside) / len(inside)
            axes.scatter(x, y, s=12 + 400 * len(inside) / len(rows), color="tab:blue", alpha=0.7)
            axes.annotate(
                str(len(inside)), (x, y), fontsize=7, xytext=(5, -8), textcoords="offset points"
            )
    axes.set(xlabel="confidence", ylabel="share that is right", xlim=(0, 1.02), ylim=(0, 1.02))
    axes.set_title(f"{len(rows)} drawn adapters, ECE {calibration_error(rows):.3f}")
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)


def report(
    held_out: Sequence[Any],
    evenly: Sequence[Any],
    ratios: Mapping[str, float],
    *,
    seeds: tuple[int, int, int],
) -> str:
    """The page."""
    wrong = wrong_rows(held_out, ratios)
    wrong_even = wrong_rows(evenly, ratios)
    shared = twins([*held_out, *evenly]).most_common(20)
    return "\n".join(
        [
            *_HEAD,
            f"Weights were fit with seed {seeds[0]}; the figures are of seeds {seeds[1]} (families by",
            f"their share of public adapters) and {seeds[2]} (every family alike: a stress test, in",
            "which the shares are wrong on purpose).",
            "",
            "| set | cases | first right | right at ≥ 0.6 | right at ≥ 0.99 | identifiable | ECE |",
            "|---|---|---|---|---|---|---|",
            f"| by share | {' | '.join(figures(held_out, ratios))} |",
            f"| every family alike | {' | '.join(figures(evenly, ratios))} |",
            "",
            "![reliability](detection.png)",
            "",
            "## Families that share",
            "",
            "Same names, same shapes, same evidence: the probability is split by share.",
            "",
            "| cases | families |",
            "|---|---|",
            *(f"| {count} | {', '.join(sorted(group)[:12])}{' …' if len(group) > 12 else ''} |"
              for group, count in shared),
            "",
            f"## Wrong answers, by share ({len(wrong)})",
            "",
            *_table(wrong),
            f"## Wrong answers, every family alike ({len(wrong_even)})",
            "",
            *_table(wrong_even),
        ]
    )  # fmt: skip


def _table(rows: Sequence[str]) -> list[str]:
    more = [f"… and {len(rows) - _MOST_WRONG} more."] if len(rows) > _MOST_WRONG else []
    head = ["| right | named | declared | saved | first module |", "|---|---|---|---|---|"]
    return [*(head if rows else []), *rows[:_MOST_WRONG], *more, ""]


_HEAD = (
    "# Detection of the architecture",
    "",
    "`architecture.confidence` is the probability that `architecture.family` is right. It comes",
    "from Bayes' rule over every family of the [catalogue](architectures.md): a share of public",
    "adapters times a likelihood ratio for each kind of evidence",
    "(`convert/architecture/weights.py`). A family is named from 0.6 on, from 0.8 when another has",
    "the very same evidence; below, it is `unknown`, and `candidates` say which share the",
    "probability. The declared base decides among them, and `--base` decides alone.",
    "",
    "On the corpus of real adapters (`make corpus`) every family that its index names is found.",
    "",
    "Measured by `python benchmarks/detection.py --write` on drawn adapters: catalogue families ×",
    "known bases and other sizes × target sets × usual, headless and wrapped names × all and some",
    "layers × a declared base that is right (68 %), absent (30 %) or wrong (2 %).",
)
