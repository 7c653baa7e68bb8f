"""Adapters of diffusion models: names, formulas against dense float64, refusals, families."""

import json

import numpy as np
import pytest
from safetensors.numpy import save

from adaptrix.convert.arrays import to_numpy_f64
from adaptrix.convert.diffusion import ldm
from adaptrix.convert.diffusion.models import (
    component_of,
    flattened,
    modules,
    pipelines,
    unflattened,
)
from adaptrix.convert.diffusion.naming import places
from adaptrix.convert.reading import ReadOptions, read_adapter
from adaptrix.convert.source import AdapterFiles, MemorySource
from adaptrix.convert.writing import write_adapter
from adaptrix.schema.errors import Refused

UNET = "down_blocks.0.attentions.0.transformer_blocks.0"
LINEAR = f"{UNET}.attn1.to_q"  # 320×320
CONV = "down_blocks.0.resnets.0.conv1"  # 320×320×3×3
RNG = np.random.default_rng(11)


def draw(*shape):
    return RNG.standard_normal(shape).astype("f4")


def source(tensors, metadata=None, name="lora.safetensors"):
    content = save({k: np.ascontiguousarray(v) for k, v in tensors.items()}, metadata)
    return AdapterFiles(location="mem", files={name: MemorySource(name, content)})


def read(tensors, metadata=None, **options):
    return read_adapter(source(tensors, metadata), ReadOptions(**options))


def adapter_of(tensors, metadata=None, **options):
    reading = read(tensors, metadata, **options)
    assert reading.adapter is not None, reading.inspection.problems
    return reading.adapter


def dense(module):
    a, b = (to_numpy_f64(t) for t in (module.a, module.b))
    flat = module.scale.value * (b.reshape(len(b), -1) @ a.reshape(len(a), -1))
    return flat.reshape(len(b), *a.shape[1:])


def kohya(path, a, b, alpha=None, prefix="lora_unet_"):
    name = prefix + path.replace(".", "_")
    found = {f"{name}.lora_down.weight": a, f"{name}.lora_up.weight": b}
    return found | ({} if alpha is None else {f"{name}.alpha": np.array(alpha, "f4")})


def codes(reading):
    return [problem.code for problem in reading.inspection.problems]


# Names.


@pytest.mark.parametrize("pipeline", pipelines(), ids=lambda p: p.name.rpartition("/")[2])
def test_flat_names_lead_back_to_their_module(pipeline):
    for component, network in pipeline.networks.items():
        for path in modules(network):
            assert unflattened(component, flattened(path)) == {path}
            assert component_of(f"{component}.{path}") == component


def test_the_first_codes_unet_is_a_bijection():
    names = {}
    for block in range(12):
        for place in range(3):
            for rest in ("in_layers_2", "out_layers_3", "emb_layers_1", "skip_connection", "op", "conv", "proj_in"):  # fmt: skip
                for side in ("input", "output"):
                    name = f"{side}_blocks_{block}_{place}_{rest}"
                    if (converted := ldm.from_ldm(name)) and unflattened("unet", converted):
                        # A block without attentions has its sampler at 1, others at 2.
                        assert converted not in names or "upsamplers" in converted
                        names[converted] = name
    known = {flattened(path) for path in modules("sd1-unet")}
    assert {n for n in known if n.startswith(("down", "up")) and "transformer" not in n} - {
        n for n in known if n.endswith("proj_out")
    } <= names.keys()


def test_a_name_of_no_table_is_refused_and_one_of_two_meanings_too():
    reading = read(kohya("foo.bar", draw(2, 8), draw(8, 2)))
    assert codes(reading)[0] == "unknown_modules"
    assert len(reading.inspection.tensors.unknown) == 2
    found = places(["lora_unet_img_in"])  # Flux's first layer, or Qwen-Image's
    assert found.ambiguous == ("lora_unet_img_in",)


# Formulas.

