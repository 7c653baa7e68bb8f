"""llama.cpp's GGUF LoRA: ``blk.0.attn_q.weight.lora_a`` beside its key-value pairs.

Shapes are PEFT's (``lora_a (r, in)``, ``lora_b (out, r)``), except that ``token_embd`` has
``lora_a`` transposed. At run time the scale is ``alpha / r``, and 1 when alpha is 0 or
absent (llama.cpp, ``src/llama-adapter.h``, ``get_scale``). Rows of q and k of llama are
stored in pairs (``LlamaModel.permute``), rows of a fused q, k, v in blocks; they are put
back, which needs the head counts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from adaptrix.convert.architecture.dimensions import Dimensions, dimensions_of
from adaptrix.convert.architecture.known_bases import known_base
from adaptrix.convert.arrays import take_rows, transpose
from adaptrix.convert.contents import Contents
from adaptrix.convert.draft import Draft, Factors, Format, Recognition, refuse
from adaptrix.convert.formats.gguf_experts import joined, sliced
from adaptrix.convert.gguf_names import ARCHITECTURES, FUSED_QKV, GgufArchitecture
from adaptrix.convert.layouts import heads as layouts
from adaptrix.convert.layouts.forms import QKV
from adaptrix.convert.layouts.phi import split
from adaptrix.convert.layouts.rotary import half_rows
from adaptrix.convert.layouts.row_orders import part_rows
from adaptrix.convert.numeric import np
from adaptrix.convert.options import ReadOptions
from adaptrix.convert.writers.gguf import write
from adaptrix.schema.adapter import ModuleKind, Scale
from adaptrix.schema.canonical import Json
from adaptrix.schema.report import Problem
from adaptrix.schema.tensor import LazyTensor

_NAME = re.compile(r"(?P<module>[\w.]+?)\.weight\.lora_(?P<side>[ab])")


def recognise(contents: Contents) -> Recognition | None:
    """By the container; what it holds is told by ``general.type``."""
    if contents.kinds != {"gguf"}:
        return None
    kind = contents.metadata.get("general.type")
    architecture = contents.metadata.get("general.architecture")
    evidence = f"GGUF with general.type {kind}, general.architecture {architecture}"
    return Recognition(score=1.0, evidence=(evidence,))


def read(contents: Contents, options: ReadOptions) -> Draft:
    """Rename, pair, undo llama.cpp's row order; refuse what is no LoRA."""
    fields = contents.metadata
    stated = str(fields.get("general.architecture", ""))
    architecture = ARCHITECTURES.get(stated)
    problem = _refusal(fields, stated, architecture)
    if problem is not None or architecture is None:
        method = "full_checkpoint" if problem and problem.code == "full_checkpoint" else "lora"
        problems = (problem,) if problem else ()
        return refuse(contents, method=method, problems=problems, reason="not converted")
    pairs, unknown = _pairs(contents.tensors, architecture)
    problems_found: list[Problem] = []
    factors: list[Factors] = []
    for path, sides in pairs.items():
        if sides.keys() != {"a", "b"}:
            message = f"has lora_{'/'.join(sorted(sides))} and lacks the rest of its pair"
            problems_found.append(Problem.of("unpaired_factor", message, where=path))
            unknown += sides.values()
        else:
            factors += sliced(_factors(path, sides, contents.tensors))
    factors, found = _scaled(factors, fields, options)
    problems_found += found
    factors, found = joined(factors, read=options.check_values)
    problems_found += found
    base_name = _base_name(fields)
    factors, found = _reordered(factors, architecture, base_name, options)
    problems_found += found
    if unknown and not any(p.code == "unpaired_factor" for p in problems_found):
        message = f"{len(unknown)} tensors that {stated} has no place for, first {unknown[0]}"
        problems_found.append(Problem.of("unknown_tensors", message, where=unknown[0]))
    return Draft(
        method="lora",
        total=len(contents.tensors),
        factors=tuple(factors),
        unknown=tuple(unknown),
        problems=tuple(problems_found),
        base_name=base_name,
        architecture=_family(architecture, base_name, options, factors),
        layout="gguf",
        task_type="CAUSAL_LM",
    )


def _family(
    architecture: GgufArchitecture,
    base_name: str,
    options: ReadOptions,
    factors: Sequence[Factors],
) -> str:
    """The base's own type where llama.cpp loads several types as one architecture."""
    if architecture.with_experts and any(f.kind is ModuleKind.PARAMETER for f in factors):
        return architecture.with_experts
    known = known_base(base_name.replace(" ", "-"))
    stated = str((options.base_config or {}).get("model_type", ""))
    named = stated or (known.family if known else "")
    return named if named in architecture.others else architecture.family


def _refusal(
    fields: Mapping[str, Json], stated: str, architecture: GgufArchitecture | None
) -> Problem | None:
    kind = fields.get("general.type")
    if kind != "adapter":
        return Problem.of("full_checkpoint", f"GGUF with general.type {kind or 'model'}")
    if fields.get("adapter.type") != "lora":
        message = f"GGUF adapter of type {fields.get('adapter.type')}"
        return Problem.of("unsupported_method", message)
    if fields.get("adapter.alora.invocation_tokens"):
        message = "aLoRA acts only after its invocation tokens; as plain LoRA it would always act"
        return Problem.of("positional_adapter", message)
    if architecture is None:
        message = f"module names of GGUF architecture {stated[:40] or '(none named)'} are not known"
        hint = "Convert the PEFT adapter that it was made from."
        return Problem.of("unsupported_method", message, hint=hint)
    return None


