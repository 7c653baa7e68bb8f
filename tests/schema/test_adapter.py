import math

import pytest

from adaptrix.schema.adapter import (
    AdaptedModule,
    Adapter,
    ModuleKind,
    ModulePath,
    Replacement,
    ReplacementRole,
    Scale,
    ScaleRule,
)
from adaptrix.schema.canonical import canonical_json
from adaptrix.schema.digest import Digest
from adaptrix.schema.recipe import Recipe, RecipeInput
from adaptrix.schema.record import module_records
from adaptrix.schema.tensor import DType, LazyTensor


def tensor(*shape: int, dtype: DType = DType.F32) -> LazyTensor:
    size_bytes = math.prod(shape) * dtype.itemsize
    return LazyTensor(dtype=dtype, shape=shape, source="test", load=lambda: bytes(size_bytes))


def module(path: str, rank: int = 4, **fields: object) -> AdaptedModule:
    values = {
        "path": ModulePath(path), "kind": ModuleKind.LINEAR, "source": path,
        "a": tensor(rank, 6), "b": tensor(5, rank), "scale": Scale.from_alpha(8, rank),
    } | fields  # fmt: skip
    return AdaptedModule(**values)


def test_scales():
    assert Scale.from_alpha(16, 8).value == 2.0
    assert Scale.from_alpha(16, 4, rslora=True).value == 8.0
    fixed = Scale.absolute(20.0, 4)
    assert (fixed.value, fixed.alpha, fixed.rule) == (20.0, 80.0, ScaleRule.ABSOLUTE)


def test_shapes():
    linear = module("x")
    assert (linear.rank, linear.in_features, linear.out_features) == (4, 6, 5)
    conv = module("x", a=tensor(4, 3, 2, 2), b=tensor(5, 4, 1, 1), kind=ModuleKind.CONV)
    assert (conv.in_features, conv.out_features) == (12, 5)


def test_names_of_tensors():
    adapter = Adapter(
        modules=(
            module("m.fc1", magnitude=tensor(5), bias_delta=tensor(5)),
            module("m.wte", rank=2, kind=ModuleKind.EMBEDDING),
        ),
        replacements=(
            Replacement(
                parameter="lm_head.weight",
                tensor=tensor(7, 6),
                role=ReplacementRole.MODULES_TO_SAVE,
            ),
            Replacement(
                parameter="emb",
                tensor=tensor(1, 6),
                role=ReplacementRole.TRAINABLE_TOKENS,
                rows=(3,),
            ),
        ),
        format="peft",
        layout="transformers",
    )
    assert list(adapter.tensors()) == [
        "emb.token_adapter.trainable_tokens_delta", "lm_head.weight", "m.fc1.lora_A.weight",
        "m.fc1.lora_B.bias", "m.fc1.lora_B.weight", "m.fc1.lora_magnitude_vector",
        "m.wte.lora_embedding_A", "m.wte.lora_embedding_B",
    ]  # fmt: skip
    assert adapter.ranks == (2, 4)
    assert adapter.parameter_count == sum(t.count for t in adapter.tensors().values())
    first, second = module_records(adapter)
    assert (first.rank, first.alpha, first.scale, first.rule) == (4, 8, 2.0, ScaleRule.ALPHA_OVER_R)
    assert second.kind == "embedding"


def test_lazy_tensor():
    lazy = tensor(3, 5, dtype=DType.BF16)
    assert (lazy.count, lazy.size_bytes) == (15, 30)
    assert len(lazy.load()) == lazy.size_bytes
    assert tensor().count == 1


@pytest.mark.parametrize("dtype", DType)
def test_dtypes(dtype):
    floating = {"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"}
    assert dtype.is_floating == (dtype.value in floating)
    digits = "".join(c for c in dtype.value.split("_")[0] if c.isdigit())
    assert dtype.itemsize == (int(digits) // 8 if digits else 1)


def test_recipe():
    digest = Digest.of(b"a")
    recipe = Recipe(
        method="linear",
        inputs=(RecipeInput(name="m", digest=digest, tensors_digest=digest, weight=0.5),),
    )
    document = recipe.to_json()
    assert document["inputs"] == [
        {"name": "m", "digest": str(digest), "tensorsDigest": str(digest), "weight": "0.5"}
    ]
    assert (document["seed"], document["space"]) == (None, "factor")
    canonical_json(document)