CASES = {
    "plain": ({"lora_down.weight": (4, 320), "lora_up.weight": (320, 4)}, lambda p: p["lora_up.weight"] @ p["lora_down.weight"], 4, LINEAR),
    "conv": ({"lora_down.weight": (4, 320, 3, 3), "lora_up.weight": (320, 4, 1, 1)}, lambda p: np.einsum("or,rikl->oikl", p["lora_up.weight"][..., 0, 0], p["lora_down.weight"]), 4, CONV),
    "mid": ({"lora_down.weight": (4, 320, 1, 1), "lora_mid.weight": (4, 4, 3, 3), "lora_up.weight": (320, 4, 1, 1)},
            lambda p: np.einsum("or,rskl,si->oikl", p["lora_up.weight"][..., 0, 0], p["lora_mid.weight"], p["lora_down.weight"][..., 0, 0]), 4, CONV),
    "loha": ({"hada_w1_a": (320, 3), "hada_w1_b": (3, 320), "hada_w2_a": (320, 3), "hada_w2_b": (3, 320)},
             lambda p: (p["hada_w1_a"] @ p["hada_w1_b"]) * (p["hada_w2_a"] @ p["hada_w2_b"]), 3, LINEAR),
    "loha conv": ({"hada_w1_a": (320, 2), "hada_w1_b": (2, 2880), "hada_w2_a": (320, 2), "hada_w2_b": (2, 2880)},
                  lambda p: ((p["hada_w1_a"] @ p["hada_w1_b"]) * (p["hada_w2_a"] @ p["hada_w2_b"])).reshape(320, 320, 3, 3), 2, CONV),
    "loha tucker": ({"hada_t1": (2, 2, 3, 3), "hada_w1_a": (2, 320), "hada_w1_b": (2, 320), "hada_t2": (2, 2, 3, 3), "hada_w2_a": (2, 320), "hada_w2_b": (2, 320)},
                    lambda p: np.einsum("ijkl,jr,ip->prkl", p["hada_t1"], p["hada_w1_b"], p["hada_w1_a"])
                    * np.einsum("ijkl,jr,ip->prkl", p["hada_t2"], p["hada_w2_b"], p["hada_w2_a"]), 2, CONV),
    "lokr": ({"lokr_w1": (8, 8), "lokr_w2_a": (40, 2), "lokr_w2_b": (2, 40)}, lambda p: np.kron(p["lokr_w1"], p["lokr_w2_a"] @ p["lokr_w2_b"]), 2, LINEAR),
    "lokr both": ({"lokr_w1_a": (16, 2), "lokr_w1_b": (2, 16), "lokr_w2_a": (20, 2), "lokr_w2_b": (2, 20)},
                  lambda p: np.kron(p["lokr_w1_a"] @ p["lokr_w1_b"], p["lokr_w2_a"] @ p["lokr_w2_b"]), 2, LINEAR),
    "lokr first": ({"lokr_w1_a": (16, 2), "lokr_w1_b": (2, 16), "lokr_w2": (20, 20)}, lambda p: np.kron(p["lokr_w1_a"] @ p["lokr_w1_b"], p["lokr_w2"]), 2, LINEAR),
    "lokr full": ({"lokr_w1": (4, 4), "lokr_w2": (80, 80)}, lambda p: np.kron(p["lokr_w1"], p["lokr_w2"]), None, LINEAR),
    "lokr conv": ({"lokr_w1": (4, 4), "lokr_w2_a": (80, 2), "lokr_w2_b": (2, 720)}, lambda p: np.kron(p["lokr_w1"], p["lokr_w2_a"] @ p["lokr_w2_b"]).reshape(320, 320, 3, 3), 2, CONV),
    "lokr conv full": ({"lokr_w1": (4, 4), "lokr_w2": (80, 80, 3, 3)}, lambda p: np.kron(p["lokr_w1"][..., None, None], p["lokr_w2"]), None, CONV),
    "lokr tucker": ({"lokr_w1": (4, 4), "lokr_t2": (2, 2, 3, 3), "lokr_w2_a": (2, 80), "lokr_w2_b": (2, 80)},
                    lambda p: np.kron(p["lokr_w1"][..., None, None], np.einsum("ijkl,jr,ip->prkl", p["lokr_t2"], p["lokr_w2_b"], p["lokr_w2_a"])), 2, CONV),
    "full": ({"diff": (320, 320)}, lambda p: p["diff"], None, LINEAR),
    "full conv": ({"diff": (320, 320, 3, 3)}, lambda p: p["diff"], None, CONV),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_every_method_is_its_formula(case):
    shapes, formula, rank, path = CASES[case]
    parts = {part: draw(*shape) for part, shape in shapes.items()}
    name = "lora_unet_" + path.replace(".", "_")
    tensors = {f"{name}.{part}": value for part, value in parts.items()}
    tensors[f"{name}.alpha"] = np.array(1.5, "f4")
    (module,) = adapter_of(tensors).modules
    assert module.path == f"unet.{path}"
    wanted = formula({part: value.astype("f8") for part, value in parts.items()})
    wanted = wanted * (1.5 / rank if rank else 1.0)
    got = dense(module)
    assert got.shape == wanted.shape
    np.testing.assert_allclose(got, wanted, rtol=0, atol=2e-6 * np.abs(wanted).max())


def test_the_smallest_exact_rank_is_taken():
    def rank(**shapes):
        name = "lora_unet_" + LINEAR.replace(".", "_")
        tensors = {f"{name}.{part}": draw(*shape) for part, shape in shapes.items()}
        return adapter_of(tensors | {f"{name}.alpha": np.array(1, "f4")}).modules[0].rank

    assert rank(lokr_w1=(8, 8), lokr_w2_a=(40, 2), lokr_w2_b=(2, 40)) == 16
    assert rank(lokr_w1=(2, 160), lokr_w2_a=(160, 2), lokr_w2_b=(2, 2)) == 4
    assert rank(lokr_w1_a=(16, 2), lokr_w1_b=(2, 16), lokr_w2=(20, 20)) == 40
    assert rank(diff=(320, 320)) == 320


def test_alpha_is_the_rank_where_the_file_has_none_or_zero():
    a, b = draw(4, 320), draw(320, 4)
    for alpha in (None, 0.0):
        reading = read(kohya(LINEAR, a, b, alpha))
        assert reading.adapter.modules[0].scale.value == 1.0
        assert "assumed_alpha" in codes(reading)
    assert adapter_of(kohya(LINEAR, a, b), alpha=2.0).modules[0].scale.value == 0.5
    assert "assumed_alpha" not in codes(read(kohya(LINEAR, a, b, 2.0)))
    assert read(kohya(LINEAR, a, b, np.nan)).adapter is None


def test_differences_of_biases_are_added_once():
    a, b, bias = draw(4, 320), draw(320, 4), draw(320)
    tensors = kohya(LINEAR, a, b, 2.0)
    tensors |= kohya(f"{UNET}.attn1.to_k", a, b, 2.0)
    tensors["lora_unet_" + LINEAR.replace(".", "_") + ".diff_b"] = bias
    without, having = adapter_of(tensors).modules
    np.testing.assert_allclose(having.scale.value * to_numpy_f64(having.bias_delta), bias, rtol=1e-7)  # fmt: skip
    assert not to_numpy_f64(without.bias_delta).any()
    assert json.loads(file_of(adapter_of(tensors), "peft", 1))["lora_bias"] is True


def file_of(adapter, target, index=0):
    return b"".join(bytes(c) for c in write_adapter(adapter, target).files[index].chunks())


def test_zero_differences_are_left_out_with_the_reason():
    tensors = kohya(LINEAR, draw(4, 320), draw(320, 4), 4.0)
    key = "lora_unet_" + f"{UNET}.attn1.to_k".replace(".", "_")
    tensors |= {f"{key}.diff_b": np.zeros(320, "f4")}
    found = read(tensors).inspection
    assert found.convertible
    assert [i.name for i in found.tensors.ignored] == [f"{key}.diff_b"]


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"oft_blocks": (4, 8, 8)}, "rotation"),
        ({"a1.weight": (4, 320), "a2.weight": (320, 4), "b1.weight": (4, 320), "b2.weight": (320, 4)}, "product with the base"),
        ({"w_norm": (320,), "b_norm": (320,)}, "normalisation"),
        ({"weight": (320,), "on_input": ()}, None),
        ({"lora_down.weight": (4, 320), "lora_up.weight": (320, 4), "dora_scale": (1, 320)}, "columns"),
    ],
)  # fmt: skip
def test_what_needs_the_base_is_refused_with_the_reason(parts, words):
    name = "lora_unet_" + LINEAR.replace(".", "_")
    reading = read({f"{name}.{part}": draw(*shape) for part, shape in parts.items()})
    assert reading.adapter is None
    account = reading.inspection.tensors
    assert account.total == account.used + len(account.ignored) + len(account.unknown)
    if words:
        (problem,) = [p for p in reading.inspection.problems if p.code == "unsupported_method"]
        assert words in problem.message
        assert problem.hint


