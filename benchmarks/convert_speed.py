"""How long a conversion takes as a whole process, beside ``sha256sum`` and ``cp``.

A rank-16 adapter on the four attention modules of full-size Phi-2 (42 MB), as PEFT in the
current naming and in the old fused one, to canonical PEFT. Aim: under one second.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from phi2_shapes import make_adapter

REPEATS = 5


def best_of(work: Callable[[], None]) -> float:
    """Shortest of several runs, in seconds."""
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)


def main() -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        file = make_adapter(root / "l4")
        make_adapter(root / "l2", modules=("Wqkv", "out_proj"), layout="l2")
        copy = root / "copy"

        def convert(layout: str) -> Callable[[], None]:
            def work() -> None:
                out = root / "out"
                shutil.rmtree(out, ignore_errors=True)
                command = [sys.executable, "-m", "adaptrix.cli.main", "convert", str(root / layout)]
                subprocess.run([*command, "--to", "peft", "-o", str(out), "-q"], check=True,
                               stdout=subprocess.DEVNULL)  # fmt: skip

            return work

        rows = {
            "cp": best_of(
                lambda: subprocess.run(["cp", str(file), str(copy)], check=True) and None
            ),
            "sha256sum": best_of(
                lambda: (
                    subprocess.run(["sha256sum", str(file)], check=True, stdout=subprocess.DEVNULL)
                    and None
                )
            ),
            "adaptrix convert (current naming)": best_of(convert("l4")),
            "adaptrix convert (old fused naming)": best_of(convert("l2")),
        }
        print(f"{file.stat().st_size / 1e6:.1f} MB, best of {REPEATS}, whole processes")
        for label, seconds in rows.items():
            print(f"  {label:38} {seconds:6.3f} s  {seconds / rows['sha256sum']:5.1f} x sha256sum")


if __name__ == "__main__":
    main()
