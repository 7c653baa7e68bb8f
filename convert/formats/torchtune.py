"""torchtune's own adapter files, and LoRA on Meta's original Llama code.

``layers.0.attn.q_proj.lora_a.weight (r, in)`` and ``.lora_b.weight (out, r)``; DoRA adds
``magnitude (out,)``. Rows of q and k are in Meta's rotary order for every model that
torchtune converts with a permutation (Llama, Mistral, Gemma) and in transformers' order for
Qwen (torchtune, ``models/convert_weights.py``, ``models/qwen2``). Alpha is in the recipe.
"""

from __future__ import annotations

import re
from dataclasses import replace

from adaptrix.convert.architecture.base import NamedBase, model_id, named_base
from adaptrix.convert.contents import Contents
from adaptrix.convert.draft import Draft, Factors, Format, Recognition
from adaptrix.convert.keys import strip_wrappers
from adaptrix.convert.layouts.decoder import DECODERS, module_path
from adaptrix.convert.layouts.rotary import half_rows, reorder
from adaptrix.convert.options import ReadOptions
from adaptrix.convert.pairs import paired, stored_number, stored_text, suffix_rule, with_alpha
from adaptrix.convert.writers.torchtune import PERMUTED, TAILS, write
from adaptrix.schema.adapter import BaseRequirement, ModuleKind
from adaptrix.schema.report import Problem

_RULE = suffix_rule(".lora_a.weight", ".lora_b.weight", m=".magnitude")
_META = suffix_rule(".lora_A.weight", ".lora_B.weight")
_META_BARE = suffix_rule(".lora_A", ".lora_B")
_BLOCK = re.compile(r"(?:decoder\.)?layers\.(\d{1,4})\.(.+)")
_PARTS = {tail: part for part, tail in TAILS.items()} | {
    "attention.wq": "q", "attention.wk": "k", "attention.wv": "v", "attention.wo": "o",
    "feed_forward.w1": "gate", "feed_forward.w2": "down", "feed_forward.w3": "up",
}  # fmt: skip
_OUTER = {"output": "head", "tok_embeddings": "embed"}


def recognise(contents: Contents) -> Recognition | None:
    """Factors named ``lora_a.weight``, or any factors on Meta's ``attention.wq``."""
    own = [n for n in contents.tensors if n.endswith((".lora_a.weight", ".lora_b.weight"))]
    meta = [n for n in contents.tensors if re.search(r"\.attention\.w[qkvo]\.lora_[AB]\b", n)]
    stacked = [n for n in contents.tensors if re.search(r"\.lora_(gate|up|down)_[ab]$", n)]
    hits = [*own, *meta, *stacked]
    if not hits or "gguf" in contents.kinds:
        return None
    kind = "Meta's Llama" if meta else "torchtune"
    evidence = f"{len(hits)} of {len(contents.tensors)} keys are {kind}'s factors"
    return Recognition(score=0.985, evidence=(evidence,))


def read(contents: Contents, options: ReadOptions) -> Draft:
    """Rename, put rows of q and k into transformers' order."""
    pairs = paired(contents.tensors, _rule)
    declared = stored_text(
        contents, "base_model_name_or_path", "checkpointer.checkpoint_dir", "tokenizer.path"
    )
    place = model_id(declared)
    base = named_base(options, place)
    alpha = stored_number(contents, "lora_alpha")
    factors, problems = with_alpha(pairs.factors, alpha, options, "the recipe has it")
    found: list[Problem] = []
    placed = [_placed(pair, base, found) for pair in factors]
    dora = any(f.magnitude is not None for f in placed)
    return Draft(
        method="dora" if dora else "lora",
        total=len(contents.tensors),
        factors=tuple(placed),
        unknown=pairs.unknown,
        problems=(*pairs.problems, *problems, *found[:1]),
        base_name=place,
        task_type="CAUSAL_LM",
        layout="torchtune",
        needs_base=BaseRequirement.MERGE if dora else BaseRequirement.NONE,
    )


def _rule(name: str) -> tuple[str, str] | None:
    bare = strip_wrappers(name)
    found = _RULE(bare) or _META(bare)
    return found or (
        _META_BARE(bare) if "attention.w" in bare or "feed_forward.w" in bare else None
    )


def _placed(pair: Factors, base: NamedBase, found: list[Problem]) -> Factors:
    block = _BLOCK.fullmatch(pair.path)
    part = _PARTS.get(block[2], "") if block else _OUTER.get(pair.path, "")
    if not part:
        message = "no module of a torchtune decoder that is converted"
        found.append(Problem.of("unsupported_method", message, where=pair.path))
        return pair
    # Names are the same for every gated decoder; what differs is the order of rows.
    family = base.family or ("llama" if part not in ("q", "k") else "")
    if family and "gate" not in DECODERS.get(family, {}):
        message = f"torchtune's factors for {family}, whose projections are fused in transformers"
        found.append(Problem.of("unsupported_method", message, where=pair.path))
        return pair
    path = module_path(family or "llama", part, int(block[1]) if block else None)
    kind = ModuleKind.EMBEDDING if part == "embed" else ModuleKind.LINEAR
    placed = replace(pair, path=str(path), kind=kind)
    return _unrotated(placed, part, base, found) if part in ("q", "k") else placed


def _unrotated(pair: Factors, part: str, base: NamedBase, found: list[Problem]) -> Factors:
    if base.family and base.family not in PERMUTED:
        return pair
    heads = base.sizes.heads if part == "q" else base.sizes.kv_heads or base.sizes.heads
    if not base.family or heads is None:
        message = "the row order of q and k depends on the base and its number of heads"
        hint = "Pass --base with the base model's folder or id."
        found.append(Problem.of("ambiguous_layout", message, where=pair.path, hint=hint))
        return pair
    if not pair.b.shape or pair.b.shape[0] % (2 * heads):
        message = f"{list(pair.b.shape)} rows do not divide into {heads} heads"
        found.append(Problem.of("shape_mismatch", message, where=pair.path))
        return pair
    return reorder(pair, half_rows(pair.b.shape[0], heads))


FORMAT = Format(name="torchtune", recognise=recognise, read=read, write=write)
