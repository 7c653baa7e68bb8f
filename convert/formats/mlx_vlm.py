"""mlx-vlm: ``.A (in, r)`` and ``.B (r, out)`` beside ``adapter_config.json`` with rank and alpha.

Until April 2026 the layer applied ``alpha`` as it stands, since then ``alpha / rank``
(mlx-vlm pull request 846), and the file does not say which: where the two differ, the user
has to. Since May 2026 files are MLX-LM's, with a scale and whole paths as keys. Language
models stand below ``language_model``. Source: mlx-vlm, ``trainer/lora.py``, ``trainer/utils.py``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from adaptrix.convert.architecture.base import named_base
from adaptrix.convert.architecture.families import family_named
from adaptrix.convert.contents import CONFIG_NAME, Contents
from adaptrix.convert.draft import Draft, Factors, Format, Recognition
from adaptrix.convert.formats import mlx
from adaptrix.convert.keys import strip_wrappers
from adaptrix.convert.options import ReadOptions
from adaptrix.convert.pairs import paired, stored_number, stored_text, suffix_rule
from adaptrix.convert.writers.mlx_vlm import INSIDE, TEXT, transformers_name, write
from adaptrix.schema.adapter import Scale
from adaptrix.schema.report import Problem

_KEY = re.compile(r".+\.[AB]")
_RULE = suffix_rule(".A", ".B")
_DECLARED = {"rank", "alpha"}


def recognise(contents: Contents) -> Recognition | None:
    """By keys that end in ``.A`` and ``.B``, in pairs, or MLX-LM's with whole paths declared."""
    names = set(contents.tensors)
    if whole := _whole_paths(contents):
        evidence = [f"{CONFIG_NAME} names {whole} modules by their whole paths"]
        return Recognition(score=0.98, evidence=tuple(evidence))
    hits = [n for n in names if _KEY.fullmatch(n) and {f"{n[:-1]}A", f"{n[:-1]}B"} <= names]
    if not hits or len(hits) < len(names) / 2:
        return None
    evidence = [f"{len(hits)} of {len(names)} keys end in .A or .B, in pairs"]
    declared = (contents.config or {}).keys() >= _DECLARED
    evidence += [f"{CONFIG_NAME} has rank and alpha"] * declared
    return Recognition(score=0.95 if declared else 0.8, evidence=tuple(evidence))


def _whole_paths(contents: Contents) -> int:
    """How many of ``lora_parameters.keys`` are paths of factors below ``language_model``."""
    parameters = (contents.config or {}).get("lora_parameters")
    keys = parameters.get("keys") if isinstance(parameters, Mapping) else None
    named = {key for key in keys if isinstance(key, str)} if isinstance(keys, list) else set()
    held = {n.removesuffix(".lora_a") for n in contents.tensors if n.endswith(".lora_a")}
    return len(named) if named and named == held and any(k.startswith(TEXT) for k in named) else 0


def read(contents: Contents, options: ReadOptions) -> Draft:
    """Pair and transpose the factors; the scale by what the file and the user say."""
    draft = mlx.read(contents, options) if _whole_paths(contents) else _legacy(contents, options)
    base = named_base(options, draft.base_name)
    family = family_named(base.family)
    if family is None:
        return draft
    has_images = any(name.startswith(INSIDE) for name, _ in family.names())
    factors = [
        replace(f, path=transformers_name(f.path, has_images=has_images)) for f in draft.factors
    ]
    return replace(draft, factors=tuple(factors))


def _legacy(contents: Contents, options: ReadOptions) -> Draft:
    pairs = paired(contents.tensors, lambda name: _RULE(strip_wrappers(name)), transposed=True)
    stored = stored_number(contents, "alpha", "lora_alpha")
    factors, problems = _scaled(pairs.factors, stored, options)
    rank = stored_number(contents, "rank")
    wrong = next((f for f in factors if len(f.a.shape) == 2 and rank not in (None, f.rank)), None)
    if wrong is not None:
        message = f"the configuration says rank {rank:g}, {wrong.path} has {wrong.rank}"
        problems += (Problem.of("rank_mismatch", message, where=CONFIG_NAME),)
    return Draft(
        total=len(contents.tensors),
        factors=factors,
        unknown=pairs.unknown,
        problems=(*pairs.problems, *problems),
        base_name=stored_text(contents, "model", "model_path", "base_model_name_or_path"),
    )


def _scaled(
    factors: tuple[Factors, ...], stored: float | None, options: ReadOptions
) -> tuple[tuple[Factors, ...], tuple[Problem, ...]]:
    """Every pair with ``alpha / r``; a question where the file's alpha has two meanings."""
    ranks = {f.rank for f in factors if f.a.shape and f.rank}
    alpha = options.alpha
    if alpha is None and stored is not None and (ranks <= {1} or stored == 0):
        alpha = stored  # both rules say the same
    if alpha is None:
        return factors, (_question(stored, max(ranks, default=1)),)
    return tuple(
        replace(f, scale=Scale.from_alpha(alpha, f.rank)) if f.a.shape and f.rank else f
        for f in factors
    ), ()


def _question(stored: float | None, rank: int) -> Problem:
    if stored is None:
        message = "mlx-vlm's alpha is not in the file"
        hint = "Pass --alpha (scale = alpha / rank)."
        return Problem.of("missing_alpha", message, where=CONFIG_NAME, hint=hint)
    message = f"alpha {stored:g} was applied as it stands before April 2026 and over rank since"
    hint = (
        f"Pass --alpha {stored * rank:g} if mlx-vlm of before April 2026 trained it, "
        f"--alpha {stored:g} if one of since then did."
    )
    return Problem.of("missing_alpha", message, where=f"{CONFIG_NAME}:alpha", hint=hint)


FORMAT = Format(name="mlx-vlm", recognise=recognise, read=read, write=write)
