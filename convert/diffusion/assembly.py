"""A whole file of a diffusion adapter, from its tensors to factors at canonical paths."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from adaptrix.convert.arrays import reshape
from adaptrix.convert.contents import Contents
from adaptrix.convert.diffusion.alone import NORMS, blank, changes, is_norm, models_of, with_factors
from adaptrix.convert.diffusion.bare import KEY
from adaptrix.convert.diffusion.detection import best_pipelines, kernel_of
from adaptrix.convert.diffusion.fused import split_update
from adaptrix.convert.diffusion.leaves import leaves_of
from adaptrix.convert.diffusion.models import COMPONENTS
from adaptrix.convert.diffusion.naming import Place, Places, places
from adaptrix.convert.diffusion.sizes import sizes_of
from adaptrix.convert.diffusion.updates import Update, update_of
from adaptrix.convert.draft import Draft, Factors
from adaptrix.convert.options import ReadOptions
from adaptrix.schema.adapter import BaseRequirement, ModuleKind, Replacement, ReplacementRole
from adaptrix.schema.canonical import Json
from adaptrix.schema.errors import FormatError
from adaptrix.schema.report import Fidelity, IgnoredTensor, Problem
from adaptrix.schema.tensor import LazyTensor

_MOST = 20
_STATED = (
    (("sdxl", "stable-diffusion-xl"), "stable-diffusion-xl"),
    (("sd3", "stable-diffusion-3"), "stable-diffusion-3"),
    (("sd-v", "stable-diffusion-v"), "stable-diffusion"),
    (("flux2", "flux-2"), "flux2"), (("flux",), "flux"), (("chroma",), "chroma"),
    (("wan",), "wan"), (("hunyuan-video-1-5",), "hunyuan-video-1.5"),
    (("hunyuan-image",), "hunyuan-image"), (("hunyuan", "framepack"), "hunyuan-video"),
    (("qwen",), "qwen-image"), (("lumina",), "lumina2"), (("z-image", "zimage"), "z-image"),
    (("kandinsky-5", "kandinsky5"), "kandinsky5"), (("ideogram",), "ideogram4"),
    (("krea-2", "krea2"), "krea2"), (("anima", "cosmos"), "cosmos"), (("ltx-2", "ltx2"), "ltx-2"),
    (("ltx",), "ltx-video"), (("hidream-i1",), "hidream"), (("auraflow",), "auraflow"),
    (("pixart",), "pixart"),
)  # fmt: skip
"""Families by how trainers begin their names of base models, with ``-`` for ``_`` and ``.``."""
_OWN_NAMES = {
    "wan", "hunyuan-video", "flux2", "lumina2", "z-image", "ideogram4", "cosmos", "krea2",
}  # fmt: skip
"""Namings of one family; those of Flux and Stable Diffusion are also their successors'."""


@dataclass(slots=True)
class _Found:
    """What has been made of a file so far."""

    factors: list[Factors] = field(default_factory=list)
    ignored: list[IgnoredTensor] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    methods: Counter[str] = field(default_factory=Counter)
    assumed: int = 0
    computed: int = 0


def read_modules(
    contents: Contents,
    options: ReadOptions,
    *,
    layout: str,
    replacements: Mapping[str, str] | None = None,
    split_alpha: bool = False,
) -> Draft:
    """Read every module of a file, by its names and parts.

    Args:
        contents: The file.
        options: ``--alpha`` among them.
        layout: Name of the tool's way to write names.
        replacements: Canonical parameter by name, for tensors that replace one outright.
        split_alpha: Whether alpha is that of the parts of a block-diagonal fused layer.
    """
    replaced = replacements or {}
    leaves = leaves_of(name for name in contents.tensors if name not in replaced)
    sizes = sizes_of(leaves.groups, contents.tensors)
    named = places(leaves.groups, sizes)
    alone = any(set(parts) == {"diff_b"} for parts in leaves.groups.values())
    paths = {name: place.paths for name, place in named.found.items()} if alone else {}
    models = models_of(paths, sizes) if alone else ()
    found = _Found(unknown=list(leaves.unknown))
    _tokens(leaves.tokens, found)
    _unplaced(named, leaves.groups, contents.tensors, found)
    for name, place in named.found.items():
        keys = leaves.groups[name]
        stored = {part: contents.tensors[key] for part, key in keys.items()}
        parts = with_factors(stored, place.paths, models)
        made = _made(name, place, parts, options.alpha, split_alpha=split_alpha)
        _add(made, name, keys, found)
    if leaves.unknown:
        message = f"{len(leaves.unknown)} tensors that no rule explains, first {leaves.unknown[0]}"
        found.problems.append(Problem.of("unknown_tensors", message, where=leaves.unknown[0]))
    _notes(found)
    factors = with_biases(shaped(found.factors))
    dora = any(pair.magnitude is not None for pair in factors)
    method = found.methods.most_common(1)[0][0] if found.methods else "lora"
    return Draft(
        method="dora" if dora and method == "lora" else method,
        total=len(contents.tensors),
        factors=factors,
        replacements=_replacements(contents, replaced),
        ignored=tuple(found.ignored),
        unknown=tuple(found.unknown),
        problems=tuple(found.problems[:_MOST]),
        base_name=declared_base(contents),
        architecture=stated_family(contents) or _named_family(named),
        layout=layout if named.naming == "diffusers" else f"{layout}-{named.naming}",
        needs_base=BaseRequirement.MERGE if dora else BaseRequirement.NONE,
        fidelity=Fidelity.ROUNDING if found.computed else Fidelity.EXACT,
        extra=one_component(factors),
    )


