"""From the producer's module names to those of the current transformers class.

Phi's namings are told apart here; what transformers renamed of other families, and fused or
divided projections, are in :mod:`adaptrix.convert.layouts.current`. For Phi: Which one a file uses follows from its keys; where keys
fit two of them (``layers.N.mlp.fc1`` alone), the rules are: an index equal to the number of
layers means MixFormer (blocks 1…n), an index of 0 the headless current class (0…n−1), a
stated task or class decides the rest, and otherwise the user is asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from adaptrix.convert.architecture.base import named_base
from adaptrix.convert.architecture.detect import layer_indices
from adaptrix.convert.architecture.dimensions import Dimensions
from adaptrix.convert.architecture.known_bases import bases_of, known_base
from adaptrix.convert.draft import Draft, Factors
from adaptrix.convert.layouts import phi
from adaptrix.convert.layouts.current import current_names
from adaptrix.convert.layouts.named import Named
from adaptrix.convert.options import ReadOptions
from adaptrix.schema.adapter import Replacement, ReplacementRole
from adaptrix.schema.canonical import Json
from adaptrix.schema.report import Problem

TRANSFORMERS = "transformers"
__all__ = ["TRANSFORMERS", "Named", "canonical_names"]
_RENAMED_TARGETS = {
    "Wqkv": ("q_proj", "k_proj", "v_proj"), "query_key_value": ("q_proj", "k_proj", "v_proj"),
    "out_proj": ("dense",), "o_proj": ("dense",), "linear": ("lm_head",), "wte": ("embed_tokens",),
}  # fmt: skip
_HEADLESS_TASKS = {"FEATURE_EXTRACTION"}


def canonical_names(draft: Draft, family: str, sizes: Dimensions, options: ReadOptions) -> Named:
    """Rename and split as the family's naming requires.

    Args:
        draft: What the format's reader found.
        family: Detected family, or ``unknown``.
        sizes: Dimensions of the base as far as they are known.
        options: ``--source-layout`` among them.
    """
    unchanged = Named(
        layout=draft.layout or TRANSFORMERS,
        factors=draft.factors,
        replacements=draft.replacements,
        extra=dict(draft.extra),
        base_revision=draft.base_revision,
        task_type=draft.task_type,
    )
    if draft.layout == "gguf":
        return unchanged
    if family != "phi" and options.phi_layout is None:
        known = named_base(options, draft.base_name)
        sizes = known.sizes if sizes.heads is None else sizes
        return current_names(unchanged, family, sizes, options)
    paths = [f.path for f in draft.factors] + [_module_of(r) for r in draft.replacements]
    sizes = _phi_sizes(draft, sizes)
    layout, evidence = _choose(paths, draft, sizes, options)
    if layout is None:
        where = paths[0] if paths else ""
        problem = Problem.of("ambiguous_layout", evidence, where=where)
        return replace(unchanged, problems=(problem,))
    return replace(_apply(draft, layout, sizes), evidence=(evidence,))


def _phi_sizes(draft: Draft, sizes: Dimensions) -> Dimensions:
    """Fill in what the declared base or the width tells: 2560 and 2048 are Phi's own."""
    if sizes.heads is not None and sizes.layers is not None:
        return sizes
    declared = known_base(draft.base_name)
    widths = {n for f in draft.factors for n in (f.a.shape[-1], f.b.shape[0]) if f.a.shape}
    for base in (declared, *bases_of("phi")):
        if base is not None and base.family == "phi" and base.dimensions.hidden in widths:
            return base.dimensions
    return sizes


def _module_of(replacement: Replacement) -> str:
    if replacement.role is ReplacementRole.TRAINABLE_TOKENS:
        return replacement.parameter
    return replacement.parameter.rpartition(".")[0]


def _choose(
    paths: Sequence[str], draft: Draft, sizes: Dimensions, options: ReadOptions
) -> tuple[str | None, str]:
    """The layout and why, or None and what is unclear."""
    if options.phi_layout is not None:
        return options.phi_layout, f"--source-layout {options.phi_layout}"
    marks = {mark for path in paths if (mark := _mark(path))}
    if len(marks) > 1:
        return None, f"module names of several layouts: {', '.join(sorted(marks))}"
    if marks:
        (layout,) = marks
        return layout, f"module names are those of {layout}"
    if not any(path.startswith("layers.") for path in paths):
        return "phi-l4", "module names are the same in all current layouts"
    return _shifted_or_headless(paths, draft, sizes)


def _mark(path: str) -> str:
    """The one layout that can have this path; ``""`` when several can."""
    if ".mixer." in f".{path}" or path == "layers.0.wte":
        return "phi-l1" if path.startswith("layers.") else "phi-l2"
    if path.startswith(("transformer.", "h.", "embd.", "lm_head.l")):
        return "phi-l2"
    if ".self_attn.query_key_value" in path:
        return "phi-l3"
    return "phi-l5" if path.endswith(".self_attn.o_proj") else ""