@pytest.mark.parametrize(
    ("parts", "code"),
    [
        ({"lora_down.weight": (4, 320)}, "unpaired_factor"),
        ({"lokr_w1": (4, 4)}, "unpaired_factor"),
        ({"lokr_w1": (4, 4), "lokr_w2_a": (80, 2), "lokr_w2_b": (3, 80)}, "shape_mismatch"),
        ({"hada_w1_a": (320, 2), "hada_w1_b": (3, 320), "hada_w2_a": (320, 2), "hada_w2_b": (2, 320)}, "shape_mismatch"),
        ({"lora_down.weight": (4, 320), "lora_up.weight": (320, 4), "scalar": ()}, "unknown_tensors"),
        ({"hada_w1_a": (320, 2, 1), "hada_w1_b": (2, 320), "hada_w2_a": (320, 2), "hada_w2_b": (2, 320)}, "shape_mismatch"),
        ({"lora_down.weight": (4, 320, 3, 3), "lora_mid.weight": (4, 4, 3, 3), "lora_up.weight": (320, 4)}, "shape_mismatch"),
        ({"lora_down.weight": (4, 320), "lora_up.weight": (320, 4), "alpha": (2,)}, "shape_mismatch"),
        ({"lokr_w1_a": (30000, 1), "lokr_w1_b": (1, 2), "lokr_w2_a": (30000, 1), "lokr_w2_b": (1, 2)}, "unsupported_method"),
    ],
)  # fmt: skip
def test_broken_parts_are_named(parts, code):
    name = "lora_unet_" + LINEAR.replace(".", "_")
    reading = read({f"{name}.{part}": draw(*shape) for part, shape in parts.items()})
    assert reading.adapter is None
    assert code in codes(reading)


