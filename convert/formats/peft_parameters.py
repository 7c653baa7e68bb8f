"""PEFT's ``target_parameters``: factors of raw parameters, MoE experts above all.

A wrapped parameter's factors carry the name of the module that holds it, and a second
parameter of that module nests: ``experts.base_layer.lora_A.weight`` is the first one that
the class registers, ``experts.lora_A.weight`` the last. Which are there is in the
configuration alone (PEFT 0.17 to 0.21, ``lora.ParamWrapper``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from adaptrix.convert.architecture.base import NamedBase
from adaptrix.convert.contents import CONFIG_NAME
from adaptrix.convert.draft import Factors
from adaptrix.convert.formats.peft_config import PeftConfig
from adaptrix.convert.formats.peft_scale import resolve
from adaptrix.convert.layouts.experts import input_is_a, input_was_a, ordered, slices, votes
from adaptrix.convert.options import UNSLOTH, ReadOptions
from adaptrix.schema.adapter import ModuleKind, Scale
from adaptrix.schema.errors import FormatError
from adaptrix.schema.report import Problem

_NEST = ".base_layer"
_READS_HIDDEN = ("q_proj", "k_proj", "v_proj", "qkv_proj")
_HINT = "Pass --source-layout peft-0.18, peft-0.19.0 or peft-0.19.1: who wrote the file."

_ORDERS = {"": False, "rank_major": False, "grouped_by_expert": True}
"""Whether an expert's columns of ``B`` stand together, by Unsloth's ``lora_B_layout``."""
_ORDER = (
    "to September 2026 Unsloth took B's columns expert by expert, where PEFT takes every E-th, and "
    "did not note it"
)
_ORDER_HINT = (
    "Pass --source-layout unsloth, or peft-0.19.1 if a later release or PEFT itself trained it."
)


@dataclass(frozen=True, slots=True)
class Parameters:
    """Pairs of raw parameters, apart from those of modules.

    Attributes:
        modules: Pairs that belong to modules.
        slices: Pairs of parameters, one per expert.
        problems: What is in the way, and what was turned.
    """

    modules: list[Factors]
    slices: list[Factors]
    problems: list[Problem]


@dataclass(frozen=True, slots=True)
class _Wrapped:
    """A pair and the parameter it belongs to."""

    pair: Factors
    parameter: str
    rank: int
    scale: Scale

    @property
    def is_stacked(self) -> bool:
        return self.pair.a.shape[0] != self.rank


def parameters(
    factors: list[Factors], config: PeftConfig, base: NamedBase, options: ReadOptions
) -> Parameters:
    """Take the pairs of ``target_parameters`` apart into one per expert."""
    if not config.parameters:
        return Parameters(factors, [], [])
    problems: list[Problem] = []
    named = _name(factors, config, problems)
    modules = [pair for pair in factors if id(pair) not in {id(p) for p, _ in named}]
    wrapped = _measured(named, config, problems)
    hidden = base.sizes.hidden or _hidden(modules)
    stacked = [w for w in wrapped if w.is_stacked]
    found = [
        replace(w.pair, path=w.parameter.removesuffix(".weight"), scale=w.scale, kind=_flat_kind(w))
        for w in wrapped
        if not w.is_stacked
    ]
    turned = _turned(stacked, config, base, hidden, options)
    if isinstance(turned, Problem):
        return Parameters(modules, [*found, *(w.pair for w in stacked)], [*problems, turned])
    in_blocks, doubt = _order(stacked, config, options)
    problems += doubt
    for entry in stacked:
        found += slices(
            entry.pair, entry.parameter, entry.rank, entry.scale, turned=turned, in_blocks=in_blocks
        )
    if turned:
        message = f"factors of {len(stacked)} parameters turned to the sides PEFT 0.19.1 reads"
        problems.append(Problem.of("renamed_modules", message))
    return Parameters(modules, found, problems)


def _order(
    stacked: Sequence[_Wrapped], config: PeftConfig, options: ReadOptions
) -> tuple[bool, list[Problem]]:
    """Whether an expert's columns of ``B`` stand together, and what is not sure of it."""
    where = stacked[0].parameter if stacked else ""
    if not stacked or options.source_layout is not None:
        return options.source_layout == UNSLOTH, []
    if config.expert_order not in _ORDERS:
        message = f"unknown lora_B_layout {config.expert_order[:40]!r}"
        return False, [Problem.of("invalid_config", message, where=CONFIG_NAME)]
    if config.unsloth and not config.expert_order:
        code = "ambiguous_layout" if config.unsloth == "noted" else "expert_order"
        return False, [Problem.of(code, _ORDER, where=where, hint=_ORDER_HINT)]
    return _ORDERS[config.expert_order], []


def _flat_kind(entry: _Wrapped) -> ModuleKind:
    """A linear layer's own weight may be named as a parameter, and is one pair like any other."""
    weight = entry.parameter.endswith(".weight")
    return ModuleKind.LINEAR if weight else ModuleKind.PARAMETER


