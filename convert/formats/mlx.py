"""MLX-LM: ``adapters.safetensors`` (``adapters.npz`` before 2024-04), factors transposed.

``lora_a (in, r)`` and ``lora_b (r, out)``; the scale is applied as it stands and never
divided by the rank (mlx_lm, ``tuner/lora.py``: ``y + scale·(x@a)@b``). DoRA adds ``m (out,)``.
Layers of experts (``SwitchLinear``) hold ``lora_a (experts, r, in)``, or ``(experts·r, in)`` in
older versions, and ``lora_b (experts, out, r)``, not transposed: they become one pair each,
under the names that the model had before its experts were stacked.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from adaptrix.convert.architecture.detect import layer_indices
from adaptrix.convert.arrays import transpose
from adaptrix.convert.contents import CONFIG_NAME, Contents
from adaptrix.convert.draft import Draft, Factors, Format, Recognition, refuse
from adaptrix.convert.formats.mlx_experts import expert_pairs
from adaptrix.convert.formats.peft_config import finite_alpha, whole_rank
from adaptrix.convert.keys import strip_wrappers
from adaptrix.convert.layouts.mlx import transformers_name
from adaptrix.convert.options import ReadOptions
from adaptrix.convert.writers.mlx import write
from adaptrix.schema.adapter import BaseRequirement, ModuleKind, Scale
from adaptrix.schema.canonical import Json
from adaptrix.schema.report import Problem
from adaptrix.schema.tensor import LazyTensor

_LEAF = re.compile(r"(?P<path>.+)\.(?P<leaf>lora_a|lora_b|m)")
_EMBEDDINGS = {"embed_tokens", "wte", "word_embeddings", "embed_in"}
_CONFIG_KEYS = {"fine_tune_type", "lora_parameters", "lora_layers"}


@dataclass(frozen=True, slots=True)
class _Scale:
    """Absolute scale, or alpha to divide by the rank; both None when unknown."""

    absolute: float | None = None
    alpha: float | None = None

    def of(self, rank: int) -> Scale | None:
        if self.absolute is not None:
            return Scale.absolute(self.absolute, rank)
        return None if self.alpha is None else Scale.from_alpha(self.alpha, rank)


def recognise(contents: Contents) -> Recognition | None:
    """By ``.lora_a``/``.lora_b`` without ``.weight``, or by MLX-LM's own configuration."""
    if "gguf" in contents.kinds:
        return None
    hits = [n for n in contents.tensors if re.search(r"\.lora_[ab]$", n)]
    config = contents.config or {}
    declared = sorted(_CONFIG_KEYS & config.keys()) if "peft_type" not in config else []
    evidence = [f"{CONFIG_NAME} has {', '.join(declared)}"] * bool(declared)
    if hits:
        evidence.append(f"{len(hits)} of {len(contents.tensors)} keys end in lora_a/lora_b")
        return Recognition(score=0.97, evidence=tuple(evidence))
    if declared and (not contents.tensors or config.get("fine_tune_type") == "full"):
        return Recognition(score=0.97, evidence=tuple(evidence))
    return None


def read(contents: Contents, options: ReadOptions) -> Draft:
    """Pair and transpose the factors; the scale comes from ``lora_parameters``."""
    config = contents.config or {}
    model = config.get("model")
    base_name = model if isinstance(model, str) else ""
    if config.get("fine_tune_type") == "full":
        problem = Problem.of("full_checkpoint", "fine_tune_type is full: whole weights")
        return refuse(
            contents,
            method="full",
            problems=(problem,),
            reason="whole weights",
            base_name=base_name,
        )
    modules, unknown = _group(contents.tensors)
    scale, problems = _scale(config, options)
    factors: list[Factors] = []
    for path, leaves in modules.items():
        if not {"lora_a", "lora_b"} <= leaves.keys():
            message = f"has {', '.join(sorted(leaves))} and lacks the rest of its pair"
            problems.append(Problem.of("unpaired_factor", message, where=path))
            unknown += leaves.values()
        elif experts := expert_pairs(path, leaves, contents.tensors):
            factors += [replace(pair, scale=scale.of(pair.rank)) for pair in experts]
        elif shapeless := _not_matrices(path, leaves, contents.tensors):
            problems.append(shapeless)
            unknown += leaves.values()
        else:
            factors.append(_factors(path, leaves, contents.tensors, scale))
    if unknown and not problems:
        message = f"{len(unknown)} tensors are no LoRA factors, first {unknown[0]}"
        problems.append(Problem.of("unknown_tensors", message, where=unknown[0]))
    dora = any(f.magnitude is not None for f in factors)
    return Draft(
        method="dora" if dora else "lora",
        total=len(contents.tensors),
        factors=tuple(factors),
        ignored=(),
        unknown=tuple(unknown),
        problems=(*problems, *_rank_problems(config, factors), *_dora(config, factors)),
        base_name=base_name,
        task_type="CAUSAL_LM",
        needs_base=BaseRequirement.MERGE if dora else BaseRequirement.NONE,
        extra=_extra(factors),
    )


def _group(tensors: Mapping[str, LazyTensor]) -> tuple[dict[str, dict[str, str]], list[str]]:
    modules: dict[str, dict[str, str]] = {}
    unknown: list[str] = []
    for name in tensors:
        match = _LEAF.fullmatch(strip_wrappers(name))
        path = transformers_name(match["path"]) if match else ""
        if match is None or match["leaf"] in modules.get(path, {}):
            unknown.append(name)
        else:
            modules.setdefault(path, {})[match["leaf"]] = name
    return modules, unknown


