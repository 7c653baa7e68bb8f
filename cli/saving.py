"""``run --save``: the merged model as a folder, and what was merged beside it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adaptrix.cli.output import Output, plain
from adaptrix.schema.version import VERSION
from adaptrix.store.faults import translated

if TYPE_CHECKING:
    from adaptrix.cli.choosing import Chosen
    from adaptrix.loader.session import Session


def save(
    session: Session, chosen: Chosen, settings: dict[str, Any], folder: Path, out: Output
) -> dict[str, Any]:
    """Write the merged model; returns what ``run --save --json`` prints.

    Raises:
        AdaptrixError: it did not arrive in the weights, or cannot be written.
    """
    merged = {
        "adapters": chosen.used(chosen.sets[0]),
        **settings,
        "survival": session.check.survival,
        "verdict": session.check.verdict,
        "problems": session.check.problems,
    }
    kept = ("adapters", "base", "base_config_digest", "dtype", "survival", "verdict")
    recipe = plain({"adaptrix_version": VERSION, **{name: merged[name] for name in kept}})
    started = time.perf_counter()
    with translated(folder):
        size = session.save(folder, recipe)
    out.note(f"{folder}: {size / 1e9:.2f} GB in {merged['dtype']}")
    timings = {**session.timings_s, "save": time.perf_counter() - started}
    return {"path": str(folder), "bytes": size, **merged, "timings_s": timings}
