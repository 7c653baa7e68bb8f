"""What goes into a composition: configurations of bases that are known must agree."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from adaptrix.compose.baking import BaseWeights
from adaptrix.registry.ingredients import prepare
from adaptrix.registry.recipe_files import Ingredient, read_recipe, recipe_text
from adaptrix.registry.recipe_files import RecipeFile as Written
from adaptrix.registry.registry import Registry
from adaptrix.schema.digest import Digest
from adaptrix.schema.errors import IncompatibleAdapter
from adaptrix.schema.recipe import Baking, Recipe, RecipeInput, WeightRule

SAMPLES = Path(__file__).resolve().parents[2] / "samples" / "adapters"


def of_config(stored, text):
    record = stored.manifest.record
    base = replace(record.base, config_digest=text and Digest.of(text))
    return replace(stored, manifest=replace(stored.manifest, record=replace(record, base=base)))


def test_configurations_of_bases_must_agree(home):
    with Registry(home) as registry:
        for name in ("math", "code"):
            registry.pull(str(SAMPLES / name), name=name)
        parents = [registry.open("math"), registry.open("code")]
    wanted = [Ingredient(reference="math"), Ingredient(reference="code")]
    base = BaseWeights(name="b", config_digest=Digest.of(b"two"), weight=lambda _: torch.zeros(1))
    for configs, given in (((b"one", b"two"), None), ((b"one", None), base)):
        chosen = [of_config(p, text) for p, text in zip(parents, configs, strict=True)]
        with pytest.raises(IncompatibleAdapter, match="base model: configurations of the bases"):
            prepare(chosen, wanted, given, 8)
    same = [of_config(parent, b"two") for parent in parents]
    assert [entry.baked for entry in prepare(same, wanted, base, 8)] == [None, None]


def test_recipes_are_written_as_they_are_read(tmp_path):
    written = Written(
        method="ties@core", parameters={"density": 0.4}, seed=3,
        inputs=(
            Ingredient(
                reference="math", weight=-0.5, grams=tmp_path / "g.safetensors",
                rules=(WeightRule(weight=0.25, layers=(0, 3)), WeightRule(weight=2.0, layers=(4, 4)),
                       WeightRule(weight=0.0, pattern="*.mlp.*")),
            ),
            Ingredient(reference="code"),
        ),
    )  # fmt: skip
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe_text(written))
    assert read_recipe(path) == written


def test_a_recipe_keeps_what_it_was_made_with():
    entry = RecipeInput(
        name="a", digest=Digest.of(b"1"), tensors_digest=Digest.of(b"2"), weight=0.5,
        grams=Digest.of(b"3"), baked=Baking(base="b", config_digest=Digest.of(b"4"), rank=8),
    )  # fmt: skip
    recipe = Recipe(method="regmean", inputs=(entry,))
    assert Recipe.from_json(recipe.to_json()) == recipe