# Fused layers.


def test_split_qkv_restores_the_alpha_of_the_parts():
    h, rank = 3072, 2
    ups = [draw(h, rank) for _ in range(3)]
    b = np.zeros((3 * h, 3 * rank), "f4")
    for i, up in enumerate(ups):
        b[i * h : (i + 1) * h, i * rank : (i + 1) * rank] = up
    a = draw(3 * rank, h)
    tensors = kohya("double_blocks.0.img_attn.qkv", a, b, 1.0)
    path = "transformer.transformer_blocks.0.attn.to_k"
    for metadata, scale in (({"ss_network_args": '{"split_qkv": "True"}'}, 1 / rank), (None, 1 / (3 * rank))):  # fmt: skip
        module = {str(m.path): m for m in adapter_of(tensors, metadata).modules}[path]
        wanted = scale * (ups[1].astype("f8") @ a[rank : 2 * rank].astype("f8"))
        np.testing.assert_allclose(dense(module), wanted)


def test_stable_diffusion_3s_last_context_block_is_swapped():
    h = 1536
    six, two, a = draw(6 * h, 4), draw(2 * h, 4), draw(4, h)
    tensors = kohya("joint_blocks.0.context_block.adaLN_modulation.1", a, six, 4.0)
    tensors |= kohya("joint_blocks.23.context_block.adaLN_modulation.1", a, two, 4.0)
    tensors |= kohya("joint_blocks.0.x_block.attn.qkv", a, draw(3 * h, 4), 4.0)
    adapter = adapter_of(tensors)
    assert adapter.family == "stable-diffusion-3"
    found = {str(m.path): to_numpy_f64(m.b) for m in adapter.modules}
    blocks = "transformer.transformer_blocks"
    np.testing.assert_array_equal(found[f"{blocks}.0.norm1_context.linear"], six)
    np.testing.assert_array_equal(found[f"{blocks}.23.norm1_context.linear"], np.roll(two, h, 0))
    again = read_adapter(source_of(adapter, "kohya")).adapter
    assert {str(m.path): to_numpy_f64(m.b).tobytes() for m in again.modules} == {
        path: value.tobytes() for path, value in found.items()
    }