def one_component(factors: Iterable[Factors]) -> dict[str, Json]:
    """The component as a setting of the adapter, when all modules are of one."""
    found = {pair.path.partition(".")[0] for pair in factors}
    return {KEY: found.pop()} if len(found) == 1 and found <= set(COMPONENTS) else {}


def declared_base(contents: Contents) -> str:
    """The base that the trainer wrote into the metadata, or ``""``."""
    for key in ("ss_sd_model_name", "base_model", "ss_base_model_name"):
        value = contents.metadata.get(key)
        if isinstance(value, str) and value not in ("", "None"):
            return value
    return ""


def stated_family(contents: Contents) -> str:
    """The family that sd-scripts' or the model specification's metadata names, or ``""``."""
    for key in ("ss_base_model_version", "modelspec.architecture"):
        value = contents.metadata.get(key)
        if isinstance(value, str):
            plain = re.sub(r"[_.]", "-", value.lower())
            found = next((f for words, f in _STATED if plain.startswith(words)), "")
            if found:
                return found
    return ""


def _named_family(named: Places) -> str:
    """The family whose first code alone has such names, or ``""``."""
    return named.naming if named.alone and named.naming in _OWN_NAMES else ""


def _tokens(tokens: Iterable[str], found: _Found) -> None:
    names = list(tokens)
    reason = "embedding of a new word (textual inversion), not an update of a weight"
    found.ignored += [IgnoredTensor(name=name, reason=reason) for name in names]
    if names:
        message = f"{len(names)} embeddings of new words are left out, first {names[0]}"
        found.problems.append(Problem.of("token_embeddings", message, where=names[0]))


def _unplaced(
    named: Places,
    groups: Mapping[str, Mapping[str, str]],
    tensors: Mapping[str, LazyTensor],
    found: _Found,
) -> None:
    parts = {name: {p: tensors[k] for p, k in groups[name].items()} for name in named.missing}
    norms = [name for name, group in parts.items() if is_norm(group)]
    changed = [name for name in norms if changes(parts[name])]
    for name in norms:
        reason = NORMS if name in changed else "all zero: changes nothing"
        found.ignored += [IgnoredTensor(name=k, reason=reason) for k in groups[name].values()]
    if changed:
        message = f"{len(changed)} modules: {NORMS}"
        found.problems.append(Problem.of("unsupported_method", message, where=changed[0]))
    for names, reason in (
        (
            [name for name in named.missing if name not in norms],
            "no module of a diffusion model that is known here has the name",
        ),
        (named.ambiguous, "several modules can be meant by the name"),
    ):
        found.unknown += [key for name in names for key in groups[name].values()]
        if names:
            message = f"{len(names)} modules: {reason} {names[0]}"
            found.problems.append(Problem.of("unknown_modules", message, where=names[0]))


Pieces: TypeAlias = "list[tuple[str, Update]]"


