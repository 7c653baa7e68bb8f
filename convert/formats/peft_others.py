"""PEFT's methods beside LoRA: become one, are refused, or are carried as they are."""

from __future__ import annotations

from dataclasses import replace

from adaptrix.convert.architecture.base import named_base
from adaptrix.convert.contents import Contents
from adaptrix.convert.draft import Draft, Factors, refuse
from adaptrix.convert.formats.peft_config import PeftConfig
from adaptrix.convert.formats.peft_exact import METHODS, exact_pairs
from adaptrix.convert.formats.peft_methods import method_problem, module_hints
from adaptrix.convert.formats.peft_original import reflected
from adaptrix.convert.formats.peft_replacements import replacements
from adaptrix.convert.formats.peft_targets import kept_settings
from adaptrix.convert.keys import strip_wrappers
from adaptrix.convert.options import ReadOptions
from adaptrix.schema.adapter import BaseRequirement, Carried, Scale
from adaptrix.schema.report import Fidelity, Problem

POSITIONAL = "positional_adapter"
CARRIED_CODES = {"ia3", "needs_base_weights", "not_low_rank", POSITIONAL}
_NO_PAIRS = {
    "unsupported_method", "ambiguous_layout", "unpaired_factor", "shape_mismatch", "unread_values",
}  # fmt: skip


def read_other_method(
    contents: Contents, config: PeftConfig, problems: tuple[Problem, ...], options: ReadOptions
) -> Draft | None:
    """The draft of a file that is not LoRA's; None for LoRA."""
    refused = method_problem(contents, config)
    refused = refused or next((p for p in problems if p.code == POSITIONAL), None)
    if config.peft_type == "HRA" and (plain := _reflected(contents, config, options)):
        return plain
    if refused is not None and options.carry and refused.code in CARRIED_CODES:
        return _carried(contents, config, problems, refused)
    if refused is not None:
        return _refused(contents, config, (refused,))
    if config.peft_type in METHODS:
        return _read_exact(contents, config, problems, options)
    return None


def _reflected(contents: Contents, config: PeftConfig, options: ReadOptions) -> Draft | None:
    """HRA as pairs, when the base weights are at hand; None when not, or when they do not fit."""
    if options.base_weights is None or (contents.config or {}).get("apply_GS"):
        return None
    weights = options.base_weights()
    factors = []
    for name, tensor in contents.tensors.items():
        path, _, leaf = strip_wrappers(name).removesuffix(".default").rpartition(".")
        shape = weights.sizes(path)
        if leaf != "hra_u" or len(tensor.shape) != 2 or len(shape) != 2:
            return None
        out = shape[1] if config.fan_in_fan_out else shape[0]
        weight = weights.matrix(path, out, tensor.shape[0], transposed=config.fan_in_fan_out)
        if weight is None:
            return None
        a, b = reflected(tensor, weight)
        scale = Scale.absolute(1.0, tensor.shape[1])
        factors.append(Factors(path=path, source=path, a=a, b=b, scale=scale))
    message = "HRA's reflections of the base weights, as factors: computed in float64"
    return Draft(
        method="hra",
        total=len(contents.tensors),
        factors=tuple(factors),
        problems=(Problem.of("recomputed", message),),
        base_name=config.base_name,
        base_revision=config.base_revision,
        base_class=config.base_class,
        task_type=config.task_type,
        fan_in_fan_out=config.fan_in_fan_out,
        fidelity=Fidelity.ROUNDING,
        extra=kept_settings(config, factors),
    )


def _carried(
    contents: Contents, config: PeftConfig, problems: tuple[Problem, ...], reason: Problem
) -> Draft:
    """Everything as it is, marked: the file is PEFT's and stays so."""
    paths = tuple(sorted(module_hints(contents)))
    method = "alora" if reason.code == POSITIONAL else config.peft_type.lower()
    stopping = [p for p in problems if p is not reason]
    return Draft(
        method=method,
        total=len(contents.tensors),
        carried=Carried(config=contents.config or {}, named=contents.tensors, paths=paths),
        problems=(*stopping, Problem.of("carried", f"kept as it is: {reason.message}")),
        base_name=config.base_name,
        base_revision=config.base_revision,
        base_class=config.base_class,
        task_type=config.task_type,
        needs_base=_needs_base(reason),
        hints=paths,
    )


def _needs_base(reason: Problem) -> BaseRequirement:
    if reason.code in {"ia3", "needs_base_weights"}:
        return BaseRequirement.MERGE
    return BaseRequirement.NONE


def _refused(contents: Contents, config: PeftConfig, problems: tuple[Problem, ...]) -> Draft:
    method = config.peft_type.lower()
    method = "alora" if problems[0].code == POSITIONAL else method
    draft = refuse(
        contents,
        method=method,
        problems=problems,
        reason=f"{method} is not converted",
        hints=module_hints(contents),
        base_name=config.base_name,
    )
    return replace(draft, needs_base=_needs_base(problems[-1]))


def _read_exact(
    contents: Contents, config: PeftConfig, problems: tuple[Problem, ...], options: ReadOptions
) -> Draft:
    """A method that is exactly a LoRA, with what stands beside its factors."""
    base = named_base(options, config.base_name)
    pairs = exact_pairs(contents, config, base, values=options.check_values)
    stop = next((p for p in pairs.problems if p.code in _NO_PAIRS), None)
    if stop is not None:
        return _refused(contents, config, (*problems, stop))
    rest = replacements(pairs.beside, config, {f.path for f in pairs.factors})
    computed = any(p.code == "recomputed" for p in pairs.problems)
    return Draft(
        method=config.peft_type.lower(),
        total=len(contents.tensors),
        factors=pairs.factors,
        replacements=rest.replacements,
        ignored=tuple(rest.ignored),
        unknown=tuple(sorted({*pairs.unknown, *rest.unknown})),
        problems=(*problems, *pairs.problems, *rest.problems),
        base_name=config.base_name,
        base_revision=config.base_revision,
        base_class=config.base_class,
        task_type=config.task_type,
        fan_in_fan_out=config.fan_in_fan_out,
        fidelity=Fidelity.ROUNDING if computed else Fidelity.EXACT,
        extra=kept_settings(config, pairs.factors),
    )
