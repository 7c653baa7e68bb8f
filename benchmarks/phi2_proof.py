"""Proof at the full width of Phi-2: our conversions against dense float64, PEFT and our loader.

1. Every configuration below, in each naming L1 to L4, as a raw file of this script's own
   making: the update of every module after ``adaptrix convert`` equals the float64 product
   computed from the source file. 32 layers; ``--layers N`` for fewer.
2. PEFT loads the converted adapter into a Phi of full width with no key missing and none
   unexpected; its float32 logits equal ours, merged and attached. Two layers, since the
   model takes 315 MB a layer; ``--full`` takes all 32 for one configuration (15 GB).
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
from peft.utils import load_peft_weights
from safetensors import safe_open
from safetensors.numpy import save_file
from transformers import PhiConfig, PhiForCausalLM

from adaptrix import Digest, Registry, Session, WeightedAdapter, open_path, read_adapter
from adaptrix.loader.base import BaseModel
from adaptrix.loader.structure import structure_of

sys.path.insert(0, str(Path(__file__).parent))
from phi2_shapes import HEADS, INNER, LAYERS, WIDTH

LAYOUTS = ("l1", "l2", "l3", "l4")
TOLERANCE = 1e-5
VOCABULARY = 51200


@dataclass(frozen=True)
class Configuration:
    """Rank, alpha and modules (in today's names) that people have trained Phi-2 with."""

    rank: int
    alpha: int
    modules: tuple[str, ...]
    rslora: bool = False
    whole_rows: int = 0  # of embed_tokens and lm_head, saved whole
    dtype: type[np.floating] = np.float32

    @property
    def scale(self) -> float:
        """What ``B·A`` is multiplied by, from the definition."""
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)

    def __str__(self) -> str:
        words = [f"r={self.rank} alpha={self.alpha} {','.join(self.modules)}"]
        words += ["rslora"] * self.rslora + ["whole embed_tokens,lm_head"] * bool(self.whole_rows)
        return " ".join(words + ["float16"] * (self.dtype is np.float16))


QV, QKV = ("q_proj", "v_proj"), ("q_proj", "k_proj", "v_proj")
FOUR, SIX = (*QKV, "dense"), (*QKV, "dense", "fc1", "fc2")
# Those of public repositories that fine-tuned Phi-2, without repetitions, and rsLoRA.
CONFIGURATIONS = (
    Configuration(4, 16, QKV),
    Configuration(8, 16, FOUR),
    Configuration(8, 16, (*QV, "fc1", "fc2")),
    Configuration(8, 16, QKV),
    Configuration(8, 32, QKV),
    Configuration(8, 32, FOUR),
    Configuration(16, 16, (*QKV, "fc1", "fc2")),
    Configuration(16, 16, SIX),
    Configuration(16, 32, QV),
    Configuration(16, 32, FOUR),
    Configuration(16, 64, (*QKV, "fc1", "fc2")),
    Configuration(32, 64, SIX),
    Configuration(32, 64, (*QKV, "fc1", "fc2")),
    Configuration(64, 128, FOUR),
    Configuration(64, 16, ("dense",)),
    Configuration(32, 8, SIX, rslora=True),
    # One of them has modules_to_save; half precision keeps it at half a gigabyte.
    Configuration(8, 16, FOUR, whole_rows=VOCABULARY, dtype=np.float16),
)

Parts = dict[str, tuple[str, NDArray[np.intp] | slice]]


