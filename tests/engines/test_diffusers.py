"""diffusers' own loaders, on raw files of each kind and on what we write: one output."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

diffusers = pytest.importorskip("diffusers", reason="make test-engines installs it")
conftest = sys.modules.get("tests.conftest") or sys.modules["conftest"]
made = conftest.load_helper("diffusion_models", Path(__file__).parent / "diffusion_models.py")

SD = diffusers.loaders.StableDiffusionLoraLoaderMixin
FLUX = diffusers.loaders.FluxLoraLoaderMixin
ATTENTION = ("attn1.to_", "attn2.to_")
ALPHAS = (1.0, 3.0, 5.0)


@pytest.fixture
def same(record_property):
    """Asserts that outputs are one within 1e-5, and not the base's."""

    def check(got, wanted, base):
        scale = np.abs(wanted).max()
        difference = float(np.abs(got - wanted).max() / scale)
        record_property("difference", difference)
        assert difference <= 1e-5
        assert np.abs(base - wanted).max() / scale > 0.01

    return check


def load_unet(path, *, options=None):
    """The tiny UNet with a file's adapter, loaded by diffusers."""
    model = made.unet()
    state, alphas, metadata = made.quiet(
        SD.lora_state_dict, str(path.parent), weight_name=path.name, unet_config=model.config,
        return_lora_metadata=True, use_safetensors=True, local_files_only=True,
    )  # fmt: skip
    made.quiet(SD.load_lora_into_unet, state, alphas, model, metadata=metadata)
    return model