def _shifted_or_headless(
    paths: Sequence[str], draft: Draft, sizes: Dimensions
) -> tuple[str | None, str]:
    """Tell L1 (blocks 1…n) from the headless current class (blocks 0…n−1)."""
    if any(".self_attn." in path for path in paths):
        return "phi-l4", "self_attn is a name of the current layout"
    indices = layer_indices(path for path in paths if path.startswith("layers."))
    first, last = indices[0], indices[-1]
    signs: dict[str, str] = {}
    if sizes.layers is not None and last == sizes.layers:
        signs["phi-l1"] = f"the last of {sizes.layers} blocks has index {last}"
    if first == 0:
        signs["phi-l4"] = "the first block has index 0"
    if not signs:
        if "mixformer" in draft.base_class.lower():
            signs["phi-l1"] = f"the producer adapted {draft.base_class[:60]}"
        elif draft.task_type in _HEADLESS_TASKS:
            signs["phi-l4"] = f"task type {draft.task_type} uses the headless class"
        elif draft.task_type:
            signs["phi-l1"] = f"task type {draft.task_type} does not use the headless class"
    if len(signs) == 1:
        ((layout, reason),) = signs.items()
        return layout, reason
    return None, f"layers.N.mlp.fc1/fc2 with N = {first}…{last} fit phi-l1 and headless phi-l4"


def _apply(draft: Draft, layout: str, sizes: Dimensions) -> Named:
    problems: list[Problem] = []
    factors = [part for f in draft.factors for part in _place(f, layout, sizes, problems)]
    replaced = [
        part for r in draft.replacements for part in _place_replacement(r, layout, sizes, problems)
    ]
    known = {f.path for f in draft.factors}
    moved = [f for f in factors if f.path not in known]
    if moved and not problems:
        first = moved[0]
        message = f"{len(moved)} modules of {layout} renamed, first {first.source} to {first.path}"
        problems.append(Problem.of("renamed_modules", message))
    return Named(
        layout=layout,
        factors=tuple(factors),
        replacements=tuple(sorted(replaced, key=lambda r: r.parameter)),
        extra=_extra(draft, layout),
        base_revision=draft.base_revision if layout == "phi-l4" else "",
        # Canonical paths are those of the class with a head; a headless task no longer fits.
        task_type="" if draft.task_type in _HEADLESS_TASKS else draft.task_type,
        problems=tuple(problems[:20]),
    )


def _place(
    factors: Factors, layout: str, sizes: Dimensions, problems: list[Problem]
) -> tuple[Factors, ...]:
    place = phi.target(layout, factors.path, sizes.layers if layout == "phi-l1" else None)
    if place is None:
        message = f"{layout} has no such module"
        problems.append(Problem.of("unknown_tensors", message, where=factors.path))
        return ()
    if not place.is_fused:
        return (replace(factors, path=place.path),)
    wanted = 3 * factors.a.shape[-1]
    problem = _fused_problem(factors.path, factors.b.shape[0], wanted, layout, sizes)
    if problem is not None:
        problems.append(problem)
        return (replace(factors, path=f"{place.path}.{phi.FUSED}"),)
    return phi.split(factors, place.path, layout, sizes.heads)


def _fused_problem(
    path: str, rows: int, wanted: int, layout: str, sizes: Dimensions
) -> Problem | None:
    if rows != wanted:
        message = f"a fused q, k, v of {rows} rows, {wanted} wanted"
        return Problem.of("shape_mismatch", message, where=path)
    if layout != "phi-l3":
        return None
    if sizes.heads is None or (rows // 3) % sizes.heads:
        return Problem.of(
            "ambiguous_layout",
            "rows are interleaved per head, and the number of heads is not known",
            where=path,
            hint="Pass --base with the base model's folder or id.",
        )
    return None


def _place_replacement(
    replacement: Replacement, layout: str, sizes: Dimensions, problems: list[Problem]
) -> tuple[Replacement, ...]:
    module = _module_of(replacement)
    leaf = replacement.parameter.removeprefix(module).removeprefix(".")
    place = phi.target(layout, module, sizes.layers if layout == "phi-l1" else None)
    if place is None:
        message = f"{layout} has no such module"
        problems.append(Problem.of("unknown_tensors", message, where=replacement.parameter))
        return ()
    if not place.is_fused:
        name = f"{place.path}.{leaf}" if leaf else place.path
        return (replace(replacement, parameter=name),)
    shape = replacement.tensor.shape
    wanted = 3 * shape[1] if len(shape) == 2 else shape[0] - shape[0] % 3
    problem = _fused_problem(replacement.parameter, shape[0], wanted, layout, sizes)
    if problem is not None:
        problems.append(problem)
        return ()
    return phi.split_replacement(replacement, place.path, leaf, layout, sizes.heads)


def _extra(draft: Draft, layout: str) -> dict[str, Json]:
    extra = dict(draft.extra)
    targets = extra.get("target_modules")
    if layout != "phi-l4" and isinstance(targets, list):
        names = {
            new for target in targets for new in _RENAMED_TARGETS.get(str(target), (str(target),))
        }
        extra["target_modules"] = sorted(names)
    if layout in {"phi-l1", "phi-l2"}:
        # Declared under the old names; the writer derives them from the tensors.
        extra.pop("modules_to_save", None)
    return extra
