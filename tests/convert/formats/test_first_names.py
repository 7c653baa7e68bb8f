"""Names of the models' first codes: each file against its dense update in float64.

The rows give the names as trainers write them and where diffusers has the modules; fused
layers name their parts and the rows of each. ``tests/engines/test_first_names.py`` compares
the same rows with diffusers' own converters.
"""

import json

import numpy as np
import pytest
from safetensors.numpy import save

from adaptrix.convert.arrays import to_numpy_f64
from adaptrix.convert.diffusion.models import modules
from adaptrix.convert.diffusion.natives import namings, rows_of
from adaptrix.convert.reading import ReadOptions, read_adapter
from adaptrix.convert.source import AdapterFiles, MemorySource
from adaptrix.convert.writing import write_adapter

RNG = np.random.default_rng(5)
QKV, ADDED = ("to_q", "to_k", "to_v"), ("add_q_proj", "add_k_proj", "add_v_proj")
DIT, ONE = "transformer_blocks.0", "single_transformer_blocks.0"


def parts(place, names, sizes):
    return {f"{place}.{name}": size for name, size in zip(names, sizes, strict=True)}


ROWS = {
    # family: (name, inputs, rows of each of its paths)
    "flux2": [
        ("double_blocks.0.img_attn.qkv", 6144, parts(f"{DIT}.attn", QKV, [6144] * 3)),
        ("double_blocks.0.txt_attn.qkv", 6144, parts(f"{DIT}.attn", ADDED, [6144] * 3)),
        ("double_blocks.0.txt_attn.proj", 6144, {f"{DIT}.attn.to_add_out": 6144}),
        ("double_blocks.0.img_mlp.0", 6144, {f"{DIT}.ff.linear_in": 36864}),
        ("double_blocks.0.txt_mlp.2", 18432, {f"{DIT}.ff_context.linear_out": 6144}),
        ("single_blocks.0.linear1", 6144, {f"{ONE}.attn.to_qkv_mlp_proj": 55296}),
        ("single_blocks.0.linear2", 24576, {f"{ONE}.attn.to_out": 6144}),
        ("double_stream_modulation_img.lin", 6144, {"double_stream_modulation_img.linear": 36864}),
    ],
    "lumina2": [
        ("layers.0.attention.qkv", 2304, parts("layers.0.attn", QKV, [2304, 768, 768])),
        ("context_refiner.1.attention.out", 2304, {"context_refiner.1.attn.to_out.0": 2304}),
        ("noise_refiner.0.feed_forward.w3", 2304, {"noise_refiner.0.feed_forward.linear_3": 9216}),
        ("layers.0.adaLN_modulation.1", 1024, {"layers.0.norm1.linear": 9216}),
    ],
    "z-image": [
        ("layers.0.attention.qkv", 3840, parts("layers.0.attention", QKV, [3840] * 3)),
        ("layers.0.attention.out", 3840, {"layers.0.attention.to_out.0": 3840}),
        ("layers.29.feed_forward.w2", 10240, {"layers.29.feed_forward.w2": 3840}),
        ("noise_refiner.0.adaLN_modulation.0", 256, {"noise_refiner.0.adaLN_modulation.0": 15360}),
    ],
    "ideogram4": [
        ("layers.0.attention.qkv", 4608, parts("layers.0.attention", QKV, [4608] * 3)),
        ("layers.0.attention.o", 4608, {"layers.0.attention.to_out.0": 4608}),
        ("layers.33.feed_forward.w1", 4608, {"layers.33.feed_forward.w1": 12288}),
        ("layers.0.adaln_modulation", 512, {"layers.0.adaln_modulation": 18432}),
    ],
    "cosmos": [  # Anima
        ("blocks.0.self_attn.q_proj", 2048, {f"{DIT}.attn1.to_q": 2048}),
        ("blocks.0.cross_attn.k_proj", 1024, {f"{DIT}.attn2.to_k": 2048}),
        ("blocks.0.cross_attn.output_proj", 2048, {f"{DIT}.attn2.to_out.0": 2048}),
        ("blocks.0.mlp.layer1", 2048, {f"{DIT}.ff.net.0.proj": 8192}),
        ("blocks.0.adaln_modulation_mlp.2", 256, {f"{DIT}.norm3.linear_2": 6144}),
    ],
    "krea2": [
        ("blocks.0.attn.wk", 6144, {f"{DIT}.attn.to_k": 1536}),
        ("blocks.0.mlp.down", 16384, {f"{DIT}.ff.down": 6144}),
        ("txtfusion.refiner_blocks.1.attn.gate", 2560, {"text_fusion.refiner_blocks.1.attn.to_gate": 2560}),
        ("first", 64, {"img_in": 6144}),
    ],
    "hunyuan-video": [
        ("double_blocks.0.img_attn_qkv", 3072, parts(f"{DIT}.attn", QKV, [3072] * 3)),
        ("double_blocks.0.txt_mlp.fc2", 12288, {f"{DIT}.ff_context.net.2": 3072}),
        ("single_blocks.0.linear1", 3072, {**parts(f"{ONE}.attn", QKV, [3072] * 3), f"{ONE}.proj_mlp": 12288}),
        ("single_blocks.39.modulation.linear", 3072, {"single_transformer_blocks.39.norm.linear": 9216}),
        ("txt_in.individual_token_refiner.blocks.0.self_attn_qkv", 3072,
         parts("context_embedder.token_refiner.refiner_blocks.0.attn", QKV, [3072] * 3)),
    ],
    "hunyuan-video-1.5": [
        ("double_blocks.53.img_attn_q", 2048, {"transformer_blocks.53.attn.to_q": 2048}),
        ("double_blocks.0.txt_attn_v", 2048, {f"{DIT}.attn.add_v_proj": 2048}),
        ("double_blocks.0.img_mlp.fc1", 2048, {f"{DIT}.ff.net.0.proj": 8192}),
    ],
    "hunyuan-image": [
        ("double_blocks.0.img_attn_qkv", 3584, parts(f"{DIT}.attn", QKV, [3584] * 3)),
        ("single_blocks.0.linear2", 17920, {f"{ONE}.proj_out": 3584}),
    ],
    "chroma": [
        ("double_blocks.0.img_attn.qkv", 3072, parts(f"{DIT}.attn", QKV, [3072] * 3)),
        ("distilled_guidance_layer.layers.4.in_layer", 5120, {"distilled_guidance_layer.layers.4.linear_1": 5120}),
    ],
    "hidream": [
        ("double_stream_blocks.0.block.attn1.to_out", 2560, {"double_stream_blocks.0.block.attn1.to_out": 2560}),
        ("single_stream_blocks.0.block.ff_i.experts.1.w1", 2560, {"single_stream_blocks.0.block.ff_i.experts.1.w1": 6912}),
    ],
    "ltx-2": [
        (f"{DIT}.audio_attn1.to_q", 2048, {f"{DIT}.audio_attn1.to_q": 2048}),
        (f"{DIT}.attn1.to_out.0", 4096, {f"{DIT}.attn1.to_out.0": 4096}),
        ("adaln_single.linear", 4096, {"time_embed.linear": 24576}),
    ],
    "wan": [
        ("blocks.0.cross_attn.k_img", 5120, {"blocks.0.attn2.add_k_proj": 5120}),
        ("blocks.0.cross_attn.v_img", 5120, {"blocks.0.attn2.add_v_proj": 5120}),
        ("blocks.0.ffn.2", 13824, {"blocks.0.ffn.net.2": 5120}),
        ("blocks.0.self_attn.o", 5120, {"blocks.0.attn1.to_out.0": 5120}),
    ],
    "kandinsky5": [
        ("visual_transformer_blocks.31.self_attention.to_query", 1792,
         {"visual_transformer_blocks.31.self_attention.to_query": 1792}),
        ("visual_transformer_blocks.0.feed_forward.in_layer", 1792,
         {"visual_transformer_blocks.0.feed_forward.in_layer": 7168}),
    ],
    "qwen-image": [
        ("transformer_blocks.59.attn.to_out.0", 3072, {"transformer_blocks.59.attn.to_out.0": 3072}),
        ("transformer_blocks.0.img_mod.1", 3072, {"transformer_blocks.0.img_mod.1": 18432}),
    ],
}  # fmt: skip
PREFIXES = {
    "diffusion_model.": ("lora_A.weight", "lora_B.weight"),
    "base_model.model.diffusion_model.": ("lora_A.weight", "lora_B.weight"),
    "lora_unet_": ("lora_down.weight", "lora_up.weight"),
}


