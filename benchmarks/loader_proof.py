"""Proof at Phi-2's full size: merged weights against float64, logits against PEFT.

    python benchmarks/loader_proof.py FOLDER [--set five|wide] [--layers N]

FOLDER holds what ``benchmarks/phi2_checkpoint.py FOLDER`` wrote. Each part is a process of
its own; in float32 PEFT takes 17 GB, we 11.

1. float16, merged: every weight of every planned module against the dense float64 sum of
   base and adapters, computed here from the files' tensors with safetensors' own reader.
2. float32, merged and attached: logits against PEFT's, which runs with its adapters
   unmerged.
3. After leaving: every parameter is bit for bit what the file holds.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

sys.path.insert(0, str(Path(__file__).parent))
import loader_tools as bench
from loader_tools import FOLDER, Report, missing
from phi2_checkpoint import FIVE, WIDE

HALF = torch.finfo(torch.float16)


def opened(adapters: list[Path]) -> list[Any]:
    """The adapters as a session takes them."""
    from adaptrix import WeightedAdapter, open_path, read_adapter  # noqa: PLC0415

    found = []
    for path in adapters:
        adapter = read_adapter(open_path(path)).adapter
        assert adapter is not None
        found.append(WeightedAdapter(name=path.name, adapter=adapter))
    return found


def source_tensors(base: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor of the checkpoint, by safetensors' own reader."""
    for path in sorted(base.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118 (not a mapping)
                yield name, file.get_tensor(name)


def source_deltas(adapters: list[Path]) -> dict[str, list[tuple[Path, str, float]]]:
    """By weight name: file, key stem and scale of each update, in today's naming."""
    found: dict[str, list[tuple[Path, str, float]]] = {}
    for path in adapters:
        config = json.loads((path / "adapter_config.json").read_text(encoding="utf-8"))
        with safe_open(path / "adapter_model.safetensors", "pt") as file:
            stems = {key.partition(".lora_")[0] for key in file.keys()}  # noqa: SIM118
        for stem in stems:
            name = stem.removeprefix("base_model.model.") + ".weight"
            entry = (path / "adapter_model.safetensors", stem, config["lora_alpha"] / config["r"])
            found.setdefault(name, []).append(entry)
    return found


def exact_sum(weight: torch.Tensor, parts: list[tuple[Path, str, float]]) -> torch.Tensor:
    """``W + Σ s·B·A`` in float64."""
    total = weight.double()
    for path, stem, scale in parts:
        with safe_open(path, "pt") as file:
            down = file.get_tensor(f"{stem}.lora_A.weight").double()
            up = file.get_tensor(f"{stem}.lora_B.weight").double()
        total.addmm_(up, down, alpha=scale)
    return total


def weights(base: Path, adapters: list[Path]) -> Report:
    """Part 1 and 3."""
    from adaptrix import Session  # noqa: PLC0415

    bench.without_tokenizer()
    session = Session.open(str(base), opened(adapters))
    check = session.self_check()
    deltas = source_deltas([bench.in_todays_naming(path) for path in adapters])
    planned = {f"{module.path}.weight" for module in session.plan.modules}
    if planned != set(deltas):
        raise SystemExit(f"planned {len(planned)} modules, the files hold {len(deltas)}")
    off = count = worst = 0.0
    for name, before in source_tensors(base):
        if name not in deltas:
            continue
        exact = exact_sum(before, deltas[name])
        got = session.base.model.get_parameter(name)
        off += float((got != exact.half()).sum())
        count += got.numel()
        # In steps of float16 at that value; half a step is an exact rounding.
        step = torch.exp2(exact.abs().clamp_min(HALF.tiny).log2().floor()) * HALF.eps
        worst = max(worst, float(((got.double() - exact).abs() / step).max()))
    session.detach()
    same = all(
        torch.equal(session.base.model.get_parameter(name).to(value.dtype), value)
        for name, value in source_tensors(base)
    )
    return {
        "modules": len(planned),
        "weights": count,
        "not_the_exact_rounding": off,
        "worst_steps": worst,
        "worst_survival": min(each.survival for each in check.modules),
        "base_is_back": float(same),
    }


def save_logits(model: Any, path: Path) -> None:
    """Logits of 64 fixed token ids, all positions."""
    ids = torch.arange(64).reshape(2, 32) * 7 % 1000
    with torch.inference_mode():
        torch.save(model(input_ids=ids).logits.float(), path)


def peft_logits(base: Path, adapters: list[Path]) -> Report:
    """PEFT in float32, all adapters active and unmerged."""
    tuned = bench.peft_model(base, [bench.in_todays_naming(p) for p in adapters], torch.float32)
    tuned.base_model.set_adapter([bench.in_todays_naming(path).name for path in adapters])
    save_logits(tuned.eval(), base.parent / "peft.pt")
    with tuned.disable_adapter():
        save_logits(tuned, base.parent / "plain.pt")
    return {"peak": bench.peak_bytes()}


def our_logits(base: Path, adapters: list[Path], mode: str, dtype: str) -> Report:
    """Ours against PEFT's, relative to the greatest logit, and what the adapters changed."""
    from adaptrix import Session  # noqa: PLC0415

    bench.without_tokenizer()
    session = Session.open(str(base), opened(adapters), mode=mode, dtype=getattr(torch, dtype))
    session.self_check()
    save_logits(session.base.model, base.parent / "ours.pt")
    ours, wanted, plain = (
        torch.load(base.parent / f"{name}.pt") for name in ("ours", "peft", "plain")
    )
    scale = wanted.abs().max()
    return {
        "relative_error": float((ours - wanted).abs().max() / scale),
        "effect": float((wanted - plain).abs().max() / scale),
        "peak": bench.peak_bytes(),
    }


PARTS: dict[str, Callable[[Path, list[Path]], Report]] = {
    "weights": weights,
    "peft_logits": peft_logits,
    "merged_float32": lambda base, adapters: our_logits(base, adapters, "merged", "float32"),
    "attached_float32": lambda base, adapters: our_logits(base, adapters, "attached", "float32"),
    "merged_float16": lambda base, adapters: our_logits(base, adapters, "merged", "float16"),
}


def main() -> int:
    """Run every part; 0 when all that is promised holds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", default=FOLDER)
    parser.add_argument("--set", choices=("five", "wide"), default="five")
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=list(PARTS))
    parser.add_argument("--child", choices=PARTS)
    arguments = parser.parse_args()
    base = arguments.folder / "base"
    if missing(base):
        return 0
    names = FIVE if arguments.set == "five" else WIDE
    adapters = [arguments.folder / "adapters" / name for name in names]
    if arguments.child:
        bench.quiet()
        print(json.dumps(PARTS[arguments.child](base, adapters)))
        return 0
    found: dict[str, Report] = {}
    for part in arguments.parts:
        words = [sys.executable, __file__, str(arguments.folder), "--set", arguments.set]
        done = subprocess.run([*words, "--child", part], stdout=subprocess.PIPE, check=True)
        found[part] = json.loads(done.stdout.splitlines()[-1])
        print(part, json.dumps(found[part]), flush=True)
    good = not found.get("weights") or (
        found["weights"]["worst_steps"] <= 1 and found["weights"]["base_is_back"] == 1
    )
    for part in ("merged_float32", "attached_float32"):
        if part in found:
            good &= found[part]["relative_error"] <= 1e-5 < found[part]["effect"]
    print("PASS" if good else "FAIL")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