def parts_of(layout: str, layer: int, modules: tuple[str, ...]) -> Parts:
    """Canonical path → name in the file and the rows of its B that belong to the path.

    L1, L2: rows of ``Wqkv`` are q, k, v one after the other. L3: head by head q, k, v.
    L1 counts the embedding as layer 0.
    """
    fused = np.arange(3 * WIDTH)
    by_head = fused.reshape(HEADS, 3, WIDTH // HEADS)
    canonical = f"model.layers.{layer}"
    prefix = {"l1": f"layers.{layer + 1}", "l2": f"transformer.h.{layer}"}.get(layout, canonical)
    attention = "mixer" if layout in {"l1", "l2"} else "self_attn"
    found: Parts = {}
    for module in modules:
        if module.startswith("fc"):
            found[f"{canonical}.mlp.{module}"] = (f"{prefix}.mlp.{module}", slice(None))
        elif module == "dense":
            name = "out_proj" if attention == "mixer" else "dense"
            found[f"{canonical}.self_attn.dense"] = (f"{prefix}.{attention}.{name}", slice(None))
        elif layout == "l4":
            name = f"{prefix}.self_attn.{module}"
            found[f"{canonical}.self_attn.{module}"] = (name, slice(None))
        else:
            index = QKV.index(module)
            rows = by_head[:, index].ravel() if layout == "l3" else fused.reshape(3, -1)[index]
            name = f"{prefix}.{attention}.{'query_key_value' if layout == 'l3' else 'Wqkv'}"
            found[f"{canonical}.self_attn.{module}"] = (name, rows)
    return found


def saved_names(layout: str) -> dict[str, str]:
    """Canonical name → name in the file of the embedding and the head, kept whole."""
    wte, head = {
        "l1": ("layers.0.wte", f"layers.{LAYERS + 1}.linear"),
        "l2": ("transformer.embd.wte", "lm_head.linear"),
    }.get(layout, ("model.embed_tokens", "lm_head"))
    return {
        "model.embed_tokens.weight": f"{wte}.weight",
        "lm_head.weight": f"{head}.weight",
        "lm_head.bias": f"{head}.bias",
    }


def write_source(folder: Path, case: Configuration, layout: str, layers: int) -> dict[str, str]:
    """Write the raw PEFT folder; returns which file module each canonical path came from.

    A fused naming adapts q, k and v together, so ``q_proj,v_proj`` gains k there.
    """
    modules = case.modules
    if layout != "l4" and set(QV) & set(modules):
        modules = tuple(dict.fromkeys((*QKV, *modules)))
    rng = np.random.default_rng(case.rank)
    tensors: dict[str, NDArray[np.floating]] = {}
    origin: dict[str, str] = {}
    for layer in range(layers):
        for path, (name, _) in parts_of(layout, layer, modules).items():
            origin[path] = name
            into = INNER if name.endswith("fc2") else WIDTH
            fused = name.endswith(("Wqkv", "query_key_value"))
            out = INNER if name.endswith("fc1") else 3 * WIDTH if fused else WIDTH
            key = f"base_model.model.{name}"
            if f"{key}.lora_A.weight" in tensors:
                continue
            a = rng.standard_normal((case.rank, into), dtype=np.float32)
            b = rng.standard_normal((out, case.rank), dtype=np.float32)
            tensors[f"{key}.lora_A.weight"] = (a / math.sqrt(into)).astype(case.dtype)
            tensors[f"{key}.lora_B.weight"] = (b / 100).astype(case.dtype)
    saved = saved_names(layout) if case.whole_rows else {}
    for name in saved.values():
        shape = (case.whole_rows,) + (WIDTH,) * (not name.endswith("bias"))
        whole = rng.standard_normal(shape, dtype=np.float32) / 50
        tensors[f"base_model.model.{name}"] = whole.astype(case.dtype)
    folder.mkdir(parents=True)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": case.rank, "lora_alpha": case.alpha,
        "base_model_name_or_path": "microsoft/phi-2", "use_rslora": case.rslora,
        "target_modules": sorted({name.rpartition(".")[2] for name in origin.values()}),
        "modules_to_save": sorted({name.split(".")[-2] for name in saved.values()}) or None,
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    return origin


def update_errors(
    source: Path, converted: Path, case: Configuration, layout: str, layers: int
) -> Iterator[tuple[str, float]]:
    """Per module: greatest difference from the source's dense update, over its greatest entry."""
    config = json.loads((converted / "adapter_config.json").read_text(encoding="utf-8"))
    if config.get("rank_pattern") or config.get("alpha_pattern"):
        raise SystemExit("one rank and one alpha came in, patterns came out")
    divisor = math.sqrt(config["r"]) if config.get("use_rslora") else config["r"]
    scale = config["lora_alpha"] / divisor
    modules = case.modules
    if layout != "l4" and set(QV) & set(modules):
        modules = tuple(dict.fromkeys((*QKV, *modules)))
    with (
        safe_open(source / "adapter_model.safetensors", "np") as old,
        safe_open(converted / "adapter_model.safetensors", "np") as new,
    ):
        left = set(new.keys())
        for layer in range(layers):
            for path, (name, rows) in parts_of(layout, layer, modules).items():
                keys = [f"base_model.model.{path}.lora_{f}.weight" for f in "AB"]
                a, b = (new.get_tensor(key).astype(np.float64) for key in keys)
                key = f"base_model.model.{name}"
                down = old.get_tensor(f"{key}.lora_A.weight").astype(np.float64)
                up = old.get_tensor(f"{key}.lora_B.weight").astype(np.float64)[rows]
                wanted = case.scale * (up @ down)
                error = np.abs(scale * (b @ a) - wanted).max() / np.abs(wanted).max()
                left -= set(keys)
                yield path, float(error)
        for path, name in saved_names(layout).items() if case.whole_rows else ():
            key = f"base_model.model.{path}"
            same = np.array_equal(new.get_tensor(key), old.get_tensor(f"base_model.model.{name}"))
            left -= {key}
            yield path, 0.0 if same else math.inf
        if left:
            raise SystemExit(f"tensors from nowhere: {sorted(left)[:3]}")


def base_model(layers: int, vocabulary: int) -> PhiForCausalLM:
    """A random Phi of full width, float32."""
    torch.manual_seed(0)
    config = PhiConfig(
        vocab_size=vocabulary, hidden_size=WIDTH, intermediate_size=INNER,
        num_hidden_layers=layers, num_attention_heads=HEADS, partial_rotary_factor=0.4,
        resid_pdrop=0.0, embd_pdrop=0.0, attention_dropout=0.0, tie_word_embeddings=False,
    )  # fmt: skip
    return PhiForCausalLM(config).eval()


def wrapped(model: PhiForCausalLM) -> BaseModel:
    """The model as the loader takes it."""
    return BaseModel(
        name="phi-2 shape", model=model, tokenizer=None, structure=structure_of(model, "phi-2"),
        config_digest=Digest.of(b""), dtype=torch.float32, compute_dtype=torch.float32,
        device=torch.device("cpu"),
    )  # fmt: skip


@torch.inference_mode()
def logits(model: torch.nn.Module) -> torch.Tensor:
    """Logits of two fixed rows of token ids."""
    ids = torch.arange(32).reshape(2, 16) * 7 % 1000
    found: torch.Tensor = model(input_ids=ids).logits
    return found


def logit_errors(converted: Path, model: PhiForCausalLM) -> dict[str, float]:
    """Missing and unexpected keys in PEFT, its effect, and our relative differences from it."""
    untouched = logits(model)
    whole = {name: model.get_submodule(name) for name in ("model.embed_tokens", "lm_head")}
    tuned = get_peft_model(model, LoraConfig.from_pretrained(str(converted)))
    result = set_peft_model_state_dict(tuned, load_peft_weights(str(converted), device="cpu"))
    tuned.eval()
    wanted = logits(tuned)
    ours = ("lora_", "modules_to_save")
    missing = [key for key in result.missing_keys if any(mark in key for mark in ours)]
    plain = tuned.unload()
    for name, module in whole.items():
        # PEFT leaves the adapter's whole modules behind; the base's own are what we start from.
        plain.set_submodule(name, module)
    if not torch.equal(logits(plain), untouched):
        raise SystemExit("the base is not the one that PEFT started from")
    scale = wanted.abs().max()
    found = {
        "missing": float(len(missing)),
        "unexpected": float(len(result.unexpected_keys)),
        "effect": float((wanted - untouched).abs().max() / scale),
    }
    adapter = read_adapter(open_path(converted)).adapter
    if adapter is None:
        raise SystemExit(f"{converted}: our own writing is not read")
    for mode in ("attached", "merged"):
        session = Session.open(wrapped(plain), [WeightedAdapter(name="a", adapter=adapter)],
                               mode=mode)  # fmt: skip
        found[mode] = float((logits(plain) - wanted).abs().max() / scale)
        session.detach()
    found["back"] = float(not torch.equal(logits(plain), untouched))
    return found


def convert(registry: Registry, source: Path, out: Path) -> None:
    """Convert as users do, and insist on an exact result."""
    report = registry.convert(str(source), to="peft", output=out)
    if report.fidelity != "exact":
        raise SystemExit(f"{source}: {report.fidelity}")


def prove_updates(root: Path, registry: Registry, layers: int) -> bool:
    """Part 1; prints one row per configuration and naming."""
    good = True
    print(f"1. updates of {layers} layers against dense float64 of the source file")
    print(f"{'naming':7} {'modules':>7} {'worst relative difference':>26}  configuration")
    for case in CONFIGURATIONS:
        for layout in LAYOUTS:
            source, out = root / "source", root / "out"
            origin = write_source(source, case, layout, layers)
            convert(registry, source, out)
            errors = dict(update_errors(source, out, case, layout, layers))
            worst = max(errors.values())
            # The same operands in the same order: not a bit may differ.
            wanted = {*origin, *saved_names(layout)} if case.whole_rows else {*origin}
            good &= worst == 0 and set(errors) == wanted
            print(f"{layout:7} {len(errors):7} {worst:26.3g}  {case}", flush=True)
            shutil.rmtree(source)
            shutil.rmtree(out)
    return good


def prove_logits(root: Path, registry: Registry, layers: int, vocabulary: int) -> bool:
    """Part 2; prints one row per configuration and naming."""
    good = True
    # All layers: one configuration, whose merge needs 15 GB in float32.
    cases = CONFIGURATIONS if layers < LAYERS else (Configuration(16, 32, FOUR),)
    print(f"2. float32 logits of {layers} layers against PEFT, relative to the greatest logit")
    print(f"{'naming':7} {'missing':>7} {'unexp.':>6} {'effect':>8} {'attached':>9} {'merged':>9}"
          "  configuration")  # fmt: skip
    for case in cases:
        for layout in LAYOUTS:
            source, out = root / "source", root / "out"
            write_source(source, case, layout, layers)
            convert(registry, source, out)
            found = logit_errors(out, base_model(layers, case.whole_rows or vocabulary))
            good &= not (found["missing"] or found["unexpected"] or found["back"])
            good &= max(found["attached"], found["merged"]) <= TOLERANCE < found["effect"]
            print(f"{layout:7} {found['missing']:7.0f} {found['unexpected']:6.0f} "
                  f"{found['effect']:8.2g} {found['attached']:9.2g} {found['merged']:9.2g}  {case}",
                  flush=True)  # fmt: skip
            shutil.rmtree(source)
            shutil.rmtree(out)
            gc.collect()
    return good


def main() -> int:
    """Run both parts; 0 when everything holds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=LAYERS)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--part", type=int, choices=(1, 2))
    arguments = parser.parse_args()
    started = time.monotonic()
    good = True
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        with Registry(root / "home") as registry:
            if arguments.part != 2:
                good &= prove_updates(root, registry, arguments.layers)
            if arguments.part != 1:
                full = arguments.full
                good &= prove_logits(
                    root, registry, LAYERS if full else 2, VOCABULARY if full else 2048
                )
    print(f"{'PASS' if good else 'FAIL'} in {time.monotonic() - started:.0f} s")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
