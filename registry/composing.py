"""Compose and record: a new version whose recipe is its identity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from adaptrix.compose.baking import BaseWeights
from adaptrix.compose.combine import Composition, accepted, combine
from adaptrix.compose.core import one_thread
from adaptrix.compose.methods import find
from adaptrix.compose.settings import resolve as resolve_settings
from adaptrix.convert.writing import tensors_digest
from adaptrix.registry.ingredients import Prepared, prepare, shared_config
from adaptrix.registry.licenses import combined
from adaptrix.registry.looking import open_version
from adaptrix.registry.planning import refuse_twice
from adaptrix.registry.recipe_files import Ingredient
from adaptrix.registry.reports import ComposeReport, StoredAdapter
from adaptrix.registry.resolve import target
from adaptrix.registry.writing import Provenance, StoredFiles, publish, write_files
from adaptrix.schema.digest import Digest
from adaptrix.schema.errors import UsageError
from adaptrix.schema.recipe import Recipe, RecipeInput
from adaptrix.schema.record import ParentRecord, SourceRecord
from adaptrix.store.home import Home

BAKE_RANK = 64
"""Greatest rank of a DoRA module that cannot be made plain exactly."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ComposeRequest:
    """What a composition was asked for; see :meth:`Registry.compose`."""

    inputs: Sequence[Ingredient]
    output: str
    method: str = "linear"
    parameters: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0
    description: str = ""
    allow_license_conflict: bool = False
    dry_run: bool = False
    rebased_from: Digest | None = None
    base: BaseWeights | None = None
    bake_rank: int = BAKE_RANK


def compose(home: Home, request: ComposeRequest) -> ComposeReport:
    """See :meth:`Registry.compose`.

    Raises:
        UsageError: no inputs, or an unknown method or parameter.
        IncompatibleAdapter: they cannot be combined; the module or field is named.
    """
    if not request.inputs:
        raise UsageError("give at least one adapter", where="compose")
    name, tag = target(request.output)
    with home.lease():
        parents = [open_version(home, entry.reference) for entry in request.inputs]
        refuse_twice(parents)
        licence = _license(request, parents)
        ready = prepare(parents, request.inputs, request.base, request.bake_rank)
        provenance = _provenance(request, parents, [entry.recipe for entry in ready], licence)
        result = combine(
            [entry.input for entry in ready],
            request.method,
            request.parameters,
            seed=request.seed,
        )
        if request.dry_run:
            return _report(f"{name}:{tag}", result, provenance, ready)
        reason = f"compose {request.method}"
        # Stacked factors are put together only now, module by module.
        with one_thread():
            files = StoredFiles(
                layers=write_files(home, result.adapter),
                tensors_digest=tensors_digest(result.adapter),
            )
        stored = publish(home, result.adapter, files, provenance, name=name, tag=tag, reason=reason)
    return replace(
        _report(f"{name}:{tag}", result, provenance, ready),
        digest=stored.digest,
        tensors_digest=stored.manifest.record.tensors_digest,
        status=stored.status,
        changed=stored.status != "unchanged",
    )


def rebase(
    home: Home,
    reference: str,
    *,
    dry_run: bool = False,
    base: BaseWeights | None = None,
    grams: Mapping[str, Path] | None = None,
) -> ComposeReport:
    """See :meth:`Registry.rebase`.

    Raises:
        UsageError: it is no composition, what is named is no tag, or something that it was
            made with is not given.
        NotFound: a parent's name is gone.
    """
    current = open_version(home, reference)
    document = current.manifest.record.recipe
    if document is None:
        raise UsageError("not a composition, so there is nothing to rebase", where=reference)
    recipe = Recipe.from_json(document)
    space = "" if recipe.space == "factor" else f"@{recipe.space}"
    record = current.manifest.record
    return compose(
        home,
        ComposeRequest(
            inputs=[
                Ingredient(
                    reference=entry.name,
                    weight=entry.weight,
                    rules=entry.rules,
                    grams=_again(entry, base, grams or {}),
                )
                for entry in recipe.inputs
            ],
            output=reference,
            method=recipe.method + space,
            parameters=recipe.parameters,
            seed=recipe.seed or 0,
            description=record.description,
            # Whoever made it has decided that already.
            allow_license_conflict=" AND " in record.license,
            dry_run=dry_run,
            rebased_from=current.digest,
            base=base,
            bake_rank=next((i.baked.rank for i in recipe.inputs if i.baked), BAKE_RANK),
        ),
    )


def _again(entry: RecipeInput, base: BaseWeights | None, grams: Mapping[str, Path]) -> Path | None:
    """The file of Gram matrices that an input needs again; its base is checked too."""
    if entry.baked is not None and base is None:
        raise UsageError(
            f"it was made plain with the weights of {entry.baked.base}",
            where=entry.name,
            hint=f"Pass --base {entry.baked.base}.",
        )
    found = grams.get(entry.name) or grams.get(entry.name.removesuffix(":latest"))
    if entry.grams is not None and found is None:
        raise UsageError(
            f"it was made with the Gram matrices {entry.grams}",
            where=entry.name,
            hint=f"Pass --grams {entry.name}=FILE.",
        )
    return found


def _report(
    reference: str, result: Composition, provenance: Provenance, ready: Sequence[Prepared]
) -> ComposeReport:
    return ComposeReport(
        reference=reference,
        digest=None,
        tensors_digest=None,
        recipe=dict(provenance.recipe or {}),
        modules=len(result.adapter.modules),
        ranks=result.adapter.ranks,
        error=result.relative_error,
        fidelity=result.fidelity,
        status="planned",
        changed=False,
        baked=tuple(entry.baked for entry in ready if entry.baked is not None),
    )


def _license(request: ComposeRequest, parents: Sequence[StoredAdapter]) -> str:
    stated = {p.manifest.record.license: p.reference for p in parents if p.manifest.record.license}
    return combined(stated, allow_conflict=request.allow_license_conflict)


def _provenance(
    request: ComposeRequest,
    parents: Sequence[StoredAdapter],
    inputs: Sequence[RecipeInput],
    licence: str,
) -> Provenance:
    lineage = [
        ParentRecord(
            digest=parent.digest, role="composed_from", weight=entry.weight, name=parent.reference
        )
        for parent, entry in zip(parents, request.inputs, strict=True)
    ]
    if request.rebased_from is not None:
        lineage.append(ParentRecord(digest=request.rebased_from, role="rebased_from"))
    return Provenance(
        source=SourceRecord(kind="composed"),
        recipe=_recipe(request, inputs).to_json(),
        parents=tuple(lineage),
        description=request.description,
        license=licence,
        base_config=shared_config(parents),
        capabilities=tuple(
            dict.fromkeys(word for p in parents for word in p.manifest.record.capabilities)
        ),
    )


def _recipe(request: ComposeRequest, inputs: Sequence[RecipeInput]) -> Recipe:
    method, space = find(request.method)
    settings = resolve_settings(
        accepted(method, space), request.parameters, method=request.method, seed=request.seed
    )
    return Recipe(
        method=method.name,
        space=space,
        parameters=settings.values,
        seed=request.seed if method.draws else None,
        inputs=tuple(inputs),
    )
