"""Compose and record: a new version whose recipe is its identity."""

from __future__ import annotations

from collections.abc import Sequence

from adaptrix.compose.methods import method as method_called
from adaptrix.registry.looking import open_version
from adaptrix.registry.reports import ComposeReport, StoredAdapter
from adaptrix.registry.resolve import target
from adaptrix.registry.writing import Provenance, publish
from adaptrix.schema.errors import IncompatibleAdapter, UsageError
from adaptrix.schema.recipe import Recipe, RecipeInput
from adaptrix.schema.record import ParentRecord, SourceRecord
from adaptrix.store.home import Home


def compose(
    home: Home,
    inputs: Sequence[tuple[str, float]],
    *,
    output: str,
    method: str,
    description: str,
    dry_run: bool,
) -> ComposeReport:
    """See :meth:`Registry.compose`.

    Raises:
        UsageError: no inputs, or an unknown method.
        IncompatibleAdapter: they cannot be combined; the module or field is named.
    """
    if not inputs:
        raise UsageError("give at least one adapter", where="compose")
    name, tag = target(output)
    chosen = method_called(method)
    with home.lease():
        parents = [(open_version(home, text), weight) for text, weight in inputs]
        provenance = _provenance(method, parents, description)
        result = chosen.combine([(parent.adapter, weight) for parent, weight in parents])
        stored = None
        if not dry_run:
            stored = publish(
                home, result.adapter, provenance, name=name, tag=tag, reason=f"compose {method}"
            )
    return ComposeReport(
        reference=f"{name}:{tag}",
        digest=stored.digest if stored else None,
        tensors_digest=stored.manifest.record.tensors_digest if stored else None,
        recipe=dict(provenance.recipe or {}),
        modules=len(result.adapter.modules),
        ranks=result.adapter.ranks,
        error=result.relative_error,
        fidelity=result.fidelity,
        status=stored.status if stored else "planned",
        changed=stored is not None and stored.status != "unchanged",
    )


def _provenance(
    method: str, parents: list[tuple[StoredAdapter, float]], description: str
) -> Provenance:
    opened = [parent for parent, _ in parents]
    return Provenance(
        source=SourceRecord(kind="composed"),
        recipe=_recipe(method, parents).to_json(),
        parents=_parents(parents),
        description=description,
        license=_license(opened),
        capabilities=_capabilities(opened),
    )


def _recipe(method: str, parents: list[tuple[StoredAdapter, float]]) -> Recipe:
    return Recipe(
        method=method,
        inputs=tuple(
            RecipeInput(
                name=parent.reference,
                digest=parent.digest,
                tensors_digest=parent.manifest.record.tensors_digest,
                weight=weight,
            )
            for parent, weight in parents
        ),
    )


def _parents(parents: list[tuple[StoredAdapter, float]]) -> tuple[ParentRecord, ...]:
    return tuple(
        ParentRecord(
            digest=parent.digest, role="composed_from", weight=weight, name=parent.reference
        )
        for parent, weight in parents
    )


def _license(parents: list[StoredAdapter]) -> str:
    """The licence of the result: the one they share.

    Raises:
        IncompatibleAdapter: two parents state different licences.
    """
    stated = {p.manifest.record.license: p.reference for p in parents if p.manifest.record.license}
    if len(stated) > 1:
        listed = ", ".join(f"{name} ({owner})" for name, owner in sorted(stated.items()))
        raise IncompatibleAdapter(
            f"licences differ: {listed}",
            where="license",
            hint="Pull them again with --license where one of them is wrong.",
            code="license_conflict",
        )
    return next(iter(stated), "")


def _capabilities(parents: list[StoredAdapter]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(word for p in parents for word in p.manifest.record.capabilities))