def kohya(pairs, name_of, alphas=ALPHAS):
    tensors = {}
    for i, (path, (a, b)) in enumerate(pairs.items()):
        name = name_of(path)
        tensors[f"{name}.lora_down.weight"] = a
        tensors[f"{name}.lora_up.weight"] = b
        tensors[f"{name}.alpha"] = np.array(alphas[i * i // 2 % len(alphas)], "f4")
    return tensors


def flat_unet(path):
    return "lora_unet_" + path.replace(".", "_")


def ldm_unet(path):
    """diffusers' path in the numbering of the first code, two layers per block."""
    path = re.sub(r"^down_blocks\.(\d)\.downsamplers\.0\.conv", lambda m: f"input_blocks.{3 * int(m[1]) + 3}.0.op", path)  # fmt: skip
    path = re.sub(r"^up_blocks\.0\.upsamplers\.0", "output_blocks.2.1", path)
    path = re.sub(r"^up_blocks\.(\d)\.upsamplers\.0", lambda m: f"output_blocks.{3 * int(m[1]) + 2}.2", path)  # fmt: skip
    for kind, number in (("resnets", 0), ("attentions", 1)):
        path = re.sub(rf"^down_blocks\.(\d)\.{kind}\.(\d)", lambda m, n=number: f"input_blocks.{3 * int(m[1]) + int(m[2]) + 1}.{n}", path)  # fmt: skip
        path = re.sub(rf"^up_blocks\.(\d)\.{kind}\.(\d)", lambda m, n=number: f"output_blocks.{3 * int(m[1]) + int(m[2])}.{n}", path)  # fmt: skip
    for old, new in (("mid_block.attentions.0", "middle_block.1"), ("mid_block.resnets.0", "middle_block.0"),
                     ("mid_block.resnets.1", "middle_block.2"), ("time_emb_proj", "emb_layers.1"),
                     ("conv_shortcut", "skip_connection"), ("conv1", "in_layers.2"), ("conv2", "out_layers.3")):  # fmt: skip
        path = path.replace(old, new)
    return flat_unet(path)


def processors(pairs):
    """Attention processors of diffusers before 0.20."""
    tensors = {}
    for path, (a, b) in pairs.items():
        name = path.replace(".to_", ".processor.to_").replace(".to_out.0", ".to_out") + "_lora"
        tensors |= {f"unet.{name}.down.weight": a, f"unet.{name}.up.weight": b}
    return tensors


def old_layers(pairs):
    found = {}
    for path, (a, b) in pairs.items():
        found |= {f"unet.{path}.lora.down.weight": a, f"unet.{path}.lora.up.weight": b}
    return found


def peft_keys(pairs, component="unet"):
    found = {}
    for path, (a, b) in pairs.items():
        found |= {f"{component}.{path}.lora_A.weight": a, f"{component}.{path}.lora_B.weight": b}
    return found


UNETS = {
    # One alpha: diffusers 0.42 loses those of attention layers when they differ.
    "kohya": (lambda p: kohya(p, flat_unet, (3.0,)), ("attentions", "resnets", "samplers")),
    "kohya ldm": (lambda p: kohya(p, ldm_unet, (3.0,)), ("attentions", "mid_block")),
    "processors": (processors, ATTENTION),
    "layers": (old_layers, ATTENTION),
    "peft keys": (peft_keys, ("attentions", "resnets", "samplers")),
}


@pytest.mark.parametrize("kind", UNETS)
def test_unet_files(kind, tmp_path, same):
    """The raw file by diffusers = ours = what we write, by diffusers."""
    make, words = UNETS[kind]
    pairs = made.factors(made.layers(made.unet(), *words))
    raw = made.save(make(pairs), tmp_path / "raw" / "pytorch_lora_weights.safetensors")
    adapter = made.converted(raw)
    assert adapter.family.startswith("stable-diffusion")
    assert len(adapter.modules) == len(pairs)
    base = made.unet_output(made.unet())
    wanted = made.unet_output(load_unet(raw))
    same(made.unet_output(made.with_dense_updates(made.unet(), adapter, "unet")), wanted, base)
    for target in ("diffusers", "kohya", *["diffusers-old"] * (words is ATTENTION)):
        path = made.written(adapter, target, tmp_path / target)
        same(made.unet_output(load_unet(path)), wanted, base)


def test_alphas_and_ranks_of_their_own(tmp_path, same):
    """Every module with its own alpha and rank, as no other format keeps them."""
    found = made.layers(made.unet(), "attentions", "resnets", "samplers")
    small, large = made.factors(found, 2), made.factors(found, 5, seed=1)
    pairs = {path: (large if i % 3 else small)[path] for i, path in enumerate(found)}
    raw = made.save(kohya(pairs, flat_unet), tmp_path / "raw" / "x.safetensors")
    adapter = made.converted(raw)
    assert len({m.scale.value for m in adapter.modules}) > 3
    base = made.unet_output(made.unet())
    wanted = made.unet_output(made.with_dense_updates(made.unet(), adapter, "unet"))
    path = made.written(adapter, "diffusers", tmp_path / "diffusers")
    same(made.unet_output(load_unet(path)), wanted, base)


def test_dora_on_the_unet(tmp_path, same):
    """``m·(W + s·B·A) / ‖W + s·B·A‖`` by rows; diffusers drops ``dora_scale`` of kohya's files."""
    found = made.layers(made.unet(), *ATTENTION)
    pairs = made.factors(found)
    tensors, rng, model = kohya(pairs, flat_unet), np.random.default_rng(8), made.unet()
    modules = dict(model.named_modules())
    for i, (path, (a, b)) in enumerate(pairs.items()):
        m = rng.uniform(0.5, 2, (len(b), 1)).astype("f4")
        tensors[f"{flat_unet(path)}.dora_scale"] = m
        w = modules[path].weight.detach().double().numpy()
        w = w + ALPHAS[i * i // 2 % 3] / 2 * (b.astype("f8") @ a.astype("f8"))
        w = m * w / np.linalg.norm(w, axis=1, keepdims=True)
        with torch.no_grad():
            modules[path].weight.copy_(torch.tensor(w))
    raw = made.save(tensors, tmp_path / "raw" / "x.safetensors")
    adapter = made.converted(raw)
    assert (adapter.method, adapter.needs_base) == ("dora", "merge")
    path = made.written(adapter, "diffusers", tmp_path / "diffusers")
    same(made.unet_output(load_unet(path)), made.unet_output(model), made.unet_output(made.unet()))


def test_peft_loads_the_unets_part_alone(tmp_path, same):
    from peft import PeftModel

    found = made.layers(made.unet(), "attentions", "resnets")
    raw = made.save(kohya(made.factors(found), flat_unet), tmp_path / "raw" / "x.safetensors")
    adapter = made.converted(raw)
    folder = made.written(adapter, "peft", tmp_path / "peft").parent
    model = made.quiet(PeftModel.from_pretrained, made.unet(), str(folder)).eval()
    wanted = made.unet_output(made.with_dense_updates(made.unet(), adapter, "unet"))
    same(made.unet_output(model), wanted, made.unet_output(made.unet()))


def load_text(path):
    model = made.text_encoder()
    state, alphas, metadata = made.quiet(
        SD.lora_state_dict, str(path.parent), weight_name=path.name,
        return_lora_metadata=True, use_safetensors=True, local_files_only=True,
    )  # fmt: skip
    made.quiet(SD.load_lora_into_text_encoder, state, alphas, model, metadata=metadata)
    return model


def old_text(pairs):
    found = {}
    for path, (a, b) in pairs.items():
        name = f"text_encoder.text_model.{path}.lora_linear_layer"
        found |= {f"{name}.down.weight": a, f"{name}.up.weight": b}
    return found


TEXTS = {
    "kohya": lambda p: kohya(p, lambda n: "lora_te_text_model_" + n.replace(".", "_")),
    "lora_linear_layer": old_text,
    "peft keys": lambda p: peft_keys({f"text_model.{k}": v for k, v in p.items()}, "text_encoder"),
}


@pytest.mark.parametrize("kind", TEXTS)
def test_text_encoder_files(kind, tmp_path, same):
    words = ("self_attn",) if kind == "lora_linear_layer" else ("self_attn", "mlp")
    pairs = made.factors(made.layers(made.text_encoder(), *words))
    raw = made.save(TEXTS[kind](pairs), tmp_path / "raw" / "pytorch_lora_weights.safetensors")
    adapter = made.converted(raw)
    base = made.text_output(made.text_encoder())
    dense = made.with_dense_updates(made.text_encoder(), adapter, "text_encoder")
    wanted = made.text_output(dense)
    if kind != "kohya":
        # diffusers' own text names of kohya's files end in to_q_lora, which it reads back.
        same(made.text_output(load_text(raw)), wanted, base)
    path = made.written(adapter, "diffusers", tmp_path / "diffusers")
    same(made.text_output(load_text(path)), wanted, base)


def load_flux(path):
    model = made.flux()
    state, alphas, metadata = made.quiet(
        FLUX.lora_state_dict, str(path.parent), weight_name=path.name, return_alphas=True,
        return_lora_metadata=True, use_safetensors=True, local_files_only=True,
    )  # fmt: skip
    made.quiet(FLUX.load_lora_into_transformer, state, alphas, model, metadata=metadata)
    return model


def bfl(layers, *, rank=2, seed=3):
    """Factors on the fused layers of Flux's first code, in the sizes of ``layers``."""
    rng = np.random.default_rng(seed)
    return {
        name: (rng.standard_normal((rank, into)).astype("f4"), rng.standard_normal((out, rank)).astype("f4"))
        for name, (out, into) in layers.items()
    }  # fmt: skip


def flux_layers(h, double=2, single=2):
    found = {}
    for i in range(double):
        for side in ("img", "txt"):
            block = f"double_blocks.{i}.{side}"
            found |= {f"{block}_attn.qkv": (3 * h, h), f"{block}_attn.proj": (h, h),
                      f"{block}_mlp.0": (4 * h, h), f"{block}_mlp.2": (h, 4 * h),
                      f"{block}_mod.lin": (6 * h, h)}  # fmt: skip
    for i in range(single):
        block = f"single_blocks.{i}"
        found |= {f"{block}.linear1": (7 * h, h), f"{block}.linear2": (h, 5 * h),
                  f"{block}.modulation.lin": (3 * h, h)}  # fmt: skip
    return found


def applied(state, x):
    """``B·A·x`` by module of a converted state dict, ``x`` drawn by width."""
    found = {}
    for key, a in state.items():
        if key.endswith("lora_A.weight"):
            path = key.removesuffix(".lora_A.weight").removeprefix("transformer.")
            b = state[f"{key.removesuffix('lora_A.weight')}lora_B.weight"]
            found[path] = b.double().numpy() @ (a.double().numpy() @ x[: a.shape[1]])
    return found


def ours(adapter, x):
    found = {}
    for module in adapter.modules:
        a, b = (made.to_numpy_f64(t) for t in (module.a, module.b))
        found[module.path.removeprefix("transformer.")] = module.scale.value * (
            b @ (a @ x[: a.shape[1]])
        )
    return found


def agree(got, wanted):
    assert got.keys() == wanted.keys()
    for path, value in wanted.items():
        assert np.abs(got[path] - value).max() <= 1e-5 * np.abs(value).max(), path


def tensors_of(tensors):
    return {name: torch.tensor(value) for name, value in tensors.items()}


def test_kohya_flux(tmp_path, same):
    """diffusers converts the real sizes as we do; the tiny model loads what we write."""
    from diffusers.loaders import lora_conversion_utils as theirs

    x = np.random.default_rng(0).standard_normal(5 * 3072)
    real = kohya(bfl(flux_layers(3072, 1, 1), rank=3), flat_unet)
    raw = made.save(real, tmp_path / "real" / "flux.safetensors")
    adapter = made.converted(raw)
    assert adapter.family == "flux"
    agree(
        ours(adapter, x), applied(theirs._convert_kohya_flux_lora_to_diffusers(tensors_of(real)), x)
    )
    back = made.written(adapter, "kohya", tmp_path / "back")
    from safetensors.torch import load_file

    again = theirs._convert_kohya_flux_lora_to_diffusers(load_file(back))
    agree(applied(again, x), ours(adapter, x))
    tiny = made.save(kohya(bfl(flux_layers(16)), flat_unet), tmp_path / "tiny" / "x.safetensors")
    small = made.converted(tiny)
    base = made.flux_output(made.flux())
    dense = made.flux_output(made.with_dense_updates(made.flux(), small, "transformer"))
    path = made.written(small, "diffusers", tmp_path / "diffusers")
    same(made.flux_output(load_flux(path)), dense, base)


def test_flux_with_parts_of_its_own(tmp_path):
    """Factors of q, k, v and the MLP that differ stand block-diagonally in kohya's file."""
    from diffusers.loaders import lora_conversion_utils as theirs
    from safetensors.torch import load_file

    h, rng = 3072, np.random.default_rng(5)
    sizes = {"attn.to_q": h, "attn.to_k": h, "attn.to_v": h, "proj_mlp": 4 * h}
    pairs = {
        f"single_transformer_blocks.0.{tail}": (
            rng.standard_normal((2, h)).astype("f4"), rng.standard_normal((out, 2)).astype("f4"),
        )
        for tail, out in sizes.items()
    }  # fmt: skip
    raw = made.save(peft_keys(pairs, "transformer"), tmp_path / "pytorch_lora_weights.safetensors")
    adapter = made.converted(raw)
    x = rng.standard_normal(h)
    back = load_file(made.written(adapter, "kohya", tmp_path / "back"))
    agree(applied(theirs._convert_kohya_flux_lora_to_diffusers(back), x), ours(adapter, x))


def test_xlabs_flux(tmp_path):
    from diffusers.loaders import lora_conversion_utils as theirs

    h, tensors = 3072, {}
    shapes = {"double_blocks.0.processor.qkv_lora1": 3 * h, "double_blocks.0.processor.proj_lora1": h,
              "double_blocks.0.processor.qkv_lora2": 3 * h, "double_blocks.0.processor.proj_lora2": h}  # fmt: skip
    for name, (a, b) in bfl({k: (out, h) for k, out in shapes.items()}).items():
        tensors |= {f"{name}.down.weight": a, f"{name}.up.weight": b}
    raw = made.save(tensors, tmp_path / "lora.safetensors")
    adapter = made.converted(raw)
    assert (adapter.format, adapter.family) == ("xlabs", "flux")
    x = np.random.default_rng(0).standard_normal(h)
    agree(
        ours(adapter, x),
        applied(theirs._convert_xlabs_flux_lora_to_diffusers(tensors_of(tensors)), x),
    )


def test_comfyui_wan(tmp_path):
    from diffusers.loaders import lora_conversion_utils as theirs

    h, tensors = 1536, {}
    tails = [f"{attn}.{p}" for attn in ("self_attn", "cross_attn") for p in "qkvo"]
    shapes = {f"diffusion_model.blocks.{i}.{t}": (h, h) for i in range(2) for t in tails}
    shapes |= {f"diffusion_model.blocks.{i}.ffn.0": (8960, h) for i in range(2)}
    shapes |= {f"diffusion_model.blocks.{i}.ffn.2": (h, 8960) for i in range(2)}
    for name, (a, b) in bfl(shapes).items():
        tensors |= {f"{name}.lora_A.weight": a, f"{name}.lora_B.weight": b}
    raw = made.save(tensors, tmp_path / "lora.safetensors")
    adapter = made.converted(raw)
    assert (adapter.format, adapter.family) == ("comfyui", "wan")
    x = np.random.default_rng(0).standard_normal(8960)
    agree(
        ours(adapter, x),
        applied(theirs._convert_non_diffusers_wan_lora_to_diffusers(tensors_of(tensors)), x),
    )


def test_bfl_control_lora(tmp_path):
    """Black Forest Labs' own names, biases and norms, against diffusers' conversion."""
    from diffusers.loaders import lora_conversion_utils as theirs

    h = 3072
    shapes = flux_layers(h, 19, 38)
    outer = {"time_in.in_layer": (h, 256), "time_in.out_layer": (h, h), "vector_in.in_layer": (h, 768),
             "vector_in.out_layer": (h, h), "guidance_in.in_layer": (h, 256),
             "guidance_in.out_layer": (h, h), "txt_in": (h, 4096), "img_in": (h, 128),
             "final_layer.linear": (64, h), "final_layer.adaLN_modulation.1": (2 * h, h)}  # fmt: skip
    tensors, rng = {}, np.random.default_rng(0)
    for name, (a, b) in bfl(shapes | outer, rank=2).items():
        bias = rng.standard_normal(len(b)).astype("f4")
        tensors |= {f"{name}.lora_A.weight": a, f"{name}.lora_B.weight": b, f"{name}.lora_B.bias": bias}  # fmt: skip
    norms = [f"double_blocks.{i}.{s}_attn.norm.{p}_norm.scale" for i in range(19) for s in ("img", "txt") for p in ("query", "key")]  # fmt: skip
    norms += [f"single_blocks.{i}.norm.{p}_norm.scale" for i in range(38) for p in ("query", "key")]
    tensors |= {name: rng.standard_normal(128).astype("f4") for name in norms}
    raw = made.save(tensors, tmp_path / "lora.safetensors")
    adapter = made.converted(raw)
    wanted = theirs._convert_bfl_flux_control_lora_to_diffusers(tensors_of(tensors))
    wanted = {k.removeprefix("transformer."): v for k, v in wanted.items()}
    x = rng.standard_normal(5 * h)
    mine, expected = ours(adapter, x), applied(wanted, x)
    # diffusers 0.42 swaps the halves of this A as well, which are no scale and shift.
    assert mine.keys() == expected.keys()
    del mine["norm_out.linear"], expected["norm_out.linear"]
    agree(mine, expected)
    a, b = (
        tensors["final_layer.adaLN_modulation.1.lora_A.weight"],
        tensors["final_layer.adaLN_modulation.1.lora_B.weight"],
    )
    whole = ours(adapter, x)["norm_out.linear"]
    np.testing.assert_allclose(whole, np.roll(b.astype("f8") @ (a.astype("f8") @ x[:h]), h))
    biases = {f"{m.path.removeprefix('transformer.')}.lora_B.bias": made.to_numpy_f64(m.bias_delta) for m in adapter.modules}  # fmt: skip
    theirs_biases = {k: v.double().numpy() for k, v in wanted.items() if k.endswith("lora_B.bias")}
    agree(biases, theirs_biases)
    replaced = {r.parameter.removeprefix("transformer."): made.to_numpy_f64(r.tensor) for r in adapter.replacements}  # fmt: skip
    agree(replaced, {k: v.double().numpy() for k, v in wanted.items() if ".norm_" in k})
