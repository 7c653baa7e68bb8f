"""The page that says which model types are in the catalogue, and which are not and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def report_text(found: Sequence[Mapping[str, Any]], version: str, size_bytes: int) -> str:
    """Markdown, the same for the same results."""
    good = [d for d in found if "error" not in d]
    names = sum(len(d["family"]["modules"]) for d in good)
    unsolved, total = (sum(d[key] for d in good) for key in ("unsolved", "total"))
    unverified = sorted(d["type"] for d in good if not d["family"]["verified"])
    open_names = sorted((d for d in good if d["unsolved"]), key=lambda d: str(d["type"]))
    failed = sorted((d for d in found if "error" in d), key=lambda d: str(d["type"]))
    kilobytes = round(size_bytes / 1000)
    lines = [
        "# Architecture catalogue",
        "",
        "Made by `make catalogue` from transformers " + version + ": every model type is built on",
        "torch's meta device from its default configuration and from varied ones; each module's",
        "path and the formula of its shape in fields of the configuration are kept, and checked",
        "against one more, random configuration. A formula that did not hold is kept as unknown.",
        "",
        f"- **{len(good)} of {len(found)} types**, {names} module names, {kilobytes} kB compressed",
        f"- {total - unsolved} of {total} names of the main classes have a formula for every side",
        f"- a further configuration could not be built for {len(unverified)} types: "
        + (", ".join(unverified) or "none"),
        "",
        "## Types in the catalogue",
        "",
        ", ".join(sorted(d["type"] for d in good)),
        "",
        "## Names without a formula",
        "",
        "| type | names | of |",
        "|---|---|---|",
        *(f"| {d['type']} | {d['unsolved']} | {d['total']} |" for d in open_names),
        "",
        "## Types that are not in it",
        "",
        "| type | why |",
        "|---|---|",
        *(f"| {d['type']} | {_plain(d['error'])} |" for d in failed),
        "",
    ]
    return "\n".join(lines)


def _plain(error: str) -> str:
    return error.replace("|", "/").replace("\n", " ").strip()
