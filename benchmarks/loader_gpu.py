"""Merging and switching on a GPU, against PEFT and against what memory allows.

Checks first: merged weights of one layer against dense float64. Then events and medians:
five adapters of total rank 136 into all 192 modules of Phi-2's shapes, and from one such
set to another. The floor is the bytes of the touched weights, read once and written once,
over a device copy measured in the same process.

Skipped, with the reason, where there is no CUDA device. One layer is checked and timed for
each of ``--layers``; weights are random and need no checkpoint.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from adaptrix.loader.device import merge_on_device, split_pair
from adaptrix.loader.factors import FusedFactors

sys.path.insert(0, str(Path(__file__).parent))
from phi2_shapes import INNER, LAYERS, WIDTH

RANK = 136
SHAPES = [(WIDTH, WIDTH)] * 4 + [(INNER, WIDTH), (WIDTH, INNER)]
REPEATS = 20
Halves = tuple[torch.Tensor, torch.Tensor, float]


def factors_of(shape: tuple[int, int], seed: int, device: torch.device) -> FusedFactors:
    """Random factors of an update about a hundredth of the weights."""
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(RANK, shape[1], generator=generator) / 100
    b = torch.randn(shape[0], RANK, generator=generator) / 500
    return FusedFactors(a=a.to(device), b=b.to(device), bias=None, magnitude=None, transposed=False)


def check(device: torch.device) -> float:
    """Greatest distance from the float64 sum, in steps of float16; exits when over half."""
    worst = 0.0
    half = torch.finfo(torch.float16)
    for seed, shape in enumerate(SHAPES):
        weight = (torch.randn(shape, generator=torch.Generator().manual_seed(seed)) / 50).half()
        factors = factors_of(shape, seed, device)
        into = torch.empty(shape, dtype=torch.float16, device=device)
        arrived = merge_on_device(weight.to(device), into, factors, torch.float16)
        exact = weight.double() + factors.b.cpu().double() @ factors.a.cpu().double()
        step = torch.exp2(exact.abs().clamp_min(half.tiny).log2().floor()) * half.eps
        worst = max(worst, float(((into.cpu().double() - exact).abs() / step).max()))
        if not arrived.changed or arrived.survival < 0.99:
            raise SystemExit(f"{shape}: {arrived}")
    if worst > 0.51:
        raise SystemExit(f"{worst} steps from the exact sum")
    return worst


def milliseconds(work: Callable[[], None]) -> float:
    """Median of events around ``work``."""
    times = []
    for _ in range(REPEATS):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        work()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end))
    return statistics.median(times)


def measure(device: torch.device, layers: int) -> None:
    """Time ``layers`` layers and print a row each for merge, PEFT's way, and the floor."""
    weights = [
        (torch.randn(shape, device=device) / 50).half() for _ in range(layers) for shape in SHAPES
    ]
    into = [torch.empty_like(weight) for weight in weights]
    sets: list[list[Halves]] = [[], []]
    for number, made in enumerate(sets):
        for seed, weight in enumerate(weights):
            shape = (weight.shape[0], weight.shape[1])
            made.append(
                split_pair(*factors_of(shape, number + 2 * seed, device).pair(), torch.float16)
            )

    def switch(halves: list[Halves]) -> None:
        for before, after, (one, two, unit) in zip(weights, into, halves, strict=True):
            torch.addmm(before, one, two, alpha=unit, out=after)

    def peft_like(halves: list[Halves]) -> None:
        # PEFT's merge: the whole delta, then an addition in place; unmerging is the same again.
        for after, (one, two, unit) in zip(into, halves, strict=True):
            after.sub_(unit * (one @ two))
            after.add_(unit * (one @ two))

    def copies() -> None:
        for before, after in zip(weights, into, strict=True):
            after.copy_(before)

    floor, ours, theirs = (
        milliseconds(work) for work in (copies, lambda: switch(sets[1]), lambda: peft_like(sets[0]))
    )
    size = sum(weight.nbytes for weight in weights)
    print(f"device copy {2 * size / floor / 1e6:.0f} GB/s, floor {floor:.2f} ms")
    print(f"switch of {len(weights)} modules {ours:.2f} ms, {ours / floor:.2f} of the floor")
    print(f"unmerge and merge by whole deltas {theirs:.2f} ms, {theirs / ours:.1f} of ours")


def main() -> int:
    """Check, then measure; 0 also where there is no GPU."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=LAYERS)
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("skipped: no CUDA device here")
        return 0
    device = torch.device("cuda")
    # Partial sums stay in float32, or a long rank would be rounded on the way.
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    print(torch.cuda.get_device_name(), "torch", torch.__version__, "CUDA", torch.version.cuda)
    print(f"checked: at most {check(device):.3f} steps from the float64 sum")
    measure(device, arguments.layers)
    return 0


if __name__ == "__main__":
    sys.exit(main())
