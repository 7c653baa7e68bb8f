"""Whole processes beside ``sha256sum`` and ``cp`` of the same file, and their peak memory.

- ``inspect`` of 360 MB: aim 0.3 s.
- A rank-16 adapter on the four attention modules of full-size Phi-2 (42 MB), in the current
  naming and in the old fused one, to canonical PEFT: aim 1 s.
- Byte-level conversions of 2 GB, and ``pull``: aim 1.5 × (``sha256sum`` + ``cp``), 200 MB.

``--small`` makes the 2 GB file 200 MB. Times are wall clock, the best of a few runs, with the
machine's load printed beside them; processor time says more on a busy machine.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from phi2_shapes import make_adapter

WIDTH = 4096
MODULES = ("q_proj", "k_proj", "v_proj", "o_proj")
CHUNK_BYTES = 8 << 20
MEASURE = """
import sys
from adaptrix.cli.main import run
status = run(sys.argv[1:])
peak = [line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")]
sys.stderr.write(f"\\npeak {peak[0] if peak else 0}\\n")
sys.exit(0 if status in (0, 3) else status)
"""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What one process took."""

    wall_s: float
    cpu_s: float
    peak_mb: float


def run(command: list[str]) -> Cost:
    """Run one process to its end."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(
        command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    peak = done.stderr.rpartition("\npeak ")[2].split() or ["0"]
    return Cost(wall_s=wall, cpu_s=cpu, peak_mb=int(peak[0]) / 1024 if peak[0].isdigit() else 0.0)


def best(repeats: int, command: list[str], clean: Path | None = None) -> Cost:
    """The cheapest of several runs."""
    found = []
    for _ in range(repeats):
        if clean is not None:
            shutil.rmtree(clean, ignore_errors=True)
        found.append(run(command))
    return min(found, key=lambda cost: cost.wall_s)


def llama(folder: Path, size_bytes: int, layers: int = 32) -> Path:
    """A float16 adapter of about ``size_bytes`` on the attention of a 4096-wide Llama."""
    folder.mkdir(parents=True)
    rank = size_bytes // (layers * len(MODULES) * 2 * WIDTH * 2)
    header, end = {}, 0
    for layer in range(layers):
        for module in MODULES:
            for leaf, shape in (("lora_A", [rank, WIDTH]), ("lora_B", [WIDTH, rank])):
                name = f"base_model.model.model.layers.{layer}.self_attn.{module}.{leaf}.weight"
                stop = end + 2 * rank * WIDTH
                header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [end, stop]}
                end = stop
    text = json.dumps(header).encode()
    block = b"\x00\x2c" * (CHUNK_BYTES // 2)  # 1/16 in float16
    path = folder / "adapter_model.safetensors"
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for start in range(0, end, CHUNK_BYTES):
            file.write(block[: min(CHUNK_BYTES, end - start)])
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank, "target_modules": MODULES,
              "base_model_name_or_path": "me/llama", "task_type": "CAUSAL_LM"}  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return path


def adaptrix(*arguments: object) -> list[str]:
    """A command line of ours that prints its peak memory."""
    return [sys.executable, "-c", MEASURE, *map(str, arguments), "-q"]


def row(label: str, cost: Cost, aim: str = "") -> None:
    """One line of the table."""
    peak = f"{cost.peak_mb:6.0f} MB" if cost.peak_mb else " " * 9
    print(f"  {label:38} {cost.wall_s:7.3f} s  cpu {cost.cpu_s:6.2f} s  {peak}  {aim}", flush=True)


def small_files(root: Path) -> None:
    """Inspect of 360 MB and the conversions of 42 MB."""
    llama(root / "middle", 360_000_000)
    row("inspect, 360 MB", best(5, adaptrix("inspect", root / "middle")), "aim 0.3 s")
    make_adapter(root / "l4")
    make_adapter(root / "l2", modules=("Wqkv", "out_proj"), layout="l2")
    for name, label in (("l4", "current naming"), ("l2", "old fused naming")):
        out = root / "out"
        command = adaptrix("convert", root / name, "--to", "peft", "-o", out)
        row(f"convert 42 MB, {label}", best(5, command, out), "aim 1 s")
    shutil.rmtree(root / "middle")


def large_file(root: Path, size_bytes: int) -> None:
    """Conversions and pull of one large file, beside sha256sum and cp."""
    path = llama(root / "large", size_bytes)
    print(f"\n{path.stat().st_size / 1e9:.2f} GB")
    copy = root / "copy"
    hashed, copied = best(2, ["sha256sum", str(path)]), best(2, ["cp", str(path), str(copy)])
    copy.unlink()
    row("sha256sum", hashed)
    row("cp", copied)
    beside = hashed.wall_s + copied.wall_s
    out, home = root / "out", root / "home"
    commands: dict[str, tuple[list[str], Path]] = {
        f"convert --to {to}": (adaptrix("convert", root / "large", "--to", to, "-o", out), out)
        for to in ("peft", "mlx", "mlx-npz")
    }
    commands["pull"] = (adaptrix("pull", root / "large", "--as", "x", "--home", home), home)
    for label, (command, clean) in commands.items():
        cost = best(2, command, clean)
        row(label, cost, f"{cost.wall_s / beside:.2f} x (sha256sum + cp), aim 1.5")
        shutil.rmtree(clean, ignore_errors=True)


def main() -> None:
    """Print the tables."""
    size_bytes = 200_000_000 if "--small" in sys.argv else 2_000_000_000
    load: Callable[[], tuple[float, ...]] = getattr(os, "getloadavg", lambda: (0.0,))
    print(f"{os.cpu_count()} cores, load {load()[0]:.1f}, Python {sys.version.split()[0]}")
    with tempfile.TemporaryDirectory() as name:
        small_files(Path(name))
        large_file(Path(name), size_bytes)


if __name__ == "__main__":
    main()