def _made(
    name: str,
    place: Place,
    parts: Mapping[str, LazyTensor],
    asked: float | None,
    *,
    split_alpha: bool,
) -> Pieces | Problem | None:
    """The updates of one module of the file; None when it changes nothing."""
    try:
        made = update_of(parts, kernel_of(place.paths[0]), asked)
        if made is None:
            return None
        if isinstance(made, str):
            return Problem.of("unsupported_method", made, where=name)
        return split_update(made, place, split_alpha=split_alpha)
    except KeyError as error:
        message = f"has {', '.join(sorted(parts))} and lacks {error.args[0]}"
        return Problem.of("unpaired_factor", message, where=name)
    except (IndexError, ValueError, FormatError) as error:
        shapes = ", ".join(f"{part} {list(tensor.shape)}" for part, tensor in parts.items())
        text = error.message if isinstance(error, FormatError) else str(error)
        return Problem.of("shape_mismatch", f"{shapes}: {text}"[:300], where=name)


def _add(made: Pieces | Problem | None, name: str, keys: Mapping[str, str], found: _Found) -> None:
    if made is None:
        reason = "all zero: changes nothing"
        found.ignored += [IgnoredTensor(name=key, reason=reason) for key in keys.values()]
    elif isinstance(made, Problem):
        found.problems.append(made)
        if made.code == "unpaired_factor":
            found.unknown += keys.values()
        else:
            found.ignored += [IgnoredTensor(name=key, reason=made.message) for key in keys.values()]
    else:
        first = made[0][1]
        found.methods[first.method] += 1
        found.assumed += first.assumed
        found.computed += not first.exact
        found.factors += [_factors(path, name, piece) for path, piece in made]


def _factors(path: str, source: str, update: Update) -> Factors:
    conv = len(update.a.shape) > 2
    return Factors(
        path=path,
        source=source,
        a=update.a,
        b=update.b,
        kind=ModuleKind.CONV if conv else ModuleKind.LINEAR,
        scale=update.scale,
        magnitude=update.magnitude,
        bias_delta=update.bias,
    )


def _replacements(contents: Contents, names: Mapping[str, str]) -> tuple[Replacement, ...]:
    found = [
        Replacement(
            parameter=parameter,
            tensor=contents.tensors[name],
            role=ReplacementRole.MODULES_TO_SAVE,
        )
        for name, parameter in names.items()
    ]
    return tuple(sorted(found, key=lambda entry: entry.parameter))


def with_biases(factors: list[Factors]) -> tuple[Factors, ...]:
    """Zeros for the modules that lack a bias where others have one: PEFT wants all or none."""
    if not any(pair.bias_delta is not None for pair in factors):
        return tuple(factors)
    return tuple(
        pair if pair.bias_delta is not None or not pair.b.shape
        else replace(pair, bias_delta=blank((pair.b.shape[0],), pair.b))
        for pair in factors
    )  # fmt: skip


def _notes(found: _Found) -> None:
    if found.assumed:
        message = f"{found.assumed} modules have no alpha: by the format's rule it is the rank"
        found.problems.append(Problem.of("assumed_alpha", message))
    if found.computed:
        message = f"factors of {found.computed} modules computed in float64, rounded to float32"
        found.problems.append(Problem.of("recomputed", message))


def shaped(factors: Iterable[Factors]) -> list[Factors]:
    """Give factors of 1×1 convolutions the axes that the recognised model's layer has.

    Stable Diffusion 1 projects by 1×1 convolutions what later models project by linear layers,
    and tools write either shape.
    """
    pairs = list(factors)
    fits = best_pipelines(pairs)
    return [_reshaped(pair, fits) for pair in pairs]


def _reshaped(pair: Factors, fits: Iterable[Mapping[str, tuple[int, ...]]]) -> Factors:
    kernels = {fit[pair.path] for fit in fits if pair.path in fit}
    a, b = pair.a.shape, pair.b.shape
    if len(kernels) != 1:
        return pair
    (kernel,) = kernels
    if kernel and set(kernel) == {1} and len(a) == len(b) == 2:
        ones = tuple(1 for _ in kernel)
        a2, b2 = reshape(pair.a, (*a, *ones)), reshape(pair.b, (*b, *ones))
        return replace(pair, a=a2, b=b2, kind=ModuleKind.CONV)
    if not kernel and len(a) > 2 and all(n == 1 for n in (*a[2:], *b[2:])):
        a2, b2 = reshape(pair.a, a[:2]), reshape(pair.b, b[:2])
        return replace(pair, a=a2, b=b2, kind=ModuleKind.LINEAR)
    return pair
