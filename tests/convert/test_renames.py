"""The table of old names: what holds for every row, and what transformers itself says of some."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from adaptrix.convert.architecture.detect import Claims, Observation, detect
from adaptrix.convert.draft import Factors
from adaptrix.convert.layouts.moving import modernise
from adaptrix.convert.layouts.renames import (
    anonymous,
    fill,
    former_owners,
    has_experts,
    is_raw_weight,
    moves,
    parse_move,
    renamed_families,
    slots,
)
from adaptrix.convert.reading import read_adapter
from adaptrix.convert.source import open_path
from adaptrix.schema.tensor import DType, LazyTensor

FAMILIES = renamed_families()


def test_there_are_many():
    assert len(FAMILIES) > 150
    for family in ("vit", "llava", "gemma3", "qwen2_vl", "mixtral", "qwen3_moe", "deepseek_v3"):
        assert family in FAMILIES
    assert moves("llama") == {}
    assert moves("no such family") == {}


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_are_consistent(family):
    table = moves(family)
    claimed = {}
    for old, move in table.items():
        assert move.obstacle or old not in move.to
        holes = old.count("{}")
        assert all(to.count("{}") == holes for to in move.to)
        assert family in former_owners(anonymous(old.replace("{}", "0")))
        if move.parts > 1:
            claimed.setdefault((move.to[0], old.rpartition(".")[0]), []).append(move)
    # The parts that are joined to one module are all there, each once.
    for moves_of_one in claimed.values():
        assert sorted(m.part for m in moves_of_one) == list(range(moves_of_one[0].parts))


def test_slots_and_fill_are_inverse():
    for path in (
        "model.layers.3.mlp.experts.11.w1",
        "encoder.block.0.2.attention.self.query",
        "h.7.x",
    ):
        template, numbers = slots(path)
        assert fill(template, numbers) == path
    assert slots("layers.4.ffn.net.0.proj") == ("layers.{}.ffn.net.0.proj", ("4",))
    assert former_owners("model.layers.{}.no_such_module") == ()


def test_known_rows():
    vit = moves("vit")["vit.encoder.layer.{}.attention.attention.query"]
    assert vit.to == ("vit.layers.{}.attention.q_proj",)
    up = moves("mixtral")["model.layers.{}.block_sparse_moe.experts.{}.w3"]
    assert (up.to, up.part, up.parts) == (("model.layers.{}.mlp.experts.gate_up_proj.{}",), 1, 2)
    assert "qwen2_vl" in former_owners("model.layers.{}.self_attn.q_proj")
    assert is_raw_weight("mixtral", "model.layers.5.mlp.gate")
    assert has_experts("qwen3_moe")
    assert not has_experts("llava")
    assert parse_move("!Transpose").obstacle == "Transpose"
    assert parse_move("a|b").to == ("a", "b")


@pytest.mark.parametrize("family", ["vit", "mixtral", "llava"])
def test_transformers_loads_a_checkpoint_of_the_old_names(family):
    """Every old name, given to transformers' own renaming, comes out as the new one."""
    loading = pytest.importorskip("transformers.core_model_loading")
    torch = pytest.importorskip("torch")
    import transformers
    from transformers.conversion_mapping import get_model_conversion_mapping

    classes = {
        "vit": "ViTForImageClassification", "mixtral": "MixtralForCausalLM",
        "llava": "LlavaForConditionalGeneration",
    }  # fmt: skip
    config = transformers.CONFIG_MAPPING[family](
        **({} if family == "llava" else {"num_hidden_layers": 2})
    )
    with torch.device("meta"):
        model = getattr(transformers, classes[family])(config)
    state = dict(model.state_dict())
    every = get_model_conversion_mapping(model, add_legacy=False)
    renamings = [c for c in every if isinstance(c, loading.WeightRenaming)]
    converters = [c for c in every if isinstance(c, loading.WeightConverter)]
    checked = 0
    for old, move in moves(family).items():
        numbers = ["1"] * old.count("{}")
        new, _ = loading.rename_source_key(
            fill(old, numbers) + ".weight", renamings, converters, model.base_model_prefix, state
        )
        wanted = fill(move.to[0], numbers)
        stacked = move.to[0].endswith(".{}") and not old.endswith(".{}")
        full = wanted.rpartition(".")[0] if stacked else wanted + ".weight"
        if full in state:
            checked += 1
            assert new == full
    assert checked >= 3