def _not_matrices(
    path: str, leaves: Mapping[str, str], tensors: Mapping[str, LazyTensor]
) -> Problem | None:
    shapes = [list(tensors[leaves[leaf]].shape) for leaf in ("lora_a", "lora_b")]
    if all(len(shape) == 2 for shape in shapes):
        return None
    if any(len(shape) == 3 for shape in shapes):
        message = f"factors of experts of shapes {shapes[0]} and {shapes[1]} are no pairs"
        return Problem.of("shape_mismatch", message, where=path)
    message = f"factors of shapes {shapes[0]} and {shapes[1]}"
    return Problem.of("sharded_state", message, where=path)


def _factors(
    path: str, leaves: Mapping[str, str], tensors: Mapping[str, LazyTensor], scale: _Scale
) -> Factors:
    a, b = transpose(tensors[leaves["lora_a"]]), transpose(tensors[leaves["lora_b"]])
    magnitude = leaves.get("m")
    embedding = path.rpartition(".")[2] in _EMBEDDINGS
    return Factors(
        path=path,
        source=leaves["lora_a"].removesuffix(".lora_a"),
        a=a,
        b=b,
        kind=ModuleKind.EMBEDDING if embedding else ModuleKind.LINEAR,
        scale=scale.of(a.shape[0]) if a.shape[0] else None,
        magnitude=tensors[magnitude] if magnitude else None,
    )


def _parameters(config: Mapping[str, Json]) -> Mapping[str, Json]:
    found = config.get("lora_parameters")
    return found if isinstance(found, Mapping) else {}


def _scale(config: Mapping[str, Json], options: ReadOptions) -> tuple[_Scale, list[Problem]]:
    parameters = _parameters(config)
    stored = parameters.get("scale", config.get("scale"))
    where = f"{CONFIG_NAME}:lora_parameters.scale"
    if stored is not None:
        absolute = finite_alpha(stored)
        if absolute is None:
            message = f"a finite number, got {str(stored)[:40]}"
            return _Scale(), [Problem.of("invalid_config", message, where=where)]
        if doubted := _other_rule(config, absolute):
            if options.alpha is not None:
                return _Scale(alpha=options.alpha), []
            return _Scale(absolute), [doubted]
        if options.alpha is not None:
            message = f"--alpha {options.alpha} is not used: the file says scale {absolute}"
            return _Scale(absolute), [Problem.of("alpha_rule", message, where=where)]
        return _Scale(absolute), []
    if options.alpha is not None:
        return _Scale(alpha=options.alpha), []
    message = "MLX-LM's scale is not in the file (its default was 20.0 or 10.0 by version)"
    hint = "Pass --alpha with scale × rank (20.0 at rank 8: --alpha 160)."
    return _Scale(), [Problem.of("missing_alpha", message, where=where, hint=hint)]


def _other_rule(config: Mapping[str, Json], absolute: float) -> Problem | None:
    """What to say of a file that MLX-LM of before June 2024 may have trained.

    From January 2024 until then it applied ``scale·alpha/rank``; it has ignored ``alpha`` since,
    and written ``num_layers`` for ``lora_layers`` since September (mlx-examples, commits
    b1dec281, c457a3f8, 50e5ca81).
    """
    alpha, rank = (finite_alpha(_parameters(config).get(name)) for name in ("alpha", "rank"))
    if alpha is None or not rank or alpha == rank:
        return None
    if {"num_layers", "fine_tune_type"} & config.keys():
        return None
    scale = absolute * alpha / rank
    message = (
        f"scale {absolute:g} is applied as MLX-LM does since June 2024; before, it was "
        f"scale·alpha/rank, {scale:g}"
    )
    hint = f"Pass --alpha {scale * rank:g} if a version of before June 2024 trained it."
    where = f"{CONFIG_NAME}:lora_parameters.alpha"
    return Problem.of("alpha_rule", message, where=where, hint=hint)


def _rank_problems(config: Mapping[str, Json], factors: list[Factors]) -> list[Problem]:
    stored = _parameters(config).get("rank")
    if stored is None:
        return []
    where = f"{CONFIG_NAME}:lora_parameters.rank"
    rank = whole_rank(stored)
    if rank is None:
        return [Problem.of("invalid_rank", f"got {str(stored)[:40]}", where=where)]
    wrong = [f for f in factors if f.rank != rank]
    if not wrong:
        return []
    message = f"the configuration says rank {rank}, {wrong[0].path} has {wrong[0].rank}"
    return [Problem.of("rank_mismatch", message, where=where)]


def _dora(config: Mapping[str, Json], factors: list[Factors]) -> list[Problem]:
    having = [f.path for f in factors if f.magnitude is not None]
    lacking = [f.path for f in factors if f.magnitude is None]
    declared = config.get("fine_tune_type") == "dora" or config.get("use_dora") is True
    if lacking and (having or declared):
        message = f"DoRA, and {len(lacking)} modules lack their magnitude m"
        return [Problem.of("unpaired_factor", message, where=lacking[0])]
    return []


def _extra(factors: list[Factors]) -> dict[str, Json]:
    """MLX-LM adapts the last layers: a file that has layer 0 has all of them."""
    indices = layer_indices(f.path for f in factors)
    if not indices or indices[0] != 0:
        return {}
    return {"target_modules": sorted({f.path.rpartition(".")[2] for f in factors})}


FORMAT = Format(name="mlx", recognise=recognise, read=read, write=write)
