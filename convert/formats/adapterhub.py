"""AdapterHub's ``adapters`` library: LoRA below ``.loras.<name>``.

Factors stand in PEFT's orientation; rank and alpha are in ``adapter_config.json`` under
``config``. GPT-2's fused ``c_attn`` holds the parts that ``attn_matrices`` lists, as
loralib's merged layer does. Only ``composition_mode: add`` without gating is LoRA; the
bottleneck adapters of the same library are recognised elsewhere and refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from adaptrix.convert.contents import Contents
from adaptrix.convert.draft import Draft, Factors, Format, Recognition, refuse
from adaptrix.convert.formats.peft_config import finite_alpha
from adaptrix.convert.merged_rows import PARTS, block_diagonal, blocks_of
from adaptrix.convert.options import ReadOptions
from adaptrix.convert.pairs import paired, with_alpha
from adaptrix.schema.adapter import Scale
from adaptrix.schema.canonical import Json
from adaptrix.schema.report import Problem

_KEY = re.compile(r"(?P<path>.+)\.loras\.(?P<name>[^.]+)\.(?:lora_(?P<side>[AB])|(?P<more>.+))")


def recognise(contents: Contents) -> Recognition | None:
    """Keys with ``.loras.<name>.``."""
    hits = [name for name in contents.tensors if ".loras." in name]
    if not hits:
        return None
    evidence = f"{len(hits)} of {len(contents.tensors)} keys have .loras.<name>."
    return Recognition(score=0.985, evidence=(evidence,))


def read(contents: Contents, options: ReadOptions) -> Draft:
    """Pair the factors of the one adapter in the file."""
    config = contents.config or {}
    inner = config.get("config")
    settings: Mapping[str, Json] = inner if isinstance(inner, Mapping) else {}
    name = config.get("model_name")
    base_name = name if isinstance(name, str) else ""
    refused = _refusal(contents, settings)
    if refused is not None:
        return refuse(
            contents,
            method="ia3" if refused.code == "ia3" else "lora",
            problems=(refused,),
            reason="not converted",
            hints=_paths(contents),
            base_name=base_name,
        )
    pairs = paired(contents.tensors, _rule)
    alpha = finite_alpha(settings.get("alpha"))
    factors, problems = with_alpha(pairs.factors, alpha, options, "adapter_config.json: config")
    found: list[Problem] = []
    spread = [_spread(pair, settings, found) for pair in factors]
    if found:
        return refuse(
            contents,
            method="lora",
            problems=(*problems, found[0]),
            reason="which parts have factors is not told",
            hints=_paths(contents),
            base_name=base_name,
        )
    return Draft(
        total=len(contents.tensors),
        factors=tuple(spread),
        unknown=pairs.unknown,
        problems=(*pairs.problems, *problems, *_rank_problems(pairs.factors, settings)),
        base_name=base_name,
    )


def _paths(contents: Contents) -> tuple[str, ...]:
    matches = (_KEY.fullmatch(name) for name in contents.tensors)
    return tuple(dict.fromkeys(match["path"] for match in matches if match))


def _rule(name: str) -> tuple[str, str] | None:
    match = _KEY.fullmatch(name)
    return (match["path"], match["side"].lower()) if match and match["side"] else None


def _refusal(contents: Contents, settings: Mapping[str, Json]) -> Problem | None:
    matches = [match for name in contents.tensors if (match := _KEY.fullmatch(name))]
    names = sorted({match["name"] for match in matches})
    if len(names) > 1:
        message = f"the file holds the adapters {', '.join(names[:8])}"
        return Problem.of("multiple_adapters", message)
    if settings.get("composition_mode", "add") == "scale":
        return Problem.of("ia3", "composition_mode scale: factors of activations (IA³)")
    gated = any(match["more"] and "gate" in match["more"] for match in matches)
    if settings.get("use_gating") is True or gated:
        return Problem.of("routed_adapter", "use_gating: a gate decides by the input")
    other = sorted({match["more"] for match in matches if match["more"]})
    if other:
        message = f"the library's variant with {', '.join(other[:4])} is not plain LoRA"
        return Problem.of("unsupported_method", message)
    return None


def _spread(pair: Factors, settings: Mapping[str, Json], found: list[Problem]) -> Factors:
    """GPT-2's fused layer as one pair of rank ``n·r``; any other pair as it is."""
    count = blocks_of(pair)
    if count < 1 or not pair.path.endswith("c_attn"):
        return pair
    listed = settings.get("attn_matrices")
    names = [n for n in listed if isinstance(n, str)] if isinstance(listed, list) else []
    blocks = [i for i, part in enumerate(PARTS) if part in names]
    if len(blocks) != count or pair.b.shape[0] % count:
        message = f"{count} parts of {pair.path} have factors, attn_matrices is {names}"
        found.append(Problem.of("ambiguous_layout", message, hint="Repair adapter_config.json."))
        return pair
    scale = pair.scale and Scale.from_alpha(pair.scale.alpha, pair.b.shape[1])
    return replace(pair, b=block_diagonal(pair.b, blocks, len(PARTS)), scale=scale)


def _rank_problems(factors: tuple[Factors, ...], settings: Mapping[str, Json]) -> list[Problem]:
    rank = settings.get("r")
    wrong = [f for f in factors if len(f.b.shape) == 2 and f.b.shape[1] != rank]
    if not isinstance(rank, int) or not wrong:
        return []
    message = f"the configuration says rank {rank}, {wrong[0].path} has {wrong[0].b.shape[1]}"
    return [Problem.of("rank_mismatch", message, where=wrong[0].path)]


FORMAT = Format(name="adapterhub", recognise=recognise, read=read)
