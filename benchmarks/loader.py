"""From disk to a merged model, and from one set of adapters to another: beside PEFT, on a CPU.

Each measurement is a process of its own, one tool after the other, with the files in the
page cache and as much memory touched and given back before as it is going to want: memory
that a virtual machine's host has never backed costs seconds that belong to neither tool.
Libraries are imported before the clock starts; the peak is the operating system's (VmHWM).

    python benchmarks/loader.py FOLDER [--set five|wide] [--rounds N]

FOLDER holds what ``benchmarks/phi2_checkpoint.py FOLDER`` wrote.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from loader_tools import (
    FOLDER,
    Report,
    decode,
    in_todays_naming,
    logits,
    missing,
    peak_bytes,
    peft_model,
    quiet,
    timed,
    warm,
    without_tokenizer,
)


def ours_load(base: Path, adapters: list[Path]) -> Report:
    """Adaptrix: open the adapters, map the base, merge all of them."""
    from adaptrix import Session, WeightedAdapter, open_path, read_adapter  # noqa: PLC0415

    without_tokenizer()
    report: Report = {}
    with timed(report, "load_and_merge"):
        known = []
        for path in adapters:
            adapter = read_adapter(open_path(path)).adapter
            assert adapter is not None
            known.append(WeightedAdapter(name=path.name, adapter=adapter))
        session = Session.open(str(base), known)
    report |= {f"part_{name}": value for name, value in session.timings_s.items()}
    report["peak_merged"] = peak_bytes()
    if session.self_check().verdict != "PASS":
        raise SystemExit("self-check failed")
    with timed(report, "first_forward"):
        logits(session.base.model)
    decode(report, session.base.model)
    report["peak_after_forward"] = peak_bytes()
    return report


def ours_switch(base: Path, adapters: list[Path]) -> Report:
    """Adaptrix: the last adapter alone in effect, then the same at another weight."""
    from adaptrix import Session, WeightedAdapter, open_path, read_adapter  # noqa: PLC0415

    without_tokenizer()
    report: Report = {}
    adapter = read_adapter(open_path(adapters[-1])).adapter
    assert adapter is not None
    name = adapters[-1].name
    session = Session.open(str(base), [WeightedAdapter(name=name, adapter=adapter)])
    with timed(report, "switch"):
        session.use({name: 0.7})
    with timed(report, "leave"):
        session.detach()
    report["peak"] = peak_bytes()
    return report


def peft_merge_each(base: Path, adapters: list[Path]) -> Report:
    """PEFT: load, then ``merge_and_unload`` all adapters, one product and rounding each."""
    report: Report = {}
    with timed(report, "load_and_merge"):
        tuned = peft_model(base, adapters)
        model = tuned.merge_and_unload(adapter_names=[path.name for path in adapters])
    report["peak_merged"] = peak_bytes()
    with timed(report, "first_forward"):
        logits(model)
    decode(report, model)
    report["peak_after_forward"] = peak_bytes()
    return report


def peft_merge_cat(base: Path, adapters: list[Path]) -> Report:
    """PEFT: load, concatenate into one adapter, ``merge_and_unload`` that."""
    report: Report = {}
    with timed(report, "load_and_merge"):
        tuned = peft_model(base, adapters)
        names = [path.name for path in adapters]
        tuned.add_weighted_adapter(names, [1.0] * len(names), "all", combination_type="cat")
        tuned.set_adapter("all")
        tuned.merge_and_unload(adapter_names=["all"])
    report["peak_merged"] = peak_bytes()
    return report


def peft_switch(base: Path, adapters: list[Path]) -> Report:
    """PEFT: the last adapter merged; unmerge it and merge it again."""
    report: Report = {}
    tuned = peft_model(base, adapters[-1:])
    tuned.merge_adapter()
    with timed(report, "switch"):
        tuned.unmerge_adapter()
        tuned.merge_adapter()
    report["peak"] = peak_bytes()
    return report


CHILDREN: dict[str, Callable[[Path, list[Path]], Report]] = {
    "ours_load": ours_load,
    "peft_merge_each": peft_merge_each,
    "peft_merge_cat": peft_merge_cat,
    "ours_switch": ours_switch,
    "peft_switch": peft_switch,
}


def child(name: str, base: Path, adapters: list[Path]) -> None:
    """Import what both tools import, measure, and print the report."""
    import peft  # noqa: F401, PLC0415
    from transformers.models.phi import modeling_phi  # noqa: F401, PLC0415

    import adaptrix.loader.session  # noqa: F401, PLC0415

    quiet()
    print(json.dumps(CHILDREN[name](base, adapters)))


def measure(name: str, base: Path, adapters: list[Path]) -> Report:
    """Run one child to its end."""
    weights = [
        *base.glob("*.safetensors"),
        *(path / "adapter_model.safetensors" for path in adapters),
    ]
    size = sum(path.stat().st_size for path in base.glob("*.safetensors"))
    warm(weights, size + (1 << 30))
    gc.collect()
    words = [sys.executable, __file__, str(base.parent), "--child", name]
    if name.startswith("peft"):
        adapters = [in_todays_naming(path) for path in adapters]
    words += ["--adapters", *map(str, adapters)]
    done = subprocess.run(words, stdout=subprocess.PIPE, check=True, env={**os.environ})
    found: Report = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> int:
    """Measure every child in turns and print the table; 0 always."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", default=FOLDER)
    parser.add_argument("--set", choices=("five", "wide"), default="five")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--only", nargs="*", choices=CHILDREN, default=list(CHILDREN))
    parser.add_argument("--child", choices=CHILDREN)
    parser.add_argument("--adapters", nargs="*", type=Path)
    arguments = parser.parse_args()
    base = arguments.folder / "base"
    if missing(base):
        return 0
    if arguments.child:
        child(arguments.child, base, arguments.adapters)
        return 0
    from phi2_checkpoint import FIVE, WIDE  # noqa: PLC0415

    names = FIVE if arguments.set == "five" else WIDE
    adapters = [arguments.folder / "adapters" / name for name in names]
    found: dict[str, list[Report]] = {}
    for _ in range(arguments.rounds):
        for name in arguments.only:
            found.setdefault(name, []).append(measure(name, base, adapters))
            print(name, json.dumps(found[name][-1]), flush=True)
    size = sum(path.stat().st_size for path in base.glob("*.safetensors"))
    print(f"base {size / 1e9:.2f} GB, {len(adapters)} adapters ({arguments.set}), medians")
    for name, reports in found.items():
        medians = {key: statistics.median(r[key] for r in reports) for key in reports[0]}
        shown = [
            f"{key} {value / size:.3f} of the base"
            if key.startswith("peak")
            else f"{key} {value:.3f} s"
            for key, value in medians.items()
        ]
        print(f"{name:16} {'; '.join(shown)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