def file_of(family, prefix, alpha=None):
    """Tensors in the tool's names, and ``B @ (A @ x)`` of every path."""
    tensors, wanted = {}, {}
    down, up = PREFIXES[prefix]
    for name, into, paths in ROWS[family]:
        a = RNG.standard_normal((2, into)).astype("f4")
        b = RNG.standard_normal((sum(paths.values()), 2)).astype("f4")
        full = prefix + (name.replace(".", "_") if prefix == "lora_unet_" else name)
        tensors |= {f"{full}.{down}": a, f"{full}.{up}": b}
        if alpha is not None:
            tensors[f"{full}.alpha"] = np.array(alpha, "f4")
        scale = 1.0 if alpha is None else alpha / 2
        product, row = scale * (b.astype("f8") @ (a.astype("f8") @ probe(into))), 0
        for path, rows in paths.items():
            wanted[f"transformer.{path}"] = product[row : row + rows]
            row += rows
    return tensors, wanted


def probe(into):
    return np.linspace(-1.0, 1.0, into)


def read(tensors, metadata=None):
    source = MemorySource("lora.safetensors", save(tensors, metadata))
    return read_adapter(AdapterFiles(location="mem", files={source.name: source}), ReadOptions())


def products(adapter):
    found = {}
    for module in adapter.modules:
        a, b = to_numpy_f64(module.a), to_numpy_f64(module.b)
        found[str(module.path)] = module.scale.value * (b @ (a @ probe(a.shape[1])))
    return found


