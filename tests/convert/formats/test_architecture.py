"""Families from keys and shapes: what is certain, what is ambiguous, what is unknown."""

import pytest

from adaptrix.convert.architecture.detect import Claims, Observation, detect
from adaptrix.convert.architecture.dimensions import Dimensions, dimensions_of
from adaptrix.convert.architecture.families import family_named, family_names
from adaptrix.convert.architecture.known_bases import known_base, known_bases
from adaptrix.convert.architecture.popularity import POPULARITY


def seen(*tails, layers=32, prefix="model.layers.{}.", shapes=None):
    sizes = shapes or [(0, 0)] * len(tails)
    return [
        Observation(path=prefix.format(i) + tail, out_features=size[0], in_features=size[1])
        for i in range(layers)
        for tail, size in zip(tails, sizes, strict=True)
    ]


SQUARE = [(2560, 2560), (2560, 2560)]
CERTAIN = {
    "declared phi-2": (seen("self_attn.q_proj", "self_attn.v_proj", shapes=SQUARE), Claims(base_name="microsoft/phi-2")),
    "dense": (seen("self_attn.q_proj", "self_attn.dense", layers=4, shapes=[(256, 256)] * 2), Claims()),
    "fc1 alone": (seen("mlp.fc1", layers=4, shapes=[(1024, 256)]), Claims()),
    "Wqkv": (seen("mixer.Wqkv", layers=4, prefix="transformer.h.{}.", shapes=[(768, 256)]), Claims()),
    "oldest": (seen("mixer.Wqkv", layers=4, prefix="layers.{}.", shapes=[(768, 256)]), Claims()),
    "a path of phi-1_5": (seen("mixer.Wqkv", layers=24, prefix="layers.{}.", shapes=[(6144, 2048)]), Claims(base_name="/home/x/phi-1_5/")),
    "stated": (seen("self_attn.q_proj", layers=4, shapes=[(256, 256)]), Claims(architecture="phi")),
    "given": (seen("self_attn.q_proj", layers=4, shapes=[(256, 256)]), Claims(base_model_type="phi")),
}  # fmt: skip


@pytest.mark.parametrize("case", list(CERTAIN))
def test_phi_is_beyond_doubt(case):
    found = detect(*CERTAIN[case])
    assert found.family == "phi"
    assert found.confidence > 0.95


def test_two_square_projections_alone_are_ambiguous():
    found = detect(seen("self_attn.q_proj", "self_attn.v_proj", shapes=SQUARE), Claims())
    assert found.family == "unknown"
    assert found.confidence == 0.0
    names = [c.family for c in found.candidates]
    assert {"phi", "stablelm"} <= set(names)
    assert names[0] == "phi"
    assert {b.name for b in found.matches} >= {"microsoft/phi-2", "stabilityai/stablelm-3b-4e1t"}
    assert sum(c.probability for c in found.candidates) <= 1


ONE_OF_EACH_SIZE = list({(b.family, b.dimensions): b for b in known_bases()}.values())[::3]


@pytest.mark.parametrize("base", ONE_OF_EACH_SIZE, ids=lambda base: base.name)
def test_every_known_base_is_found_by_its_own_shapes_and_name(base):
    family = family_named(base.family)
    root = family.roots[0] if family.roots else ""
    names = [n for n, shapes in family.modules.items() if "layer" in shapes[0].count or "{}" in n]
    observations = []
    linear = [n for n in names if family.modules[n][0].kind in ("linear", "conv1d")]
    sized = [
        n for n in linear if None not in base.shapes.sides(root + n.replace("{}", "0"))[0].sides
    ]
    for name in (sized or linear)[:3]:
        found = base.shapes.sides(root + name.replace("{}", "0"))[0]
        out, into = (side or 0 for side in found.sides)
        observations += [
            Observation(
                path=root + name.replace("{}", str(index), 1).replace("{}", "0"),
                out_features=out, in_features=into,
            )
            for index in range(base.dimensions.layers)
        ]  # fmt: skip
    found = detect(observations, Claims(base_name=base.name))
    assert found.family == base.family
    assert found.confidence > 0.8
    assert base.name in [match.name for match in found.matches]


def test_a_false_name_does_not_outweigh_the_keys():
    llama = seen("self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", shapes=[(4096, 4096), (14336, 4096), (14336, 4096)])  # fmt: skip
    found = detect(llama, Claims(base_name="microsoft/phi-2"))
    assert found.family != "phi"
    dense = seen("self_attn.dense", "mlp.fc1", shapes=[(2560, 2560), (10240, 2560)])
    assert detect(dense, Claims(base_name="meta-llama/Llama-2-7b-hf")).family == "phi"


@pytest.mark.parametrize(
    "paths", [["lin0"], ["encoder.lin", "decoder.lin"], ["blocks.0.foo", "blocks.1.foo"], []]
)
@pytest.mark.parametrize("name", ["", "gpt2", "me/mine"])
def test_an_unknown_family_is_said_to_be_unknown(paths, name):
    found = detect([Observation(path=p) for p in paths], Claims(base_name=name))
    assert found.family == "unknown"


def test_grouped_heads_rule_phi_out():
    shapes = [(4096, 4096), (1024, 4096)]
    found = detect(seen("self_attn.q_proj", "self_attn.v_proj", shapes=shapes), Claims())
    assert "phi" not in [c.family for c in found.candidates]


def test_dimensions_of_configurations():
    phi = dimensions_of({"hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 3})
    assert (phi.query_width, phi.kv_width) == (8, 8)
    gpt2 = dimensions_of({"n_embd": 8, "n_head": 2, "n_layer": 3, "n_inner": None})
    assert gpt2.intermediate == 32
    grouped = Dimensions(hidden=16, heads=4, kv_heads=1, head_size=4)
    assert (grouped.query_width, grouped.kv_width) == (16, 4)
    assert dimensions_of({"hidden_size": True, "text_config": {"hidden_size": 4}}).hidden == 4


def test_known_names():
    assert known_base("C:\\models\\phi-2\\").name == "microsoft/phi-2"
    assert known_base("me/phi-2-mine") is None
    assert {b.family for b in known_bases()} <= set(family_names())
    assert set(POPULARITY) <= set(family_names())
    assert len(known_bases()) >= 150
    assert all(base.source for base in known_bases())
