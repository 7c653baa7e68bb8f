"""Composition at the size of Phi-2, beside PEFT's ``add_weighted_adapter``.

Four rank-16 adapters on all 192 modules, one core. PEFT holds them on a model of two layers,
since its times grow with the modules: linear and cat are multiplied by 16. Its SVD works on
the dense update; one 2560 x 2560 module is timed and multiplied by the arithmetic that is
printed. Errors are against the dense float64 sum, on one or two layers. Beside the time on the
clock stands the processor's own, which a busy machine does not stretch as much. The last lines
are ``--plan``: in a process that has it loaded, and as a command from start to end.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file

sys.path.insert(0, str(Path(__file__).parent))
from phi2_shapes import LAYERS, SIX, make_adapter

COUNT, RANK, WEIGHT = 4, 16, 0.25
OURS: tuple[tuple[str, dict[str, float]], ...] = (
    ("linear", {}), ("svd", {"rank": RANK}), ("karcher", {}), ("ties", {}), ("dare_ties", {}),
    ("knots", {}), ("tsv_m", {}), ("iso_c", {}), ("ctm", {"rank": RANK}),
    ("compat:peft-linear", {}),
)  # fmt: skip
Dense = dict[str, NDArray[np.float64]]


def dense_sum(folders: list[Path], layers: int) -> Dense:
    """The weighted sum of the updates of the first layers, float64."""
    total: Dense = {}
    for folder in folders:
        tensors = load_file(folder / "adapter_model.safetensors")
        for key, a in tensors.items():
            path = key.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
            if key.endswith("lora_B.weight") or int(path.split(".")[2]) >= layers:
                continue
            b = tensors[key.replace("lora_A", "lora_B")].astype(np.float64)
            update = WEIGHT * 2 * (b @ a.astype(np.float64))  # alpha 32, rank 16
            total[path] = total[path] + update if path in total else update
    return total


def error(got: Mapping[str, Any], wanted: Dense) -> float:
    """Relative Frobenius distance over the modules of ``wanted``."""
    wrong = sum(float(((got[p] - wanted[p]) ** 2).sum()) for p in wanted)
    return (wrong / sum(float((wanted[p] ** 2).sum()) for p in wanted)) ** 0.5


def peak_mb() -> float:
    """Greatest resident size of this process, pages of mapped files included."""
    status = Path("/proc/self/status")
    if status.exists():
        # Unlike getrusage, this forgets what the process was before it became this program.
        line = next(one for one in status.read_text().splitlines() if one.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def ours(folders: list[Path], method: str, parameters: Mapping[str, float]) -> dict[str, Any]:
    """Time one method from files to factors in memory, and measure it."""
    from adaptrix import open_path, read_adapter  # noqa: PLC0415 - not in PEFT's process
    from adaptrix.compose.combine import combine  # noqa: PLC0415 - not in PEFT's process
    from adaptrix.compose.inputs import Input  # noqa: PLC0415 - not in PEFT's process
    from adaptrix.compose.tensors import to_torch  # noqa: PLC0415 - not in PEFT's process
    from adaptrix.convert.reading import ReadOptions  # noqa: PLC0415 - not in PEFT's process

    torch.set_num_threads(1)
    before = peak_mb()
    started, worked = time.perf_counter(), time.process_time()
    inputs = []
    for folder in folders:
        adapter = read_adapter(open_path(folder), ReadOptions(check_values=False)).adapter
        if adapter is None:
            raise SystemExit(f"{folder} is not read")
        inputs.append(Input(adapter=adapter, weight=WEIGHT))
    result = combine(inputs, method, parameters)
    for tensor in result.adapter.tensors().values():
        tensor.load()
    seconds, peak = time.perf_counter() - started, peak_mb()
    cpu = time.process_time() - worked
    wanted = dense_sum(folders, 1)
    got = {
        m.path: m.scale.value * (to_torch(m.b).double() @ to_torch(m.a).double()).numpy()
        for m in result.adapter.modules
        if m.path in wanted
    }
    return {
        "seconds": seconds, "cpu": cpu, "peak_mb": peak, "before_mb": before,
        "error": error(got, wanted),
    }  # fmt: skip


def peft(folders: list[Path], kind: str) -> dict[str, Any]:
    """Time PEFT on the few layers that its model here has."""
    from peft import PeftModel  # noqa: PLC0415 - not in ours
    from transformers import PhiConfig, PhiForCausalLM  # noqa: PLC0415 - not in ours

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    layers = 1 if kind == "svd" else 2
    config = PhiConfig(
        vocab_size=64, hidden_size=2560, intermediate_size=10240, num_hidden_layers=layers,
        num_attention_heads=32, tie_word_embeddings=False,
    )  # fmt: skip
    base = PhiForCausalLM(config)
    model = PeftModel.from_pretrained(base, str(folders[0]), adapter_name="a0")
    for n, folder in enumerate(folders[1:], 1):
        model.load_adapter(str(folder), f"a{n}")
    before = peak_mb()
    started, worked = time.perf_counter(), time.process_time()
    more = {"svd_rank": RANK} if kind == "svd" else {}
    names = [f"a{n}" for n in range(COUNT)]
    model.add_weighted_adapter(names, [WEIGHT] * COUNT, "mix", combination_type=kind, **more)
    seconds, peak = time.perf_counter() - started, peak_mb()
    cpu = time.process_time() - worked
    wanted = dense_sum(folders, layers)
    got = {
        path: model.get_submodule(f"base_model.model.{path}").get_delta_weight("mix")
        .double().numpy()
        for path in wanted
    }  # fmt: skip
    return {
        "seconds": seconds, "cpu": cpu, "peak_mb": peak, "before_mb": before,
        "error": error(got, wanted),
    }  # fmt: skip


def plan(folders: list[Path]) -> dict[str, Any]:
    """Time a plan from opened adapters on: the best of five."""
    from adaptrix import open_path, read_adapter  # noqa: PLC0415 - not in PEFT's process
    from adaptrix.compose.inputs import Input  # noqa: PLC0415 - not in PEFT's process
    from adaptrix.compose.planning import plan as look  # noqa: PLC0415 - not in PEFT's process
    from adaptrix.convert.reading import ReadOptions  # noqa: PLC0415 - not in PEFT's process

    options = ReadOptions(check_values=False)
    read = [read_adapter(open_path(folder), options).adapter for folder in folders]
    inputs = [Input(adapter=adapter, weight=WEIGHT) for adapter in read if adapter is not None]
    runs = []
    for _ in range(5):
        started, worked = time.perf_counter(), time.process_time()
        look(inputs, rank=RANK)
        runs.append((time.process_time() - worked, time.perf_counter() - started))
    cpu, seconds = min(runs)
    return {"seconds": seconds, "cpu": cpu, "peak_mb": peak_mb()}


def plan_command(root: Path) -> dict[str, float]:
    """Time ``compose --plan`` on a registry: the best of three."""
    line = [sys.executable, "-m", "adaptrix.cli.main", "--home", str(root / "home")]
    for n in range(COUNT):
        pulled = [*line, "pull", str(root / f"all{n}"), "--as", f"a{n}", "-q"]
        subprocess.run(pulled, check=True, capture_output=True)
    runs = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        started = time.perf_counter()
        planned = [*line, "compose", *(f"a{n}={WEIGHT}" for n in range(COUNT)), "--plan"]
        subprocess.run(planned, check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        runs.append((cpu, time.perf_counter() - started))
    cpu, seconds = min(runs)
    return {"seconds": seconds, "cpu": cpu}


def child(*arguments: str) -> dict[str, Any]:
    """Run one measurement in a process of its own."""
    line = [sys.executable, __file__, *arguments]
    done = subprocess.run(line, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def table(root: Path) -> None:
    """Measure and print everything."""
    print(f"{COUNT} adapters of rank {RANK} on {LAYERS * len(SIX)} modules of Phi-2, one core")
    print(f"{'':42} {'seconds':>9} {'cpu s':>9} {'peak MB':>8} {'over start':>10} {'error':>8}")

    def row(label: str, found: dict[str, Any], times: float = 1.0) -> None:
        print(f"{label:42} {found['seconds'] * times:9.2f} {found['cpu'] * times:9.2f} "
              f"{found['peak_mb']:8.0f} "
              f"{found['peak_mb'] - found['before_mb']:10.0f} {found['error']:8.2g}",
              flush=True)  # fmt: skip

    for method, parameters in OURS:
        label = f"adaptrix {method} {' '.join(f'{k}={v}' for k, v in parameters.items())}"
        row(label, child("--root", str(root), "--ours", method, json.dumps(parameters)))
    for kind in ("linear", "cat"):
        row(f"PEFT {kind}, 2 layers x 16", child("--root", str(root), "--peft", kind), 16)
    found = child("--root", str(root), "--peft", "svd")
    # A dense SVD of (m, n) takes O(m n min(m, n)): fc1 and fc2 take 4 times a square module.
    times = LAYERS * (4 + 2 * 4)
    row(f"PEFT svd, 1 module x 32 x (4 + 2 x 4) = {times}", found, times)
    found = child("--root", str(root), "--plan")
    print(f"adaptrix plan: {found['seconds']:.2f} s, {found['cpu']:.2f} s of the processor, "
          f"peak {found['peak_mb']:.0f} MB")  # fmt: skip
    whole = plan_command(root)
    print(f"adaptrix compose --plan: {whole['seconds']:.2f} s, {whole['cpu']:.2f} s of the "
          "processor, process from start to end")  # fmt: skip


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path)
    parser.add_argument("--ours", nargs=2)
    parser.add_argument("--peft")
    parser.add_argument("--plan", action="store_true")
    arguments = parser.parse_args()
    if arguments.root is None:
        with tempfile.TemporaryDirectory() as name:
            root = Path(name)
            for n in range(COUNT):
                make_adapter(root / f"all{n}", modules=SIX, rank=RANK, seed=n)
                make_adapter(root / f"few{n}", modules=SIX, rank=RANK, seed=n, layers=2)
                make_adapter(root / f"one{n}", modules=("q_proj",), rank=RANK, seed=n, layers=1)
            table(root)
        return
    kind = (
        "all" if arguments.ours or arguments.plan else "one" if arguments.peft == "svd" else "few"
    )
    folders = [arguments.root / f"{kind}{n}" for n in range(COUNT)]
    if arguments.plan:
        found = plan(folders)
    elif arguments.ours:
        found = ours(folders, arguments.ours[0], json.loads(arguments.ours[1]))
    else:
        found = peft(folders, arguments.peft)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
