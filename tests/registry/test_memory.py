"""The memory that a verb takes does not grow with the adapter."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from adaptrix import Registry

MIB = 1 << 20
SIZES = (8, 160)
"""MiB of the two adapters; one tensor of the larger is longer than what may be resident."""
CODE = """
import sys
from pathlib import Path
from adaptrix.cli.main import run
assert run(sys.argv[1:]) in (0, 3)
print(next(line for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line))
"""


def sparse(folder: Path, mebibytes: int) -> Path:
    """An adapter of two tensors whose bytes are a hole in the file: zero, and on no disk."""
    folder.mkdir()
    rank, out = 64, mebibytes * MIB // 2 // 4 // 64
    name = "base_model.model.model.layers.0.self_attn.q_proj"
    entries, end = {}, 0
    for leaf, shape in (("lora_A", [rank, out]), ("lora_B", [out, rank])):
        size = 4 * rank * out
        entry = {"dtype": "F32", "shape": shape, "data_offsets": [end, end + size]}
        entries[f"{name}.{leaf}.weight"], end = entry, end + size
    header = json.dumps(entries).encode()
    with (folder / "adapter_model.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + end)
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": 64, "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def peak_bytes(arguments: list[str]) -> int:
    command = [sys.executable, "-c", CODE, *arguments, "-q"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stdout.split("VmHWM:")[1].split()[0]) << 10


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's peak memory")
@pytest.mark.parametrize(
    ("verb", "to"), [("convert", "peft"), ("convert", "mlx-npz"), ("pull", ""), ("verify", "")]
)
def test_peak_memory_is_that_of_a_small_adapter(verb, to, tmp_path):
    peaks = []
    for size in SIZES:
        source = sparse(tmp_path / f"source{size}", size)
        target = ["--to", to, "-o", str(tmp_path / f"out{size}")]
        if verb == "pull":
            target = ["--as", f"x{size}", "--home", str(tmp_path / "home")]
        arguments = [verb, str(source), *target]
        if verb == "verify":
            with Registry(home=tmp_path / "home") as registry:
                registry.pull(str(source), name=f"x{size}")
            arguments = [verb, f"x{size}", "--home", str(tmp_path / "home")]
        peaks.append(peak_bytes(arguments))
    small, large = peaks
    assert large - small <= 48 * MIB, peaks
    assert large <= 200 * MIB
