"""diffusers' own files, of all its generations.

Attention processors (to 0.20: ``…attn1.processor.to_q_lora.down.weight``), layers (``to_q.lora.down``,
``q_proj.lora_linear_layer.down``), and PEFT's factors below the component's name (from 0.22:
``unet.…to_q.lora_A.weight``). The scale is 1 unless the file says otherwise: by ``.alpha``, or,
since 0.34, by the configuration of each component in the safetensors metadata
(``lora_adapter_metadata``). Source: diffusers ``loaders/lora_base.py``, ``state_dict_utils.py``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace

from adaptrix.convert.contents import Contents
from adaptrix.convert.diffusion.assembly import read_modules
from adaptrix.convert.diffusion.models import COMPONENTS
from adaptrix.convert.diffusion.recognising import DIFFUSERS, recognised_as
from adaptrix.convert.draft import Draft, Factors, Format, Recognition
from adaptrix.convert.formats.peft_config import PeftConfig, parse_config
from adaptrix.convert.formats.peft_scale import resolve
from adaptrix.convert.options import ReadOptions
from adaptrix.convert.writers import diffusers
from adaptrix.schema.adapter import BaseRequirement, Scale
from adaptrix.schema.canonical import Json
from adaptrix.schema.errors import FormatError
from adaptrix.schema.report import Problem

METADATA_KEY = "lora_adapter_metadata"
Configs = Mapping[str, PeftConfig]


def recognise(contents: Contents) -> Recognition | None:
    """Dotted paths of diffusers' classes, below a component's name or bare."""
    return recognised_as(DIFFUSERS, contents, what="paths of diffusers' classes")


def read(contents: Contents, options: ReadOptions) -> Draft:
    """Factors by their paths; scales from the metadata where it has them."""
    draft = read_modules(contents, options, layout="diffusers")
    configs, problems = metadata_configs(contents)
    if not configs or any(problem.code == "invalid_config" for problem in problems):
        return replace(draft, problems=(*draft.problems, *problems))
    factors, found = _scaled(draft.factors, configs)
    told = all(f.path.partition(".")[0] in configs or "" in configs for f in factors)
    kept = [p for p in draft.problems if p.code != "assumed_alpha" or not told]
    residual = any(config.residual for config in configs.values())
    return replace(
        draft,
        factors=factors,
        needs_base=BaseRequirement.RESIDUAL if residual else draft.needs_base,
        problems=(*kept, *problems, *found, *_contradictions(draft.factors, factors, configs)),
    )


def _contradictions(
    stored: tuple[Factors, ...], scaled: tuple[Factors, ...], configs: Configs
) -> list[Problem]:
    """What the metadata says and the tensors do not."""
    found = []
    lacking = [
        pair.path
        for pair in scaled
        if pair.magnitude is None
        and (config := configs.get(pair.path.partition(".")[0], configs.get("")))
        and config.dora
    ]
    if lacking:
        message = f"use_dora, and {len(lacking)} modules lack their magnitude"
        found.append(Problem.of("unpaired_factor", message, where=lacking[0]))
    other = [
        old.path
        for old, new in zip(stored, scaled, strict=True)
        if old.scale and new.scale and old.scale.value not in (1.0, new.scale.value)
    ]
    if other:
        message = f"{len(other)} modules have another alpha of their own: the metadata's is used"
        found.append(Problem.of("alpha_rule", message, where=other[0]))
    return found


def metadata_configs(contents: Contents) -> tuple[Configs, tuple[Problem, ...]]:
    """PEFT's configuration of each component, ``""`` for a file of one bare network."""
    text = contents.metadata.get(METADATA_KEY)
    if not isinstance(text, str):
        return {}, ()
    try:
        stored = json.loads(text)
    except (ValueError, RecursionError):
        stored = None
    if not isinstance(stored, dict):
        return {}, (Problem.of("invalid_config", "not a JSON object", where=METADATA_KEY),)
    split: dict[str, dict[str, Json]] = {}
    for key, value in stored.items():
        first, _, rest = key.partition(".")
        place, name = (first, rest) if first in COMPONENTS and rest else ("", key)
        split.setdefault(place, {})[name] = value
    parsed = {component: parse_config(config) for component, config in split.items()}
    problems = tuple(problem for _, found in parsed.values() for problem in found)
    return {component: config for component, (config, _) in parsed.items()}, problems


def _scaled(
    factors: tuple[Factors, ...], configs: Configs
) -> tuple[tuple[Factors, ...], list[Problem]]:
    """Give the pairs of each component the scale that its configuration says."""
    problems: list[Problem] = []
    scales: dict[str, Scale] = {}
    # The first part of the path, also where no known pipeline has the rest of it.
    for component in sorted({pair.path.partition(".")[0] for pair in factors}):
        config = configs.get(component, configs.get(""))
        if config is None or config.alpha is None:
            continue
        ranks = {
            pair.path.removeprefix(f"{component}."): pair.rank
            for pair in factors
            if pair.path.startswith(f"{component}.") and pair.rank
        }
        try:
            settings, found = resolve(config, ranks)
        except FormatError as error:
            problem = Problem.of("invalid_config", error.message, where=METADATA_KEY)
            return factors, [problem]
        problems += found
        for path, rank in ranks.items():
            alpha = settings[path].alpha
            if alpha is not None:
                scale = Scale.from_alpha(alpha, rank, rslora=config.rslora)
                scales[f"{component}.{path}"] = scale
    return tuple(replace(f, scale=scales.get(f.path, f.scale)) for f in factors), problems


FORMAT = Format(name="diffusers", recognise=recognise, read=read, write=diffusers.write)