ATTENTION = ("q_proj", "v_proj")
OLD = {
    "dinov2": ("dinov2.encoder.layer.{}.attention.attention.{}", ("query", "value"), ""),
    "swin": ("swin.encoder.layers.0.blocks.{}.attention.self.{}", ("query", "value"), ""),
    "vit": ("vit.encoder.layer.{}.attention.attention.{}", ("query", "value"), ""),
    "llava": ("language_model.model.layers.{}.self_attn.{}", ATTENTION, "llava-hf/llava-1.5-7b-hf"),
    "gemma3": ("language_model.model.layers.{}.self_attn.{}", ATTENTION, "google/gemma-3-4b-it"),
    "mixtral": ("model.layers.{}.block_sparse_moe.experts.0.{}", ("w1", "w2", "w3"), "mistralai/Mixtral-8x7B-v0.1"),
    "qwen3_moe": ("model.layers.{}.mlp.experts.0.{}", ("gate_proj", "up_proj", "down_proj"), "Qwen/Qwen3-30B-A3B"),
}  # fmt: skip


@pytest.mark.parametrize("family", OLD)
def test_old_names_tell_the_family(family):
    template, last, base = OLD[family]
    paths = [template.format(layer, name) for layer in range(4) for name in last]
    found = detect([Observation(path=path) for path in paths], Claims(base_name=base))
    assert found.family == family
    assert found.confidence > 0.9


def test_old_names_that_many_have_today_need_the_base(tmp_path):
    """Today's Llama and Qwen2, yesterday's Qwen2-VL: the declared base decides."""
    tensors = {}
    for layer in range(2):
        for name in ATTENTION:
            key = f"base_model.model.model.layers.{layer}.self_attn.{name}"
            tensors[f"{key}.lora_A.weight"] = np.ones((2, 16), np.float32)
            tensors[f"{key}.lora_B.weight"] = np.ones((16, 2), np.float32)
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": list(ATTENTION)}
    for base, family, first in (
        ("Qwen/Qwen2-VL-7B-Instruct", "qwen2_vl", "model.language_model.layers.0.self_attn.q_proj"),
        ("Qwen/Qwen2-7B-Instruct", "qwen2", "model.layers.0.self_attn.q_proj"),
    ):
        folder = tmp_path / family
        folder.mkdir()
        save_file(tensors, folder / "adapter_model.safetensors")
        config["base_model_name_or_path"] = base
        (folder / "adapter_config.json").write_text(json.dumps(config))
        reading = read_adapter(open_path(folder))
        assert reading.adapter.family == family
        assert reading.adapter.modules[0].path == first


def test_vision_beside_old_text_names_moves_too_and_alone_stays():
    """``visual.blocks`` is old beside ``model.layers``, and the headless class's own alone."""
    text = [f"model.layers.{layer}.self_attn.q_proj" for layer in range(2)]
    vision = ["visual.blocks.0.attn.qkv"]
    tensor = LazyTensor(dtype=DType.F32, shape=(2, 2), source="x", load=lambda: bytes(16))
    for paths, wanted in (
        (text + vision, [p.replace("model.", "model.language_model.") for p in text] + ["model.visual.blocks.0.attn.qkv"]),
        (vision, vision),
    ):  # fmt: skip
        pairs = [Factors(path=path, source=path, a=tensor, b=tensor) for path in paths]
        moved = modernise(pairs, (), "qwen2_5_vl", read=False)
        assert [pair.path for pair in moved.factors] == wanted
        assert len(moved.renamed) == (len(paths) if len(paths) > 1 else 0)
