"""Figures of detection on drawn adapters, as a page and a reliability diagram."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

BINS = 15
_MOST_WRONG = 250


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


def report(sets: Mapping[str, Sequence[Any]], ratios: Mapping[str, float], trained: int) -> str:
    """The page."""
    shared = twins([one for found in sets.values() for one in found]).most_common(20)
    pages = []
    for title, found in sets.items():
        wrong = wrong_rows(found, ratios)
        pages += [f"## Wrong answers, {title} ({len(wrong)})", "", *_table(wrong)]
    return "\n".join(
        [
            *_HEAD,
            f"Weights were fit with seed {trained}; the figures are of other seeds. By the fresh ones",
            "nothing was ever chosen; the others were looked at while numbers of the model were set.",
            "Where every family is alike, the shares are wrong on purpose: a stress test.",
            "",
            "| set | cases | first right | right at ≥ 0.6 | right at ≥ 0.99 | identifiable | ECE |",
            "|---|---|---|---|---|---|---|",
            *(f"| {title} | {' | '.join(figures(found, ratios))} |" for title, found in sets.items()),
            "",
            "![reliability](detection.png)",
            "",
            *_BASES,
            *(f"| {title} | {' | '.join(base_figures(found, ratios))} |"
              for title, found in sets.items()),
            "",
            "## Families that share",
            "",
            "All names, and shapes in the same way: content cannot tell them apart.",
            "",
            "| cases | families |",
            "|---|---|",
            *(f"| {count} | {', '.join(sorted(group)[:12])}{' …' if len(group) > 12 else ''} |"
              for group, count in shared),
            "",
            *pages,
        ]
    )  # fmt: skip


def base_figures(found: Sequence[Any], ratios: Mapping[str, float]) -> list[str]:
    """The same for the model: its likeliest known base, or none."""
    rows = [(chance, name == one.case.base) for one in found for chance, name in [one.base(ratios)]]
    named = [(chance, right) for chance, right in rows if chance > 0]
    sure = [right for chance, right in named if chance >= 0.9]
    told = [
        name == one.case.base
        for one in found
        for _, name in [one.base(ratios)]
        if one.case.declared == "right" and one.case.base
    ]
    return [
        f"{len(named)}",
        f"{sum(right for _, right in named) / max(1, len(named)):.4f}",
        f"{len(sure)}: {sum(sure) / max(1, len(sure)):.4f}",
        f"{len(told)}: {sum(told) / max(1, len(told)):.4f}",
        f"{calibration_error(named):.4f}",
    ]


def _table(rows: Sequence[str]) -> list[str]:
    more = [f"… and {len(rows) - _MOST_WRONG} more."] if len(rows) > _MOST_WRONG else []
    head = ["| right | named | declared | saved | first module |", "|---|---|---|---|---|"]
    return [*(head if rows else []), *rows[:_MOST_WRONG], *more, ""]


_BASES = (
    "## The model",
    "",
    "`base_model.candidates` has the known bases that fit, each with its probability: the",
    "family's, times the base's part of it. Bases of the same dimensions (a model and its chat",
    "version) share; what is left is for bases that the table does not have. The first one:",
    "",
    "| set | cases with one that fits | first right | right at ≥ 0.9 | declared by its name | ECE |",
    "|---|---|---|---|---|---|",
)
_HEAD = (
    "# Detection of the architecture",
    "",
    "`architecture.confidence` is the probability that `architecture.family` is right. It comes",
    "from Bayes' rule over every family of the [catalogue](architectures.md): its share of public",
    "adapters, times what each kind of evidence is worth (`convert/architecture/weights.py`).",
    "",
    "- **Names**: what the family lacks, or has besides under the same last part (of the modules",
    "  that were seen, or that the configuration lists as targets), its heads and embeddings where",
    "  whole weights are in the file.",
    "- **Shapes**: the probability that a model of the family has them: a sum over its known bases,",
    "  its default configuration, and models that nobody has listed, times the chance of these",
    "  layers. Several sizes that agree with a known base at once are worth more than one; a family",
    "  of whose many bases none fits is worth less. A vocabulary counts where there is one.",
    "- **What is said**: the declared base (by its name in the table, a known name inside it, or a",
    "  family's name; the rarer, the more it is worth), the class and its Python module, the task,",
    "  an architecture that the content states (GGUF), `--base`.",
    "",
    "A model that nobody has listed is mostly put together from known parts. So `unknown` has, beside",
    "what names that nobody knows are worth, a share of every family that has the modules only behind",
    "a foreign prefix, only some of them, only by the names of the code that its classes were made",
    "from, or in sizes of no known model and rarely (`by_another` in `evidence.py`).",
    "`tests/convert/test_published_models.py` has 68 adapters of such models, and 57",
    "of published ones, with the names and sizes that their code gives them.",
    "",
    "No single source is trusted to the end: a small part of the outcome leaves the declaration",
    "out, another takes families for more alike than their shares and the tables for incomplete.",
    "So a family that only a declaration or its popularity tells from others stays below 0.99.",
    "",
    "A family is named from 0.6 on, from 0.8 when another fits in the same way; below, it is",
    "`unknown`, and `candidates` say which share the probability. A configuration without weights",
    "is read by what it says. A declared base that the modules contradict is a warning,",
    "`declared_base_differs`; with `--base` it is the error `wrong_base`.",
    "",
    "On the corpus of real adapters (`make corpus`) every family that its index names is found, but for",
    "three files of a ViT without a configuration: SAM's, DINOv2's and timm's blocks have those names.",
    "",
    "## Figures",
    "",
    "Measured by `python benchmarks/detection.py --write` on drawn adapters: catalogue families ×",
    "known bases and other sizes × target sets × usual, headless and wrapped names × all and some",
    "layers × a declared base that is right (68 %), absent (30 %) or wrong (2 %).",
    "",
    "**Identifiable** is a case that someone who has every configuration could tell. The right",
    "family *fits*: one of its classes has all names, in this form, and one configuration gives all",
    "shapes. And one of these holds: no other family fits; it is the only one that fits with the",
    "dimensions of a known base or of a default configuration (whatever is declared); or the",
    "declaration is true, its name is of this family alone among those that fit, and the known",
    "dimensions are not another family's alone. What only the popularity of families or of",
    "dimensions speaks for is not identifiable.",
    "",
)
