"""Tables of names are bijections, over every architecture that they claim."""

import gguf
import pytest

from adaptrix.convert.architecture.families import family_named
from adaptrix.convert.formats import litgpt as litgpt_reader
from adaptrix.convert.gguf_names import ARCHITECTURES, FUSED_QKV
from adaptrix.convert.layouts import phi
from adaptrix.convert.layouts.decoder import DECODERS, OUTER, module_path, part_of
from adaptrix.convert.layouts.mlx import mlx_name
from adaptrix.convert.layouts.mlx import transformers_name as mlx_to_transformers
from adaptrix.convert.writers import litgpt as litgpt_writer
from adaptrix.convert.writers import torchtune as torchtune_writer
from adaptrix.convert.writers.mlx_vlm import language_name, transformers_name
from adaptrix.convert.writers.phi_layouts import LAYOUTS, _Naming

FAMILIES = [(name, family) for name, form in ARCHITECTURES.items() for family in (form.family, *form.others)]  # fmt: skip
NARROW = {f"blk.1.ffn_{part}" for part in ("gate", "up", "down")}


@pytest.mark.parametrize(("name", "family"), FAMILIES)
def test_ggufs_names_lead_back_and_are_those_of_the_class_and_of_ggufs_own_library(name, family):
    form, known = ARCHITECTURES[name], family_named(family)
    names = [*form.outer, *(f"blk.1.{inside}" for inside in form.blocks)]
    paths = [form.path_of(each) for each in names]
    assert len(set(paths)) == len(paths)
    assert [form.name_of(path) for path in paths] == names
    architecture = next(k for k, v in gguf.MODEL_ARCH_NAMES.items() if v == name)
    theirs = gguf.get_tensor_name_map(architecture, 2)
    for path, each in zip(paths, names, strict=True):
        if path.endswith(FUSED_QKV):
            continue  # Phi's own former class
        if (family == "mixtral") == (each in NARROW) and name == "llama" and ".ffn_" in each:
            continue  # with experts or without
        # Experts are one parameter of the class, and its halves two tensors here.
        stacked = path.replace("gate_proj", "gate_up_proj").replace(
            "experts.up_", "experts.gate_up_"
        )
        assert known.shapes(stacked if "_exps" in each else path), path
        bare = path.removeprefix("transformer.") if name == "bloom" else path
        assert theirs.get_name(f"{bare}.weight", try_suffixes=(".weight",)) == f"{each}.weight"
    assert form.name_of("model.layers.1.self_attn.rotary_emb") is None
    assert form.path_of("blk.1.attn_norm") is None


@pytest.mark.parametrize("family", DECODERS)
def test_every_part_of_a_decoder_is_one_module_of_its_class(family):
    known = family_named(family)
    parts = [*((part, 3) for part in DECODERS[family]), *((part, None) for part in OUTER)]
    paths = [module_path(family, part, layer) for part, layer in parts]
    assert len(set(paths)) == len(paths)
    assert [part_of(family, path) for path in paths] == parts
    assert all(known.shapes(path) for path in paths)


def test_torchtunes_and_litgpts_names_are_read_as_they_are_written():
    names = torchtune_writer.TAILS
    assert len(set(names.values())) == len(names)
    written = litgpt_writer._NAMES
    assert {tail: part for part, tail in written.items()} == litgpt_reader.TAILS
    every = {part for table in DECODERS.values() for part in table}
    assert every - {"q", "k", "v"} == set(written)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_module_of_phi_has_one_name_in_each_layout(layout):
    naming = _Naming(layout=layout, layers=24)
    known, paths = family_named("phi"), ["score"]
    for path, _ in known.names():
        if "layernorm" not in path and not path.startswith(("classifier", "score", "qa_")):
            paths.append(path.format(5))
    fused = [p for p in paths if naming.fused and p.endswith(("q_proj", "k_proj", "v_proj"))]
    names = {path: naming.name(path) for path in paths if path not in fused}
    assert len(set(names.values())) == len(names) >= 5
    for path, name in names.items():
        assert phi.target(layout, name, 24).path == path
    for path in fused:
        place = phi.target(layout, naming.inside(5, naming.fused), 24)
        assert (place.path, place.is_fused) == (path.rpartition(".")[0], True)
    assert len(set(phi.BLOCK_MAP[layout].values())) == len(phi.BLOCK_MAP[layout])


@pytest.mark.parametrize("has_images", [False, True])
def test_mlx_vlms_names_lead_back(has_images):
    tails = ("layers.3.self_attn.q_proj", "layers.0.mlp.down_proj")
    inside = "model.language_model." if has_images else "model."
    for path in (*(inside + tail for tail in tails), "lm_head"):
        assert transformers_name(language_name(path), has_images=has_images) == path


MLX = {
    "gpt_neox": ["gpt_neox.layers.3.attention.query_key_value", "gpt_neox.layers.3.mlp.dense_h_to_4h"],
    "gpt2": ["transformer.h.3.attn.c_attn", "transformer.h.3.mlp.c_proj"],
    "gpt_bigcode": ["transformer.h.3.attn.c_attn"],
    "llama": ["model.layers.3.self_attn.q_proj", "lm_head", "model.embed_tokens"],
}  # fmt: skip


@pytest.mark.parametrize("family", MLX)
def test_mlx_lms_names_lead_back(family):
    names = [mlx_name(family, path) for path in MLX[family]]
    assert None not in names
    assert [mlx_to_transformers(name) for name in names] == MLX[family]
    assert all(family_named(family).shapes(path) for path in MLX[family])
    for other in ("transformer.h.3.self_attention.dense", "model.layers.0.mlp.experts.3.up_proj"):
        assert mlx_name("bloom", other) is None