@pytest.mark.parametrize("prefix", list(PREFIXES))
@pytest.mark.parametrize("family", list(ROWS))
def test_first_names_are_diffusers_modules(family, prefix):
    tensors, wanted = file_of(family, prefix, alpha=3.0 if "unet" in prefix else None)
    reading = read(tensors)
    assert reading.adapter is not None, reading.inspection.problems
    assert reading.inspection.architecture.family == family
    assert not reading.inspection.tensors.unknown
    found = products(reading.adapter)
    assert found.keys() == wanted.keys()
    for path, value in wanted.items():
        np.testing.assert_allclose(found[path], value, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("family", ["flux2", "lumina2", "hunyuan-video", "wan", "chroma"])
def test_first_names_are_written_again(family):
    adapter = read(file_of(family, "lora_unet_", alpha=3.0)[0]).adapter
    content = b"".join(bytes(c) for c in write_adapter(adapter, "kohya").files[0].chunks())
    source = MemorySource("again.safetensors", content)
    again = read_adapter(AdapterFiles(location="mem", files={source.name: source})).adapter
    one, two = products(adapter), products(again)
    assert one.keys() == two.keys()
    for path, value in one.items():
        np.testing.assert_allclose(two[path], value, rtol=1e-12, atol=1e-12)


def test_rows_that_two_namings_share_agree_or_differ_in_their_ratio():
    seen = {}
    for naming in namings():
        for row in rows_of(naming):
            for other in seen.setdefault(row.native, []):
                told = row.ratio is not None and None not in (other.ratio, row.ratio)
                assert other.paths == row.paths or (told and other.ratio != row.ratio) or row.native in SPLIT  # fmt: skip
            seen[row.native].append(row)


SPLIT = {
    # Told by the other names of the file, or refused where there are none.
    *(f"{b}_{{}}_attention_{t}" for b in ("layers", "noise_refiner", "context_refiner") for t in ("qkv", "out")),
    "time_in_in_layer", "time_in_out_layer", "guidance_in_in_layer", "guidance_in_out_layer",
    "final_layer_linear", "final_layer_adaLN_modulation_1", "x_embedder", "cap_embedder_1",
    "t_embedder_mlp_0", "t_embedder_mlp_2",
}  # fmt: skip
CHECKED = {
    "flux": ["flux-dev", "chroma"], "xlabs": ["flux-dev"], "sd3": ["sd35-medium"],
    "wan": ["wan-i2v-14b", "wan-vace-14b"], "hunyuan-video": ["hunyuan-video"],
    "flux2": ["flux2-dev"], "lumina2": ["lumina2"], "z-image": ["z-image"],
    "ideogram4": ["ideogram4"], "cosmos": ["cosmos-predict2-2b"], "krea2": ["krea2"],
    "ltx-video": ["ltx-2"],
}  # fmt: skip


def test_native_names_lead_to_modules_of_the_real_model():
    assert CHECKED.keys() == set(namings())
    for naming, networks in CHECKED.items():
        known = {}
        for network in reversed(networks):
            known |= modules(network)
        for row in rows_of(naming):
            layers = [known.get(path.lstrip("~?").format("0")) for path in row.paths]
            if row.native.startswith("vace_") and row.native.endswith("_img"):
                continue  # the published one is without images
            assert None not in layers, (naming, row.native)
            out, into = sum(m.out_features for m in layers), layers[0].in_features
            assert row.fits((out, into)), (naming, row.native)
            units = {m.out_features / share for m, share in zip(layers, row.shares, strict=True)}
            assert len(units) == 1, (naming, row.native)


def test_a_network_of_no_table_is_diffusers_by_its_attentions():
    a, b = RNG.standard_normal((2, 24)).astype("f4"), RNG.standard_normal((24, 2)).astype("f4")
    names = ("stages.0.mixer.to_q", "stages.0.mlp.up")
    tensors = {}
    for name in names:
        tensors |= {f"transformer.{name}.lora_A.weight": a, f"transformer.{name}.lora_B.weight": b}
    config = {"transformer.r": 2, "transformer.lora_alpha": 8, "transformer.peft_type": "LORA"}
    reading = read(tensors, {"lora_adapter_metadata": json.dumps(config)})
    assert reading.inspection.format.name == "diffusers"
    found = products(reading.adapter)
    assert found.keys() == {f"transformer.{name}" for name in names}
    content = b"".join(
        bytes(c) for c in write_adapter(reading.adapter, "diffusers").files[0].chunks()
    )
    source = MemorySource("again.safetensors", content)
    again = read_adapter(AdapterFiles(location="mem", files={source.name: source})).adapter
    for value in [*found.values(), *products(again).values()]:
        np.testing.assert_allclose(value, 4 * (b.astype("f8") @ (a.astype("f8") @ probe(24))))


def distilled(norm):
    """A file of lightx2v's kind: one pair, one bias alone, differences of norms."""
    a, b = RNG.standard_normal((2, 5120)).astype("f4"), RNG.standard_normal((5120, 2)).astype("f4")
    place, bias = "diffusion_model.blocks.0", RNG.standard_normal(64).astype("f4")
    return bias, {
        f"{place}.self_attn.q.lora_down.weight": a, f"{place}.self_attn.q.lora_up.weight": b,
        "diffusion_model.head.head.diff_b": bias, f"{place}.norm3.diff": np.full(5120, norm, "f4"),
        f"{place}.self_attn.k.diff_b": np.zeros(5120, "f4"),
    }  # fmt: skip


def test_a_bias_alone_is_a_pair_of_zeros_with_that_bias():
    bias, tensors = distilled(0.0)
    reading = read(tensors)
    assert reading.adapter is not None, reading.inspection.problems
    modules = {str(m.path): m for m in reading.adapter.modules}
    assert modules.keys() == {"transformer.blocks.0.attn1.to_q", "transformer.proj_out"}
    head = modules["transformer.proj_out"]
    assert (head.a.shape, head.b.shape) == ((1, 5120), (64, 1))
    assert not to_numpy_f64(head.a).any()
    assert not to_numpy_f64(head.b).any()
    np.testing.assert_array_equal(head.scale.value * to_numpy_f64(head.bias_delta), bias)
    assert len(reading.inspection.tensors.ignored) == 2  # all zero


def test_a_difference_of_norms_is_refused_as_that():
    _, tensors = distilled(0.5)
    (problem,) = [p for p in read(tensors).inspection.problems if p.severity == "error"]
    assert (problem.code, "norms" in problem.message) == ("unsupported_method", True)


def test_text_encoders_of_transformers_5_have_the_published_names():
    place = "text_encoder.encoder.layers.3.self_attn.q_proj"
    a, b = RNG.standard_normal((2, 768)).astype("f4"), RNG.standard_normal((768, 2)).astype("f4")
    reading = read({f"{place}.lora_A.weight": a, f"{place}.lora_B.weight": b})
    (module,) = reading.adapter.modules
    assert module.path == "text_encoder.text_model.encoder.layers.3.self_attn.q_proj"


LYCORIS = {
    # name, family, parts: the shapes alone tell whose layer it is
    "LoKr": ("single_blocks_0_linear1", "flux2", {"lokr_w1": (16, 16), "lokr_w2_a": (3456, 2), "lokr_w2_b": (2, 384)}),
    "LoKr, Flux": ("single_blocks_0_linear1", "flux", {"lokr_w1": (16, 16), "lokr_w2_a": (1344, 2), "lokr_w2_b": (2, 192)}),
    "LoHa": ("layers_0_attention_qkv", "z-image", {"hada_w1_a": (11520, 2), "hada_w1_b": (2, 3840), "hada_w2_a": (11520, 2), "hada_w2_b": (2, 3840)}),
    "LoKr, Lumina": ("layers_0_attention_qkv", "lumina2", {"lokr_w1_a": (16, 2), "lokr_w1_b": (2, 16), "lokr_w2_a": (240, 2), "lokr_w2_b": (2, 144)}),
}  # fmt: skip


@pytest.mark.parametrize("row", list(LYCORIS))
def test_sizes_of_every_method_tell_the_model(row):
    name, family, parts = LYCORIS[row]
    tensors = {
        f"lora_unet_{name}.{part}": RNG.standard_normal(shape).astype("f4")
        for part, shape in parts.items()
    }
    tensors[f"lora_unet_{name}.alpha"] = np.array(2.0, "f4")
    reading = read(tensors)
    assert reading.adapter is not None, reading.inspection.problems
    assert reading.inspection.architecture.family == family


@pytest.mark.parametrize(
    ("settings", "alpha", "code"),
    [({"use_dora": True}, None, "unpaired_factor"), ({}, 4.0, "alpha_rule"), ({}, None, ""),
     ({"init_lora_weights": "pissa"}, None, "needs_residual_base")],
)  # fmt: skip
def test_metadata_and_tensors_that_contradict_each_other(settings, alpha, code):
    place = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    tensors = {f"{place}.lora_A.weight": np.ones((2, 320), "f4"), f"{place}.lora_B.weight": np.ones((320, 2), "f4")}  # fmt: skip
    tensors |= {} if alpha is None else {f"{place}.alpha": np.array(alpha, "f4")}
    config = {"r": 2, "lora_alpha": 6, "peft_type": "LORA", **settings}
    stored = json.dumps({f"unet.{name}": value for name, value in config.items()})
    reading = read(tensors, {"lora_adapter_metadata": stored})
    assert [p.code for p in reading.inspection.problems] == ([code] if code else [])
    if reading.adapter is not None:
        assert reading.adapter.modules[0].scale.value == 3.0
        assert (reading.adapter.needs_base == "residual") is (code == "needs_residual_base")
