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
import mmap
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

Report = dict[str, float]
IDS = [[(7 * n) % 1000 for n in range(16)]]


def peak_bytes() -> int:
    """Largest resident size of this process so far, by the kernel."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def warm(paths: list[Path], memory_bytes: int) -> None:
    """Bring the files into the page cache, and let the host back the memory."""
    chunk = bytearray(8 << 20)
    for path in paths:
        with path.open("rb", buffering=0) as stream:
            while stream.readinto(chunk):
                pass
    room = mmap.mmap(-1, memory_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    room.madvise(mmap.MADV_HUGEPAGE)
    for begin in range(0, memory_bytes, mmap.PAGESIZE):
        room[begin] = 1
    room.close()


@contextmanager
def timed(report: Report, name: str) -> Iterator[None]:
    """Add the seconds spent in the block."""
    started = time.perf_counter()
    yield
    report[name] = time.perf_counter() - started


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
        report["adapters_open"] = 0.0
        session = Session.open(str(base), known)
    report |= {f"part_{name}": value for name, value in session.timings_s.items()}
    report["peak_merged"] = peak_bytes()
    if session.self_check().verdict != "PASS":
        raise SystemExit("self-check failed")
    with timed(report, "first_forward"):
        logits(session.base.model)
    with timed(report, "prefill_256"):
        logits(session.base.model, 256)
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
    times = []
    for weight in (0.7, 1.0, 0.5):
        started = time.perf_counter()
        session.use({name: weight})
        times.append(time.perf_counter() - started)
    report["switch"] = statistics.median(times)
    with timed(report, "leave"):
        session.detach()
    report["peak"] = peak_bytes()
    return report


def peft_model(base: Path, adapters: list[Path]) -> Any:
    """PEFT with every adapter loaded, its logging kept quiet."""
    import torch  # noqa: PLC0415
    from peft import PeftModel  # noqa: PLC0415
    from transformers import AutoModelForCausalLM  # noqa: PLC0415

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float16)
    tuned = PeftModel.from_pretrained(model, str(adapters[0]), adapter_name=adapters[0].name)
    for path in adapters[1:]:
        tuned.load_adapter(str(path), adapter_name=path.name)
    return tuned


def peft_merge_each(base: Path, adapters: list[Path]) -> Report:
    """PEFT: load, then ``merge_and_unload`` all adapters, one product and rounding each."""
    report: Report = {}
    with timed(report, "load_and_merge"):
        tuned = peft_model(base, adapters)
        model = tuned.merge_and_unload(adapter_names=[path.name for path in adapters])
    report["peak_merged"] = peak_bytes()
    with timed(report, "first_forward"):
        logits(model)
    with timed(report, "prefill_256"):
        logits(model, 256)
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
    times = []
    for _ in range(2):
        started = time.perf_counter()
        tuned.unmerge_adapter()
        tuned.merge_adapter()
        times.append(time.perf_counter() - started)
    report["switch"] = statistics.median(times)
    report["peak"] = peak_bytes()
    return report


def without_tokenizer() -> None:
    """The random checkpoint has none, and neither tool's time is about one."""
    from adaptrix.loader import base as loading  # noqa: PLC0415

    loading.load_tokenizer = lambda _place: None


def logits(model: Any, length: int = 16) -> Any:
    """Logits of a fixed row of token ids."""
    import torch  # noqa: PLC0415

    ids = torch.arange(length).reshape(1, length) * 7 % 1000
    with torch.inference_mode():
        return model(input_ids=ids, logits_to_keep=1).logits


def decode(report: Report, model: Any) -> None:
    """Seconds a token, greedy, after the first."""
    import torch  # noqa: PLC0415

    with torch.inference_mode():
        out = model(input_ids=torch.tensor(IDS), use_cache=True, logits_to_keep=1)
        started = time.perf_counter()
        for _ in range(8):
            token = out.logits[:, -1:].argmax(-1)
            out = model(input_ids=token, past_key_values=out.past_key_values, use_cache=True)
        report["seconds_per_token"] = (time.perf_counter() - started) / 8


CHILDREN: dict[str, Callable[[Path, list[Path]], Report]] = {
    "ours_load": ours_load,
    "peft_merge_each": peft_merge_each,
    "peft_merge_cat": peft_merge_cat,
    "ours_switch": ours_switch,
    "peft_switch": peft_switch,
}


def child(name: str, base: Path, adapters: list[Path]) -> None:
    """Import what both tools import, warm, measure, and print the report."""
    import peft  # noqa: F401, PLC0415
    from transformers import logging  # noqa: PLC0415
    from transformers.models.phi import modeling_phi  # noqa: F401, PLC0415

    import adaptrix.loader.session  # noqa: F401, PLC0415

    logging.set_verbosity_error()
    logging.disable_progress_bar()
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
    words += ["--adapters", *map(str, adapters)]
    done = subprocess.run(words, stdout=subprocess.PIPE, check=True, env={**os.environ})
    found: Report = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> int:
    """Measure every child in turns and print the table; 0 always."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--set", choices=("five", "wide"), default="five")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--only", nargs="*", choices=CHILDREN, default=list(CHILDREN))
    parser.add_argument("--child", choices=CHILDREN)
    parser.add_argument("--adapters", nargs="*", type=Path)
    arguments = parser.parse_args()
    base = arguments.folder / "base"
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