def _name(
    factors: Sequence[Factors], config: PeftConfig, problems: list[Problem]
) -> list[tuple[Factors, str]]:
    """The parameter of every pair that has one."""
    levels: dict[str, dict[int, Factors]] = {}
    for pair in factors:
        container = pair.path
        while container.endswith(_NEST):
            container = container.removesuffix(_NEST)
        depth = (len(pair.path) - len(container)) // len(_NEST)
        levels.setdefault(container, {})[depth] = pair
    found = []
    for container, pairs in levels.items():
        names = _targeted(container, config)
        if not names and set(pairs) == {0}:
            continue
        order = ordered(names)
        if order is None or sorted(pairs) != list(range(len(order))):
            have = f"{len(pairs)} pairs, target_parameters names {', '.join(names) or 'none'}"
            problems.append(Problem.of("unpaired_factor", have, where=container))
            continue
        for depth, name in enumerate(reversed(order)):
            found.append((pairs[depth], f"{container}.{name}"))
    _unused([parameter for _, parameter in found], config, problems)
    return found


def _unused(parameters: Sequence[str], config: PeftConfig, problems: list[Problem]) -> None:
    ends = [t for t in config.parameters if not any(f".{p}".endswith(f".{t}") for p in parameters)]
    if ends and not problems:
        message = f"target_parameters {', '.join(sorted(ends)[:12])} have no tensors"
        problems.append(Problem.of("unused_target", message, where=CONFIG_NAME))


def _targeted(container: str, config: PeftConfig) -> list[str]:
    """Parameters of ``container`` that the configuration selects, as PEFT matches them."""
    names: dict[str, None] = {}
    for target in config.parameters:
        module, _, name = target.rpartition(".")
        if module:
            hit = container == module or container.endswith(f".{module}")
        else:
            # A bare name selects any module that has it; only experts have bare parameters.
            hit = container.rpartition(".")[2] in {"experts", "text_moe", "vision_moe"}
        if hit:
            names[name] = None
    return list(names)


def _measured(
    named: Sequence[tuple[Factors, str]], config: PeftConfig, problems: list[Problem]
) -> list[_Wrapped]:
    """Rank and scale of each parameter by its own path, and whether its experts divide."""
    try:
        settings, found = resolve(replace(config, rank=config.rank), {p: -1 for _, p in named})
    except FormatError as error:
        problems.append(Problem.of("invalid_config", error.message, where=error.where))
        return []
    problems += [p for p in found if p.code != "alpha_rule"]
    wrapped = []
    for pair, parameter in named:
        setting = settings[parameter]
        rank, alpha = setting.rank, setting.alpha
        if rank is None or alpha is None:
            message = f"{CONFIG_NAME} gives no rank or alpha for {parameter}"
            problems.append(Problem.of("missing_alpha", message, where=CONFIG_NAME))
        elif pair.a.shape[0] % rank or pair.a.shape[0] != pair.b.shape[-1]:
            message = f"{pair.a.shape[0]} rows of A are no whole number of experts of rank {rank}"
            problems.append(Problem.of("rank_mismatch", message, where=parameter))
        else:
            scale = Scale.from_alpha(alpha, rank, rslora=config.rslora)
            wrapped.append(_Wrapped(pair, parameter, rank, scale))
    return wrapped


def _hidden(modules: Sequence[Factors]) -> int | None:
    """The hidden size, when attention was adapted as well."""
    widths = {m.a.shape[1] for m in modules if m.path.rpartition(".")[2] in _READS_HIDDEN}
    return widths.pop() if len(widths) == 1 else None


def _turned(
    stacked: Sequence[_Wrapped],
    config: PeftConfig,
    base: NamedBase,
    hidden: int | None,
    options: ReadOptions,
) -> bool | Problem:
    """Whether the file's factors have the other orientation than the canonical one."""
    if not stacked:
        return False
    layers: dict[str, dict[str, Factors]] = {}
    for entry in stacked:
        container, _, name = entry.parameter.rpartition(".")
        layers.setdefault(container, {})[name] = entry.pair
    seen: set[bool] = set()
    for pairs in layers.values():
        seen |= votes({name: (p.a, p.b) for name, p in pairs.items()}, hidden)
    version = options.peft_version or str(config.extra.get("peft_version", ""))
    stated = input_was_a(base.family, version)
    if len(seen) == 1:
        (reads,) = seen
    elif seen or stated is None:
        square = all(w.pair.a.shape[1] == w.pair.b.shape[0] for w in stacked)
        reason = "contradict each other" if seen else "fit both" if square else "do not tell"
        message = f"which side of {stacked[0].parameter} is read: its shapes {reason}"
        return Problem.of("ambiguous_layout", message, where=stacked[0].parameter, hint=_HINT)
    else:
        reads = stated
    return reads != input_is_a(base.family)
