"""Hugging Face PEFT: ``adapter_config.json`` with safetensors or a pickle.

Keys and shapes as PEFT 0.2 to 0.21 write them (``get_peft_model_state_dict``). The tensors
are the truth and the configuration explains them: what it lists and the file lacks is a
warning, what the file holds and it does not explain is an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from adaptrix.convert.architecture.base import named_base
from adaptrix.convert.contents import CONFIG_NAME, Contents
from adaptrix.convert.diffusion.bare import with_component
from adaptrix.convert.draft import Draft, Factors, Format, Recognition, refuse
from adaptrix.convert.formats.peft_config import PeftConfig, parse_config
from adaptrix.convert.formats.peft_initial import subtract_initial
from adaptrix.convert.formats.peft_others import read_other_method
from adaptrix.convert.formats.peft_parameters import parameters
from adaptrix.convert.formats.peft_replacements import (
    VALUE_HEAD,
    Leftovers,
    is_saved,
    is_whole_model,
    replacements,
)
from adaptrix.convert.formats.peft_scale import Setting, resolve
from adaptrix.convert.formats.peft_stacked import interleaved, unstacked
from adaptrix.convert.formats.peft_targets import kept_settings, suffixes
from adaptrix.convert.formats.peft_variants import (
    apply_variant,
    parse_variant,
    without_training_state,
)
from adaptrix.convert.keys import FACTOR_LEAVES, container_of, parse_key
from adaptrix.convert.layouts.experts import base_path
from adaptrix.convert.merged_linear import expand
from adaptrix.convert.options import ReadOptions
from adaptrix.convert.writers.peft import DIAGONAL, KASA, write
from adaptrix.schema.adapter import BaseRequirement, ModuleKind, Scale
from adaptrix.schema.errors import FormatError
from adaptrix.schema.report import Fidelity, Problem
from adaptrix.schema.tensor import LazyTensor

_VARIANT_LEAVES: Mapping[str, str] = {
    "lora_E": "AdaLoRA's singular values, and the configuration does not say AdaLoRA",
}
Groups = dict[str, dict[str, str]]
"""Name of the tensor by leaf, by module path."""


def recognise(contents: Contents) -> Recognition | None:
    """PEFT by ``peft_type``, or by keys that end in ``.lora_A.weight``."""
    factors = sum(parse_key(name).leaf in FACTOR_LEAVES for name in contents.tensors)
    declared = (contents.config or {}).get("peft_type")
    if "gguf" in contents.kinds:
        return None
    if isinstance(declared, str):
        evidence = f"{CONFIG_NAME} has peft_type {declared[:40]}"
        if not contents.tensors or factors or declared.upper() != "LORA":
            return Recognition(score=0.98, evidence=(evidence, *_seen(factors, contents)))
        return Recognition(score=0.3, evidence=(evidence,))
    if factors:
        score = 0.9 if any(".lora_A." in name or ".lora_embedding_" in name for name in contents.tensors) else 0.4  # fmt: skip
        return Recognition(score=score, evidence=_seen(factors, contents))
    return None


def _seen(factors: int, contents: Contents) -> tuple[str, ...]:
    if not factors:
        return ()
    return (f"{factors} of {len(contents.tensors)} keys end in PEFT's lora_A/lora_B leaves",)


def read(contents: Contents, options: ReadOptions) -> Draft:
    """Pair the factors, resolve their scales, sort out everything beside them."""
    config, problems = parse_config(contents.config)
    other = read_other_method(contents, config, problems, options)
    if other is not None:
        return other
    if several := _several(contents.tensors):
        reason, name = "one of several adapters", config.base_name
        return refuse(contents, method="lora", problems=(several,), reason=reason, base_name=name)
    contents, ignored = without_training_state(contents)
    groups, unknown, found = _group(contents.tensors)
    if is_whole_model(contents.tensors, set(groups)):
        # Buffers of the base and leftovers of its quantisation are explained by that.
        unknown = [name for name in unknown if "lora_" in name]
        found = [p for p in found if p.code == "duplicate_module"] + _unknown_problems(unknown)
    problems = (*problems, *found)
    factors, incomplete = _pair(groups, contents.tensors, config)
    lacking = {name for path in incomplete for name in groups[path].values()}
    base = named_base(options, config.base_name)
    stacks = unstacked(factors, config, base.family)
    config = stacks.config
    raw = parameters(stacks.factors, config, base, options)
    factors, scale_problems = _scaled(raw.modules, config, options)
    factors, variant_problems = _varied(factors, groups, contents, config, options)
    factors = interleaved(factors, base.family)
    scale_problems += [*variant_problems, *stacks.problems, *raw.problems]
    factors += raw.slices
    rest = replacements(contents.tensors, config, {f.path for f in factors})
    if ignored:
        message = f"{len(ignored)} tensors of {ignored[0].reason.partition(':')[0]} are left out"
        problems += (Problem.of("training_state", message, where=ignored[0].name),)
    problems += (*_pair_problems(incomplete, groups), *scale_problems, *rest.problems)
    begun = subtract_initial(contents, config, factors, options)
    computed = config.residual == "kasa" or begun.computed
    factors, config = begun.factors, begun.config
    problems = (*(p for p in problems if p.code not in begun.settled), *begun.problems)
    kasa = {KASA: (contents.config or {})[KASA]} if config.residual == "kasa" else {}
    dora = any(f.magnitude is not None for f in factors)
    return Draft(
        method=_method(config, factors, dora=dora),
        total=len(contents.tensors) + len(ignored) + begun.total,
        factors=tuple(factors),
        replacements=rest.replacements,
        ignored=(*rest.ignored, *ignored, *stacks.ignored, *begun.ignored),
        unknown=tuple(sorted({*unknown, *lacking, *rest.unknown})),
        problems=(
            *problems,
            *_magnitude_problems(config, factors),
            *_unused(config, factors, rest),
        ),
        base_name=config.base_name,
        base_revision=config.base_revision,
        base_class=config.base_class,
        task_type=config.task_type,
        needs_base=_needs_base(config, dora=dora),
        fan_in_fan_out=config.fan_in_fan_out,
        fidelity=Fidelity.ROUNDING if computed else Fidelity.EXACT,
        extra=kept_settings(config, factors) | kasa,
    )


def _needs_base(config: PeftConfig, *, dora: bool) -> BaseRequirement:
    if config.residual:
        return BaseRequirement.RESIDUAL
    return BaseRequirement.MERGE if dora else BaseRequirement.NONE


def _varied(
    factors: list[Factors],
    groups: Groups,
    contents: Contents,
    config: PeftConfig,
    options: ReadOptions,
) -> tuple[list[Factors], list[Problem]]:
    """Plain pairs of the variants that are still a LoRA."""
    variant, found = parse_variant(contents.config)
    problems = list(found)
    if variant.kasa is not None:
        message = "KaSA is trained on a base without its smallest singular components"
        problems.append(Problem.of("needs_residual_base", message, where=CONFIG_NAME))
    base = named_base(options, config.base_name)
    plain: list[Factors] = []
    for pair in factors:
        diagonal = groups.get(pair.path, {}).get(DIAGONAL)
        if variant.plain and diagonal is None:
            plain.append(pair)
            continue
        tensor = contents.tensors[diagonal] if diagonal else None
        one = apply_variant(pair, variant, tensor, base)
        if isinstance(one, Problem):
            problems.append(one)
        plain.append(pair if isinstance(one, Problem) else one)
    return plain, problems[:8]


def _method(config: PeftConfig, factors: list[Factors], *, dora: bool) -> str:
    if dora:
        return "dora"
    return "rslora" if config.rslora and factors else "lora"


def _several(tensors: Mapping[str, LazyTensor]) -> Problem | None:
    keys = {name: parse_key(name) for name in tensors}
    factors = {name: key for name, key in keys.items() if key.leaf in FACTOR_LEAVES}
    adapters = {key.adapter or "default" for key in factors.values()}
    holders = {container_of(name) for name in factors}
    if len(adapters) < 2 and len(holders) < 2:
        return None
    several = adapters if len(adapters) > 1 else {f"of {name or 'the model'}" for name in holders}
    message = f"the file holds the adapters {', '.join(sorted(several)[:8])}"
    return Problem.of("multiple_adapters", message)


def _group(tensors: Mapping[str, LazyTensor]) -> tuple[Groups, list[str], list[Problem]]:
    """Factor tensors by module, the names no rule explains, and what is wrong with names."""
    groups: Groups = {}
    unknown: list[str] = []
    problems: list[Problem] = []
    for name in tensors:
        key = parse_key(name)
        if key.leaf in FACTOR_LEAVES:
            leaves = groups.setdefault(key.path, {})
            if key.leaf in leaves:
                message = f"{leaves[key.leaf]} and {name} are the same tensor of one module"
                problems.append(Problem.of("duplicate_module", message, where=key.path))
                unknown.append(name)
            leaves.setdefault(key.leaf, name)
        elif key.leaf in {"", "lora_A", "lora_B"} and not key.path.startswith(VALUE_HEAD):
            unknown.append(name)
    return groups, unknown, [*problems, *_unknown_problems(unknown)]


def _unknown_problems(unknown: list[str]) -> list[Problem]:
    variants: dict[str, str] = {}
    plain = []
    for name in unknown:
        reason = next((r for leaf, r in _VARIANT_LEAVES.items() if f".{leaf}" in name), None)
        if reason is None:
            plain.append(name)
        else:
            variants.setdefault(reason, name)
    found = [Problem.of("unsupported_method", reason, where=n) for reason, n in variants.items()]
    if plain:
        message = f"{len(plain)} tensors that no rule of PEFT explains, first {plain[0]}"
        found.append(Problem.of("unknown_tensors", message, where=plain[0]))
    return found


def _pair(
    groups: Groups, tensors: Mapping[str, LazyTensor], config: PeftConfig
) -> tuple[list[Factors], list[str]]:
    """Factors of every module that has both, and the paths that lack one."""
    factors: list[Factors] = []
    incomplete: list[str] = []
    for path, leaves in groups.items():
        embedding = "lora_embedding_A" in leaves and "lora_embedding_B" in leaves
        linear = "lora_A.weight" in leaves and "lora_B.weight" in leaves
        if embedding == linear or not path:
            incomplete.append(path)
            continue
        down, up = ("lora_embedding_A", "lora_embedding_B") if embedding else (
            "lora_A.weight", "lora_B.weight",
        )  # fmt: skip
        magnitude, bias = leaves.get("lora_magnitude_vector"), leaves.get("lora_B.bias")
        a, b = tensors[leaves[down]], tensors[leaves[up]]
        factors.append(
            Factors(
                path=path,
                source=_module_name(leaves[down]),
                a=a,
                b=expand(a, b, config.enable_lora) or b,
                kind=_kind(a, embedding=embedding),
                magnitude=tensors[magnitude] if magnitude else None,
                bias_delta=tensors[bias] if bias else None,
            )
        )
    return factors, incomplete


def _kind(a: LazyTensor, *, embedding: bool) -> ModuleKind:
    if embedding:
        return ModuleKind.EMBEDDING
    return ModuleKind.CONV if len(a.shape) > 2 else ModuleKind.LINEAR


def _module_name(name: str) -> str:
    for mark in (".lora_A", ".lora_embedding_A"):
        head, found, _ = name.rpartition(mark)
        if found:
            return head
    return name


def _pair_problems(incomplete: list[str], groups: Groups) -> list[Problem]:
    found = []
    for path in incomplete[:20]:
        message = f"has {', '.join(sorted(groups[path]))} and lacks the rest of its pair"
        found.append(Problem.of("unpaired_factor", message, where=path))
    return found


def _scaled(
    factors: list[Factors], config: PeftConfig, options: ReadOptions
) -> tuple[list[Factors], list[Problem]]:
    merged = len(config.enable_lora) > 0
    ranks = {f.path: _rule_rank(f, config) for f in factors if len(f.a.shape) > 1}
    try:
        settings, found = resolve(config, ranks)
    except FormatError as error:
        problem = Problem.of("invalid_config", error.message, where=error.where, hint=error.hint)
        return factors, [problem]
    problems = list(found)
    mismatched = [
        (path, setting.rank)
        for path, setting in settings.items()
        if setting.rank not in (None, ranks[path]) and ranks[path] > 0
    ]
    for path, wanted in mismatched[:5]:
        message = f"the configuration says rank {wanted}, the tensors have {ranks[path]}"
        problems.append(Problem.of("rank_mismatch", message, where=path))
    scaled = [_with_scale(f, settings.get(f.path), config, options, merged=merged) for f in factors]
    problems += _alpha_problems(scaled, config, options)
    return scaled, problems


def _rule_rank(factors: Factors, config: PeftConfig) -> int:
    """The rank that the configuration speaks of: of one block, for merged linear layers."""
    blocks = sum(config.enable_lora)
    if blocks > 1 and factors.kind is ModuleKind.LINEAR and factors.rank % blocks == 0:
        return factors.rank // blocks
    return factors.rank


def _with_scale(
    factors: Factors,
    setting: Setting | None,
    config: PeftConfig,
    options: ReadOptions,
    *,
    merged: bool,
) -> Factors:
    alpha = setting.alpha if setting and setting.alpha is not None else options.alpha
    rank = _rule_rank(factors, config) if merged else factors.rank
    if alpha is None or not factors.a.shape or rank < 1:
        return factors
    return replace(factors, scale=Scale.from_alpha(alpha, rank, rslora=config.rslora))


def _alpha_problems(
    factors: list[Factors], config: PeftConfig, options: ReadOptions
) -> list[Problem]:
    missing = [f.path for f in factors if f.scale is None and f.a.shape and f.rank > 0]
    if missing and not (config.present and config.alpha is None and config.alpha_pattern):
        where = "has no lora_alpha" if config.present else "is missing"
        return [Problem.of("missing_alpha", f"{CONFIG_NAME} {where}", where=CONFIG_NAME)]
    if missing:
        message = f"no alpha for {missing[0]} and {len(missing) - 1} more"
        return [Problem.of("missing_alpha", message, where=CONFIG_NAME)]
    stored = config.alpha
    if options.alpha is not None and stored is not None and options.alpha != stored:
        message = f"--alpha {options.alpha} is not used: the file says {stored}"
        return [Problem.of("alpha_rule", message, where=CONFIG_NAME)]
    return []


def _magnitude_problems(config: PeftConfig, factors: list[Factors]) -> list[Problem]:
    having = [f.path for f in factors if f.magnitude is not None]
    if having and config.present and not config.dora:
        message = f"{len(having)} magnitude vectors and use_dora is not true"
        return [Problem.of("dropped_magnitude", message, where=having[0])]
    lacking = [f.path for f in factors if f.magnitude is None]
    if lacking and (having or config.dora):
        message = f"use_dora, and {len(lacking)} modules lack their lora_magnitude_vector"
        return [Problem.of("unpaired_factor", message, where=lacking[0])]
    return []


def _unused(config: PeftConfig, factors: list[Factors], rest: Leftovers) -> list[Problem]:
    replaced = [r.parameter for r in rest.replacements]
    paths = [*(f.path for f in factors), *_holders(factors), *replaced]
    weights = [f"{f.path}.weight" for f in factors] + replaced
    ends = suffixes(paths)
    listed = () if config.narrowed else config.targets or ()
    unused = [t for t in listed if t not in ends]
    saved = [m for m in config.modules_to_save if not any(is_saved(p, (m,)) for p in weights)]
    found = []
    if unused:
        message = f"target_modules {', '.join(sorted(unused)[:12])} have no tensors"
        found.append(Problem.of("unused_target", message, where=CONFIG_NAME))
    # PEFT adds these two to every classifier's list, whichever of them the model has.
    missing = [m for m in saved if m not in {"classifier", "score"}]
    if missing:
        message = f"modules_to_save {', '.join(sorted(missing)[:12])} have no tensors"
        found.append(Problem.of("unused_target", message, where=CONFIG_NAME))
    return found


def _holders(factors: list[Factors]) -> set[str]:
    """Parameters of experts and the modules that hold them, which targets may name."""
    whole = {base_path(f) for f in factors if f.kind is ModuleKind.PARAMETER}
    return whole | {path.rpartition(".")[0] for path in whole}


FORMAT = Format(name="peft", recognise=recognise, read=with_component(read), write=write)
