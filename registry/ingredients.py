"""What goes into a composition, made ready: weights, Gram matrices, DoRA made plain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from adaptrix.compose.baking import Baked, BaseWeights, bake
from adaptrix.compose.inputs import Input
from adaptrix.convert.safetensors_file import open_safetensors
from adaptrix.convert.source import FileSource
from adaptrix.registry.recipe_files import Ingredient
from adaptrix.registry.reports import BakedRow, StoredAdapter
from adaptrix.schema.digest import Digest
from adaptrix.schema.errors import IncompatibleAdapter, NotFound
from adaptrix.schema.recipe import Baking, RecipeInput
from adaptrix.schema.tensor import LazyTensor

CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """One parent, ready to be merged.

    Attributes:
        input: What the merge sees.
        recipe: What the recipe says of it.
        baked: What making it plain cost; None where it was plain.
    """

    input: Input
    recipe: RecipeInput
    baked: BakedRow | None


def prepare(
    parents: Sequence[StoredAdapter],
    ingredients: Sequence[Ingredient],
    base: BaseWeights | None,
    bake_rank: int,
) -> list[Prepared]:
    """Parents with what their ingredients ask for.

    Raises:
        NotFound: no such file of Gram matrices.
        FormatError: it is none.
        IncompatibleAdapter: the bases' configurations differ, or a DoRA does not fit its base.
    """
    _check_configs(parents, base)
    return [
        _prepared(parent, entry, base, bake_rank)
        for parent, entry in zip(parents, ingredients, strict=True)
    ]


def _prepared(
    parent: StoredAdapter, entry: Ingredient, base: BaseWeights | None, bake_rank: int
) -> Prepared:
    adapter, row, baking = parent.adapter, None, None
    if base is not None and any(module.magnitude is not None for module in adapter.modules):
        made: Baked = bake(adapter, base, bake_rank)
        adapter = made.adapter
        row = BakedRow(reference=parent.reference, modules=made.modules, error=made.error)
        baking = Baking(base=base.name, config_digest=base.config_digest, rank=bake_rank)
    grams: Mapping[str, LazyTensor] = {}
    digest = None
    if entry.grams is not None:
        grams, digest = _grams(entry.grams)
    return Prepared(
        input=Input(adapter=adapter, weight=entry.weight, rules=entry.rules, grams=grams),
        recipe=RecipeInput(
            name=parent.reference,
            digest=parent.digest,
            tensors_digest=parent.manifest.record.tensors_digest,
            weight=entry.weight,
            rules=entry.rules,
            grams=digest,
            baked=baking,
        ),
        baked=row,
    )


def _grams(path: Path) -> tuple[Mapping[str, LazyTensor], Digest]:
    if not path.is_file():
        raise NotFound("no such file of Gram matrices", where=str(path))
    source = FileSource(path)
    chunks = (
        source.read(start, min(start + CHUNK_BYTES, source.size_bytes))
        for start in range(0, source.size_bytes, CHUNK_BYTES)
    )
    return open_safetensors(source).tensors, Digest.of_chunks(chunks)


def shared_config(parents: Sequence[StoredAdapter]) -> Digest | None:
    """The configuration that all parents were checked against; None unless all were."""
    found = {parent.manifest.record.base.config_digest for parent in parents}
    return found.pop() if len(found) == 1 else None


def _check_configs(parents: Sequence[StoredAdapter], base: BaseWeights | None) -> None:
    known = {
        parent.manifest.record.base.config_digest: parent.reference
        for parent in parents
        if parent.manifest.record.base.config_digest is not None
    }
    if base is not None and known:
        known.setdefault(base.config_digest, base.name)
    if len(known) > 1:
        listed = ", ".join(f"{name} {digest}" for digest, name in known.items())
        raise IncompatibleAdapter(
            f"configurations of the bases differ: {listed}",
            where="base model",
            hint="If it is one base all the same, pull them all with the same --base.",
        )