def source_of(adapter, target):
    files = {f.path: b"".join(bytes(c) for c in f.chunks()) for f in write_adapter(adapter, target).files}  # fmt: skip
    return AdapterFiles(location="mem", files={n: MemorySource(n, c) for n, c in files.items()})


def test_rows_of_another_model_with_the_same_names_are_refused():
    reading = read(kohya("single_blocks.0.linear1", draw(4, 64), draw(8 * 64, 4), 4.0))
    assert "shape_mismatch" in codes(reading)


def test_scales_that_differ_in_a_fused_layer_go_into_the_factors():
    h = 3072
    tensors = {}
    for i, tail in enumerate(("to_q", "to_k", "to_v")):
        path = f"transformer.transformer_blocks.0.attn.{tail}"
        tensors |= {f"{path}.lora_A.weight": draw(2, h), f"{path}.lora_B.weight": draw(h, 2),
                    f"{path}.alpha": np.array(i + 1.3, "f4")}  # fmt: skip
    adapter = adapter_of(tensors)
    again = read_adapter(source_of(adapter, "kohya")).adapter
    for one, two in zip(adapter.modules, again.modules, strict=True):
        assert one.path == two.path
        np.testing.assert_allclose(dense(two), dense(one), atol=1e-5)


# Writers.


@pytest.mark.parametrize("target", ["kohya", "diffusers"])
def test_a_tensor_without_a_place_is_named(target):
    tensors = {"transformer.double_blocks.0.img_attn.norm.query_norm.scale": draw(128)}
    path = "transformer.transformer_blocks.0.attn.to_q"
    tensors |= {"double_blocks.0.img_attn.proj.lora_A.weight": draw(2, 3072),
                "double_blocks.0.img_attn.proj.lora_B.weight": draw(3072, 2)}  # fmt: skip
    adapter = adapter_of(tensors)
    with pytest.raises(Refused, match=r"transformer_blocks\.0\.attn\.norm_q\.weight"):
        write_adapter(adapter, target)
    bias = {f"{path}.lora_A.weight": draw(2, 3072), f"{path}.lora_B.weight": draw(3072, 2), f"{path}.lora_B.bias": draw(3072)}  # fmt: skip
    if target == "kohya":
        with pytest.raises(Refused, match="bias of transformer"):
            write_adapter(adapter_of(bias), target)


def test_peft_files_of_one_network_name_modules_inside_it():
    adapter = adapter_of(kohya(LINEAR, draw(4, 320), draw(320, 4), 2.0))
    config = json.loads(file_of(adapter, "peft", 1))
    assert config["target_modules"] == [LINEAR]
    assert config["task_type"] is None
    again = read_adapter(source_of(adapter, "peft")).adapter
    assert [m.path for m in again.modules] == [f"unet.{LINEAR}"]
    both = kohya(LINEAR, draw(4, 320), draw(320, 4), 2.0)
    both |= kohya(
        "text_model.encoder.layers.0.mlp.fc1", draw(4, 768), draw(3072, 4), 2.0, "lora_te_"
    )
    again = read_adapter(source_of(adapter_of(both), "peft")).adapter
    assert sorted(component_of(m.path) for m in again.modules) == ["text_encoder", "unet"]


def test_language_models_with_a_transformer_are_not_pipelines():
    for path in ("transformer.h.0.attn.c_attn", "transformer.blocks.0.attn.Wqkv", "transformer.layers.0.mlp.dense"):  # fmt: skip
        assert component_of(path) == ""


def test_a_scalar_factor_is_no_crash():
    reading = read({"base_model.model.q.lora_A.weight": draw(), "base_model.model.q.lora_B.weight": draw(4, 2)})  # fmt: skip
    assert reading.adapter is None
