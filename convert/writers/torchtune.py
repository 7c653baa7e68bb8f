"""Writes torchtune's ``adapter_0.pt`` and the recipe's LoRA settings.

torchtune has one rank and one alpha, a list of attention modules, and switches for the MLP
and the output. Rows of q and k are put into Meta's order, head by head.
"""

from __future__ import annotations

from collections.abc import Sequence

from adaptrix.convert.arrays import take_rows
from adaptrix.convert.layouts.decoder import DECODERS, part_of
from adaptrix.convert.layouts.rotary import neighbour_rows
from adaptrix.convert.writers.families import other_family
from adaptrix.convert.writers.files import bytes_file
from adaptrix.convert.writers.heads import heads_of
from adaptrix.convert.writers.scales import alpha_for, number
from adaptrix.convert.writers.torch_file import torch_file
from adaptrix.convert.written import Written
from adaptrix.schema import media_types
from adaptrix.schema.adapter import AdaptedModule, Adapter, ModuleKind
from adaptrix.schema.errors import Refused
from adaptrix.schema.report import Fidelity
from adaptrix.schema.tensor import LazyTensor

TAILS = {
    "q": "attn.q_proj", "k": "attn.k_proj", "v": "attn.v_proj", "o": "attn.output_proj",
    "gate": "mlp.w1", "down": "mlp.w2", "up": "mlp.w3",
}  # fmt: skip
PERMUTED = frozenset({"llama", "mistral", "gemma", "gemma2"})
"""Families whose q and k torchtune keeps in Meta's order (``_permute`` in its converters)."""
_PLAIN = frozenset({"qwen2", "qwen3"})


def write(adapter: Adapter) -> Written:
    """The adapter as ``adapter_0.pt`` and ``torchtune_config.yaml``.

    Raises:
        Refused: a family, module, rank or scale that torchtune's recipe cannot say, or a
            base whose head counts are not known.
    """
    if adapter.family not in PERMUTED | _PLAIN or not adapter.modules:
        raise other_family("torchtune", adapter)
    if adapter.replacements:
        raise _refused(f"torchtune has no place for {adapter.replacements[0].parameter}")
    rank, alpha = _one_scale(adapter.modules)
    tensors: dict[str, LazyTensor] = {}
    parts: set[str] = set()
    for module in adapter.modules:
        part, layer = _place(adapter, module)
        parts.add(part)
        name = "output" if layer is None else f"layers.{layer}.{TAILS[part]}"
        rows = _rows(adapter, part, module.out_features)
        tensors[f"{name}.lora_a.weight"] = module.a
        tensors[f"{name}.lora_b.weight"] = take_rows(module.b, rows) if rows else module.b
        if module.magnitude is not None:
            m = module.magnitude
            tensors[f"{name}.magnitude"] = take_rows(m, rows) if rows else m
    recipe = _recipe(adapter, parts, rank, alpha).encode()
    return Written(
        files=(
            torch_file("adapter_0.pt", tensors),
            bytes_file("torchtune_config.yaml", recipe, media_types.WEIGHT_CONFIG_RAW),
        ),
        fidelity=Fidelity.EXACT,
        max_abs_error=0.0,
        tensors=len(tensors),
    )


def _one_scale(modules: Sequence[AdaptedModule]) -> tuple[int, float]:
    first = modules[0]
    alpha = alpha_for(first, float(first.rank))
    for module in modules:
        if module.rank != first.rank or module.scale.value != alpha / first.rank:
            raise _refused(f"torchtune has one rank and one alpha; {module.path} has its own")
        if (module.magnitude is None) != (first.magnitude is None):
            raise _refused(f"torchtune has DoRA on all modules or none, not as {module.path}")
        if module.bias_delta is not None or module.kind is not ModuleKind.LINEAR:
            raise _refused(f"torchtune has no bias or embedding factors for {module.path}")
    return first.rank, alpha


def _place(adapter: Adapter, module: AdaptedModule) -> tuple[str, int | None]:
    found = part_of(adapter.family, module.path) if adapter.family in DECODERS else None
    if found is None or found[0] == "embed":
        raise _refused(f"torchtune adapts no {module.path}")
    return found


def _rows(adapter: Adapter, part: str, rows: int) -> list[int]:
    """Rows of q or k in Meta's order; empty where they stay."""
    if part not in ("q", "k") or adapter.family not in PERMUTED:
        return []
    return neighbour_rows(rows, heads_of(adapter, part, rows, "torchtune"))


def _recipe(adapter: Adapter, parts: set[str], rank: int, alpha: float) -> str:
    attention = [TAILS[p].partition(".")[2] for p in ("q", "k", "v", "o") if p in parts]
    lines = [
        "model:",
        f"  lora_attn_modules: [{', '.join(attention)}]",
        f"  apply_lora_to_mlp: {str(bool({'gate', 'up', 'down'} & parts)).lower()}",
        f"  apply_lora_to_output: {str('head' in parts).lower()}",
        f"  lora_rank: {rank}",
        f"  lora_alpha: {number(alpha)}",
    ]
    if any(m.magnitude is not None for m in adapter.modules):
        lines.append("  use_dora: true")
    if adapter.base_name:
        lines += ["checkpointer:", f"  checkpoint_dir: models/{adapter.base_name}"]
    return "\n".join(lines) + "\n"


def _refused(message: str) -> Refused:
    return Refused(message, where="torchtune", code="unsupported_target")