def _pairs(
    tensors: Mapping[str, LazyTensor], architecture: GgufArchitecture
) -> tuple[dict[str, dict[str, str]], list[str]]:
    pairs: dict[str, dict[str, str]] = {}
    unknown: list[str] = []
    for name in tensors:
        match = _NAME.fullmatch(name)
        path = architecture.path_of(match["module"]) if match else None
        if path is None or match is None:
            unknown.append(name)
        else:
            pairs.setdefault(path, {})[match["side"]] = name
    return pairs, unknown


def _factors(path: str, sides: Mapping[str, str], tensors: Mapping[str, LazyTensor]) -> Factors:
    a, b = tensors[sides["a"]], tensors[sides["b"]]
    embedding = sides["a"].startswith("token_embd.")
    if embedding and len(a.shape) == 2:
        a = transpose(a)
    source = sides["a"].removesuffix(".lora_a")
    kind = ModuleKind.EMBEDDING if embedding else ModuleKind.LINEAR
    return Factors(path=path, source=source, a=a, b=b, kind=kind)


def _scaled(
    factors: list[Factors], fields: Mapping[str, Json], options: ReadOptions
) -> tuple[list[Factors], list[Problem]]:
    stored = fields.get("adapter.lora.alpha")
    alpha = float(stored) if isinstance(stored, int | float) else None
    if alpha is not None and not -1e12 <= alpha <= 1e12:
        problem = Problem.of("invalid_config", f"adapter.lora.alpha is {alpha}")
        return factors, [problem]
    if alpha:
        scaled = [
            replace(f, scale=Scale.from_alpha(alpha, f.rank)) if f.a.shape and f.rank else f
            for f in factors
        ]
        return scaled, _unused_alpha(alpha, options)
    message = "adapter.lora.alpha is absent or 0: llama.cpp then applies the scale 1"
    scaled = [
        replace(f, scale=Scale.absolute(1.0, f.rank)) if f.a.shape and f.rank else f
        for f in factors
    ]
    return scaled, [Problem.of("alpha_rule", message)]


def _unused_alpha(alpha: float, options: ReadOptions) -> list[Problem]:
    if options.alpha is None or options.alpha == alpha:
        return []
    message = f"--alpha {options.alpha} is not used: the file says {alpha}"
    return [Problem.of("alpha_rule", message)]


def _base_name(fields: Mapping[str, Json]) -> str:
    url = str(fields.get("general.base_model.0.repo_url", ""))
    if match := re.fullmatch(r"https?://huggingface\.co/([\w.-]+/[\w.-]+)/?", url):
        return match[1]
    organisation = str(fields.get("general.base_model.0.organization", ""))
    name = str(fields.get("general.base_model.0.name", ""))
    return f"{organisation}/{name}".strip("/")


def _reordered(
    factors: list[Factors],
    architecture: GgufArchitecture,
    base_name: str,
    options: ReadOptions,
) -> tuple[list[Factors], list[Problem]]:
    """Split Phi's fused input; put rows that are ordered by head back."""
    found: list[Factors] = []
    problems: list[Problem] = []
    known = known_base(base_name.replace(" ", "-"))
    config = options.base_config
    sizes = dimensions_of(config) if config else known.dimensions if known else Dimensions()
    for pair in factors:
        if not all(len(t.shape) == 2 for t in (pair.a, pair.b)):
            found.append(pair)  # the check of shapes reports it
        elif pair.path.endswith(FUSED_QKV):
            if pair.b.shape[0] == 3 * pair.a.shape[-1]:
                found += split(pair, pair.path.removesuffix(".Wqkv"), "phi-l2", None)
                continue
            message = f"fused q, k, v of {pair.b.shape[0]} rows, {3 * pair.a.shape[-1]} wanted"
            problems.append(Problem.of("shape_mismatch", message, where=pair.path))
            found.append(pair)
        else:
            rows = _original_rows(pair, architecture, sizes, config)
            if rows is None:
                problems.append(_heads_unknown(pair.path))
            found.append(replace(pair, b=take_rows(pair.b, rows)) if rows else pair)
    return found, problems[:1]


def _original_rows(
    pair: Factors,
    architecture: GgufArchitecture,
    sizes: Dimensions,
    config: Mapping[str, Json] | None,
) -> list[int] | None:
    """Rows of ``B`` in the order of transformers; ``[]`` where they are, None when unknown."""
    total = pair.b.shape[0]
    if architecture.permuted and pair.path.endswith(("q_proj", "k_proj")):
        heads = sizes.heads if pair.path.endswith("q_proj") else sizes.kv_heads or sizes.heads
        return None if heads is None or total % (2 * heads) else half_rows(total, heads)
    if architecture.order == "blocks" or not pair.source.endswith("attn_qkv.weight"):
        return []
    counts = layouts.heads_of(architecture.family, sizes, config)
    parts = part_rows(architecture.order, QKV, total, counts)
    if parts is None:
        return None
    stored = np.concatenate([parts[part] for part in QKV])
    return [int(row) for row in np.argsort(stored)]


def _heads_unknown(path: str) -> Problem:
    return Problem.of(
        "ambiguous_layout",
        "rows of q, k and v are stored by head; the number of heads is not known",
        where=path,
        hint="Pass --base with the base model's folder or id.",
    )


FORMAT = Format(name="gguf", recognise=recognise, read=read, write=write)
