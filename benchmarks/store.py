"""How the store holds up with many adapters, beside git and the Hub's cache.

``python benchmarks/store.py [--count N] [--folder DIR] [--peers N]`` makes a home with N
tiny adapters (100,000 unless told), and prints what the commands take there. The adapters
are as small as can be: what is measured is the store, not the disk's bandwidth. The peers
get their own, smaller number of comparable entries.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from adaptrix.registry.registry import Registry
from adaptrix.schema import media_types
from adaptrix.schema.adapter import ScaleRule
from adaptrix.schema.digest import Digest
from adaptrix.schema.manifest import Manifest, file_descriptor
from adaptrix.schema.record import (
    AdapterRecord,
    BaseRecord,
    ConversionRecord,
    ModuleRecord,
    SourceRecord,
)
from adaptrix.schema.report import Fidelity, Verdict
from adaptrix.store.home import Home

ROOT = Path(__file__).resolve().parents[1]
TOPICS = ("arithmetic", "headlines", "code", "questions", "law", "medicine", "poems", "tables")


def tiny(home: Home, number: int) -> Manifest:
    """An adapter of one module; its files are put into the store."""
    topic = TOPICS[number % len(TOPICS)]
    weights, config = b"weights %d" % number, b'{"r": 4}'
    module = ModuleRecord(
        path=f"model.layers.{number % 32}.self_attn.q_proj", kind="linear", in_features=8,
        out_features=8, rank=4 << number % 4, alpha=8.0, scale=2.0, rule=ScaleRule.ALPHA_OVER_R,
    )  # fmt: skip
    files = (
        ("adapter_config.json", media_types.WEIGHT_CONFIG_RAW, config),
        ("adapter_model.safetensors", media_types.WEIGHT_RAW, weights),
    )
    layers = tuple(
        file_descriptor(path, kind, home.blobs.put(data), len(data)) for path, kind, data in files
    )
    record = AdapterRecord(
        tensors_digest=Digest.of(weights), family="phi", method="lora", parameters=64,
        dtypes=("float32",), modules=(module,), base=BaseRecord(name="microsoft/phi-2"),
        source=SourceRecord(kind="hub", repository=f"org/{topic}-{number}", commit="a" * 40),
        conversion=ConversionRecord(
            format="peft", layout="phi-l4", method="lora", tool="benchmark",
            fidelity=Fidelity.EXACT, verdict=Verdict.PASS, confidence=0.99,
        ),
        description=f"number {number} does {topic}", domain=topic, license="mit",
    )  # fmt: skip
    return Manifest(record=record, layers=layers)


def ingest(home: Home, start: int, stop: int) -> float:
    """Store and name adapters; returns how many per second."""
    began = time.perf_counter()
    for number in range(start, stop):
        digest = home.add_version(tiny(home, number))
        name = f"team{number % 50}/{TOPICS[number % len(TOPICS)]}-{number}"
        home.references.set(name, "latest", digest, expected=None, reason="pull")
    return (stop - start) / (time.perf_counter() - began)


def median_s(call: Callable[[], object], times: int = 9) -> float:
    """Median time of ``call`` in seconds."""
    found = []
    for _ in range(times):
        began = time.perf_counter()
        call()
        found.append(time.perf_counter() - began)
    return statistics.median(found)


def process_s(*command: str, **environment: str) -> float:
    """Median time of a whole process."""

    def run() -> None:
        settings = {**os.environ, "PYTHONPATH": str(ROOT / "src"), **environment}
        subprocess.run(command, check=True, capture_output=True, env=settings)

    return median_s(run, 5)


def say(what: str, value: str, target: str = "") -> None:
    """One line of the table."""
    print(f"{what:58} {value:>12}  {target}", flush=True)


def measure(folder: Path, count: int) -> None:
    """Fill a home in two steps and print what things take."""
    home_path = folder / "home"
    times: dict[int, tuple[float, float]] = {}
    with Home.open(home_path) as home:
        part = max(1, count // 10)
        first = ingest(home, 0, part)
        times[part] = (median_s(lambda: home.fsck(quick=True), 1), _gc_s(home))
        last = ingest(home, part, count)
        times[count] = (median_s(lambda: home.fsck(quick=True), 1), _gc_s(home))
    say(f"ingest, adapters 1 to {part}, per second", f"{first:.0f}", "at least 200")
    say(f"ingest, adapters {part + 1} to {count}, per second", f"{last:.0f}", "at least 200")
    with Registry(home_path) as registry:
        name = f"team{(count - 1) % 50}/{TOPICS[(count - 1) % len(TOPICS)]}-{count - 1}"
        registry.digest(name)
        resolve = median_s(lambda: registry.digest(name))
        say("resolve a name, in process", f"{1000 * resolve:.2f} ms", "at most 5 ms")
        for query in ("arithmetic-4000", "poems rank:8", "medicine family:phi since:2020-01-01"):
            took = median_s(lambda query=query: registry.search(query, limit=50))
            say(
                f"search {query!r}, 50 of them, in process",
                f"{1000 * took:.1f} ms",
                "at most 50 ms",
            )
    listed = process_s(
        sys.executable, "-m", "adaptrix.cli.main", "ls", "--limit", "50",
        ADAPTRIX_HOME=str(home_path),
    )  # fmt: skip
    say("ls, first page, whole process", f"{listed:.2f} s", "at most 0.5 s")
    for number, (fsck, gc) in times.items():
        say(f"fsck --quick of {number}", f"{fsck:.1f} s", "linear")
        say(f"gc --dry-run of {number}", f"{gc:.1f} s", "linear")


def _gc_s(home: Home) -> float:
    return median_s(lambda: home.gc(dry_run=True), 1)


def peers(folder: Path, count: int) -> None:
    """Comparable content in git (a tag each) and in the Hub's cache (a repository each)."""
    if shutil.which("git"):
        place = folder / "git"
        git = ("git", "-C", str(place), "-c", "user.name=b", "-c", "user.email=b@b.example")
        subprocess.run(["git", "init", "-q", str(place)], check=True)
        subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "a"], check=True)
        head = subprocess.run(
            [*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True
        )
        lines = "".join(f"create refs/tags/n{n} {head.stdout.strip()}\n" for n in range(count))
        subprocess.run([*git, "update-ref", "--stdin"], check=True, input=lines, text=True)
        say(f"git tag -l of {count}, whole process", f"{process_s(*git, 'tag', '-l'):.2f} s")
        say("git rev-parse of one, whole process", f"{process_s(*git, 'rev-parse', 'n7'):.3f} s")
    hf = Path(sys.executable).with_name("hf")
    if hf.exists():
        for number in range(count):
            repository = folder / "hub" / f"models--org--n{number}"
            snapshot = repository / "snapshots" / f"{number:040x}"
            snapshot.mkdir(parents=True)
            (repository / "refs").mkdir()
            (repository / "refs" / "main").write_text(f"{number:040x}")
            (repository / "blobs").mkdir()
            (repository / "blobs" / "a").write_text("weights")
            (snapshot / "adapter_model.safetensors").symlink_to("../../blobs/a")
        took = process_s(str(hf), "cache", "ls", HF_HUB_CACHE=str(folder / "hub"))
        say(f"hf cache ls of {count}, whole process", f"{took:.2f} s")


def main() -> None:
    """Parse, measure, clean up."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--peers", type=int, default=10_000)
    parser.add_argument("--folder", type=Path, default=None)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        measure(Path(folder), options.count)
        peers(Path(folder), options.peers)


if __name__ == "__main__":
    main()
