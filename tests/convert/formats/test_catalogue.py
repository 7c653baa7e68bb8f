"""Every kind of file that is known: read, carried or refused, each by name and with a way out.

The rows follow the catalogue of formats that the project was planned from. Refusals are held
to three rules: no tensor is "unknown", the hint says what to do, nobody is put off to later.
"""

import io
import json
import struct
import tarfile

import gguf
import numpy as np
import pytest
import torch
from safetensors.numpy import save

from adaptrix.convert.reading import ReadOptions, read_adapter, refusal
from adaptrix.convert.source import AdapterFiles, MemorySource
from adaptrix.schema.errors import FormatError
from adaptrix.schema.problems import PROBLEM_CODES

Q = "model.layers.0.self_attn.q_proj"
P = f"base_model.model.{Q}"
V = P.replace("q_proj", "v_proj")
WIDTH = 16
LLAMA = {"model_type": "llama", "hidden_size": WIDTH, "intermediate_size": 32, "vocab_size": 64,
         "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4}  # fmt: skip
RNG = np.random.default_rng(0)


def mat(*shape):
    return RNG.standard_normal(shape).astype("f4")


def pair(name=P, a=".lora_A.weight", b=".lora_B.weight", rank=2):
    return {f"{name}{a}": mat(rank, WIDTH), f"{name}{b}": mat(WIDTH, rank)}


def transposed(name, a, b, rank=2):
    return {f"{name}{a}": mat(WIDTH, rank), f"{name}{b}": mat(rank, WIDTH)}


def peft(kind="LORA", **more):
    base = {"peft_type": kind, "r": 2, "lora_alpha": 4, "base_model_name_or_path": "me/llama",
            "target_modules": ["q_proj"], "task_type": "CAUSAL_LM"}  # fmt: skip
    return {"adapter_config.json": json.dumps({**base, **more}).encode()}


def st(tensors, name="adapter_model.safetensors"):
    return {name: save(tensors)}


def pt(content, name="pytorch_model.bin"):
    def convert(value):
        if isinstance(value, dict):
            return {k: convert(v) for k, v in value.items()}
        if isinstance(value, list):
            return [convert(v) for v in value]
        return torch.from_numpy(value) if isinstance(value, np.ndarray) else value

    out = io.BytesIO()
    torch.save(convert(content), out)
    return {name: out.getvalue()}


def npz(tensors, name="adapters.npz"):
    out = io.BytesIO()
    np.savez(out, **tensors)
    return {name: out.getvalue()}


def npy(name, array):
    out = io.BytesIO()
    np.save(out, array)
    return {name: out.getvalue()}


def tar(members, name="megatron_lora.nemo"):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for member, data in members.items():
            info = tarfile.TarInfo(f"./{member}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return {name: out.getvalue()}


def nemo():
    place = "model.decoder.layers.0.self_attention.adapter_layer"
    tensors = {
        f"{place}.lora_dense_attention_adapter.linear_in.weight": mat(2, WIDTH),
        f"{place}.lora_dense_attention_adapter.linear_out.weight": mat(WIDTH, 2),
    }
    yaml = b"peft:\n  lora_tuning:\n    alpha: 4\n    adapter_dim: 2\n"
    return tar({"model_config.yaml": yaml, **pt(tensors, "model_weights.ckpt")})


def mlx(**parameters):
    config = {"fine_tune_type": "lora", "lora_parameters": {"rank": 2, "scale": 2.0, **parameters}}
    return {"adapter_config.json": json.dumps(config).encode()}


def hub(more):
    """AdapterHub's configuration."""
    inner = {"architecture": "lora", "r": 2, "alpha": 4, "composition_mode": "add", **more}
    return {"adapter_config.json": json.dumps({"config": inner, "name": "x", "model_type": "bert",
                                               "model_name": "me/bert"}).encode()}  # fmt: skip


def gguf_file(tmp, kind="adapter", arch="phi2", adapter="lora"):
    path = tmp / "adapter.gguf"
    writer = gguf.GGUFWriter(path, arch)
    writer.add_type(kind)
    writer.add_string("adapter.type", adapter)
    writer.add_float32("adapter.lora.alpha", 4.0)
    for side, shape in (("a", (2, WIDTH)), ("b", (WIDTH, 2))):
        writer.add_tensor(f"blk.0.attn_q.weight.lora_{side}", mat(*shape))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return {"adapter.gguf": path.read_bytes()}


@pytest.mark.parametrize(
    ("options", "code"),
    [({}, ""), ({"kind": "model"}, "full_checkpoint"), ({"arch": "nonesuch"}, "unsupported_method"),
     ({"adapter": "control"}, "unsupported_method")],
)  # fmt: skip
def test_gguf(tmp_path, options, code):
    reading = read_adapter(files_of(gguf_file(tmp_path, **options)))
    assert reading.inspection.format.name == "gguf"
    assert not reading.inspection.tensors.unknown
    if not code:
        assert reading.adapter is not None
        return
    error = refusal(reading)
    assert error.code == code
    assert " yet" not in f"{error.message} {error.hint}"


B = "bert.encoder.layer.0.attention.self.query"
MOE = "model.layers.0.mlp.switch_mlp"
HDF5 = b"\x89HDF\r\n\x1a\n" + bytes(504)
FLAT = {"0": mat(32)}
UNET = "down_blocks.0.attentions.0.transformer_blocks.0.attn1"
READ, REFUSED, ASKED = "read", "refused", "asked"
ROWS = {
    "1 PEFT": (READ, "peft", "lora", {**st(pair()), **peft()}),
    "2 rsLoRA": (READ, "peft", "rslora", {**st(pair()), **peft(use_rslora=True)}),
    "3 patterns": (READ, "peft", "lora", {**st(pair() | pair(V, rank=3)), **peft(target_modules=["q_proj", "v_proj"], rank_pattern={"v_proj": 3})}),
    "4 DoRA": (READ, "peft", "dora", {**st(pair() | {f"{P}.lora_magnitude_vector": mat(WIDTH)}), **peft(use_dora=True)}),
    "6 AdaLoRA": (READ, "peft", "adalora", {**st(pair(a=".lora_A", b=".lora_B") | {f"{P}.lora_E": mat(2, 1)}), **peft("ADALORA", init_r=2)}),
    "10 EVA": (READ, "peft", "lora", {**st(pair()), **peft(init_lora_weights="eva")}),
    "8 PiSSA": (READ, "peft", "lora", {**st(pair()), **peft(init_lora_weights="pissa")}),
    "9 LoftQ": (READ, "peft", "lora", {**st(pair()), **peft(init_lora_weights="loftq")}),
    "11 KaSA": (READ, "peft", "lora", {**st(pair() | {f"{P}.lora_diag": mat(2)}), **peft(kasa_config={"beta": 1.0})}),
    "15 LoHa": (READ, "peft", "loha", {**st({f"{P}.hada_w{i}_a": mat(WIDTH, 2) for i in (1, 2)} | {f"{P}.hada_w{i}_b": mat(2, WIDTH) for i in (1, 2)}), **peft("LOHA", alpha=4)}),
    "16 LoKr": (READ, "peft", "lokr", {**st({f"{P}.lokr_w1": mat(4, 4), f"{P}.lokr_w2_a": mat(4, 2), f"{P}.lokr_w2_b": mat(2, 4)}), **peft("LOKR", alpha=4)}),
    "17 VeRA": (READ, "peft", "vera", {**st({f"{P}.vera_lambda_b": mat(WIDTH), f"{P}.vera_lambda_d": mat(2), "base_model.vera_A": mat(2, WIDTH), "base_model.vera_B": mat(WIDTH, 2)}), **peft("VERA")}),
    "18 MiSS": (READ, "peft", "miss", {**st({f"{P}.miss_block": mat(2, WIDTH)}), **peft("MISS")}),
    "20 GraLoRA": (READ, "peft", "gralora", {**st({f"{P}.gralora_A": mat(2, 8, 2), f"{P}.gralora_B": mat(2, 2, 8)}), **peft("GRALORA", alpha=4)}),
    "22 prompt": ("soft_prompt", "peft", "prompt_tuning", {**st({"prompt_embeddings": mat(4, 16)}), **peft("PROMPT_TUNING")}),
    "22 prefix": ("soft_prompt", "peft", "prefix_tuning", {**st({"prompt_embeddings": mat(4, 16)}), **peft("PREFIX_TUNING")}),
    "22 p-tuning": ("soft_prompt", "peft", "p_tuning", {**st({"prompt_embeddings": mat(4, 16)}), **peft("P_TUNING")}),
    "22 cpt": ("soft_prompt", "peft", "cpt", {**st({"prompt_embeddings": mat(4, 16)}), **peft("CPT")}),
    "22 multitask": ("soft_prompt", "peft", "multitask_prompt_tuning", {**st({"prompt_embeddings": mat(4, 16), "prefix_task_cols": mat(1, 4, 1), "prefix_task_rows": mat(1, 1, 16)}), **peft("MULTITASK_PROMPT_TUNING")}),
    "22 adaption prompt": ("soft_prompt", "peft", "adaption_prompt", {**st({f"{P}.adaption_prompt": mat(1, 4, 16), f"{P}.adaption_gate": mat(1)}), **peft("ADAPTION_PROMPT")}),
    "22 cartridge": ("soft_prompt", "peft", "cartridge", {**st({"prompt_embeddings": mat(4, 16)}), **peft("CARTRIDGE")}),
    "22 llama-adapter": ("soft_prompt", "adaption-prompt", "adaption_prompt", pt({"adapter_query.weight": mat(10, 16), "layers.1.attention.gate": mat(1, 4, 1, 1)}, "adapter.pth")),
    "22 no config": ("soft_prompt", "soft-prompt", "prompt_tuning", st({"prompt_embeddings": mat(4, 16)})),
    "23 X-LoRA": ("routed_adapter", "xlora", "xlora", st(pair() | {"base_model.internal_xlora_classifier.inner.0.weight": mat(4, 4)})),
    "23 X-LoRA declared": ("routed_adapter", "xlora", "xlora", {**st({"base_model.internal_xlora_classifier.inner.0.weight": mat(4, 4)}), **peft("XLORA")}),
    "23 Poly": ("routed_adapter", "poly", "poly", {**st({f"{P}.poly_lora_A": mat(1, 2, 16, 2), f"{P}.poly_router.module_logits": mat(1, 2)}), **peft("POLY")}),
    "23 Arrow": ("routed_adapter", "peft", "lora", {**st(pair()), **peft(arrow_config={"top_k": 2})}),
    "24 loralib": (ASKED, "loralib", "lora", pt(pair(Q, ".lora_A", ".lora_B"), "lora.pt")),
    "25 AdapterHub": (READ, "adapterhub", "lora", {**pt(pair(f"{B}.loras.x", ".lora_A", ".lora_B"), "pytorch_adapter.bin"), **hub({})}),
    "25 AdapterHub, gated": ("routed_adapter", "adapterhub", "lora", {**pt(pair(f"{B}.loras.x", ".lora_A", ".lora_B") | {f"{B}.loras.x.gate.weight": mat(1, 16)}, "pytorch_adapter.bin"), **hub({"use_gating": True})}),
    "25 AdapterHub, scaling": ("ia3", "adapterhub", "ia3", {**pt({f"{B}.loras.x.lora_B": mat(16, 1)}, "pytorch_adapter.bin"), **hub({"composition_mode": "scale", "r": 1})}),
    "25 bottleneck": ("bottleneck_adapter", "adapterhub", "bottleneck", st({"bert.encoder.layer.0.output.adapters.x.adapter_down.0.weight": mat(4, 16), "bert.encoder.layer.0.output.adapters.x.adapter_up.weight": mat(16, 4)})),
    "26 LitGPT": (ASKED, "litgpt", "lora", pt({"model": pair("transformer.h.0.attn.proj", ".lora_A", ".lora_B")}, "lit_model.pth.lora")),
    "27 torchtune": (ASKED, "torchtune", "lora", pt(pair("layers.0.attn.output_proj", ".lora_a.weight", ".lora_b.weight"), "adapter_0.pt")),
    "28 MLX": (READ, "mlx", "lora", {**st(transposed(Q, ".lora_a", ".lora_b"), "adapters.safetensors"), **mlx()}),
    "28 MLX, npz": (ASKED, "mlx", "lora", npz(transposed(Q, ".lora_a", ".lora_b"))),
    "28 MLX, experts": (READ, "mlx", "lora", {**st({f"{MOE}.up_proj.lora_a": mat(3, 2, WIDTH), f"{MOE}.up_proj.lora_b": mat(3, 24, 2)}, "adapters.safetensors"), **mlx()}),
    "28 MLX, full": ("full_checkpoint", "mlx", "full", {**st({f"{Q}.weight": mat(16, 16)}, "adapters.safetensors"), "adapter_config.json": b'{"fine_tune_type": "full", "num_layers": 1}'}),
    "29 mlx-vlm": (ASKED, "mlx-vlm", "lora", {**st(transposed(Q, ".A", ".B"), "adapters.safetensors"), "adapter_config.json": b'{"rank": 2, "alpha": 0.1, "dropout": 0.0}'}),
    "31 ggla": (REFUSED, "ggml", "lora", {"ggml-adapter-model.bin": b"algg" + struct.pack("<iii", 1, 8, 16) + bytes(64)}),
    "32 NeMo 1": (READ, "nemo", "lora", nemo()),
    "34 TensorRT-LLM": (REFUSED, "tensorrt-llm", "lora", {**npy("model.lora_weights.npy", mat(1, 2, 64)), **npy("model.lora_config.npy", np.ones((1, 2, 3), "i4"))}),
    "35 Tunix": (ASKED, "tunix", "lora", npz({"layers.0.attn.q_proj.w_lora_a": mat(16, 2), "layers.0.attn.q_proj.w_lora_b": mat(2, 4, 4)}, "lora.npz")),
    "36 Orbax": ("sharded_state", "orbax", "lora", {"manifest.ocdbt": b"\x0c\xdb\x3a\x2a" + bytes(60), "_METADATA": b"{}", "ocdbt.process_0/d/ab12": bytes(8)}),
    "37 Keras": (REFUSED, "keras", "lora", {"gemma.lora.h5": HDF5}),
    "37 Keras, misnamed": (REFUSED, "keras", "lora", {"adapter_model.bin": HDF5, "README.md": b"x"}),
    "38 Apple": (REFUSED, "apple", "lora", {"metadata.json": b'{"adapterIdentifier": "x", "loraRank": 32}', "adapter_weights.bin": bytes(64)}),
    "39 ONNX": (REFUSED, "onnx", "lora", {"adapter.onnx_adapter": b"\x20\0\0\0" + bytes(60)}),
    "40 ChatGLM": ("soft_prompt", "prefix-tuning", "prefix_tuning", pt({"transformer.prefix_encoder.embedding.weight": mat(8, 64)})),
    "47 DDP": (READ, "peft", "lora", {**st({f"module.{k}": v for k, v in pair().items()}), **peft()}),
    "47 compile": (READ, "peft", "lora", {**st(pair("_orig_mod.base_model.model.model._orig_mod.layers.0.self_attn.q_proj")), **peft()}),
    "47 FSDP": (READ, "peft", "lora", {**st(pair("base_model.model.model.layers.0._fsdp_wrapped_module.self_attn.q_proj")), **peft()}),
    "47 checkpointing": (READ, "peft", "lora", {**st(pair("base_model.model.model.layers.0._checkpoint_wrapped_module.self_attn.q_proj")), **peft()}),
    "47 doubly wrapped": (READ, "peft", "lora", {**st(pair(f"base_model.model.{P}")), **peft()}),
    "47 in memory": (READ, "peft", "lora", {**st(pair(P, ".lora_A.default.weight", ".lora_B.default.weight")), **peft()}),
    "47 accelerate": (READ, "peft", "lora", {**st(pair(f"model.{P}")), **peft()}),
    "47 DCP joined": (READ, "peft", "lora", {**st(pair(f"app.model.{P}")), **peft()}),
    "47 xtuner": (READ, "peft", "lora", {**pt({"state_dict": pair(f"llm.{P}")}, "iter_100.pth"), **peft()}),
    "47 DeepSpeed module": (READ, "peft", "lora", {**pt({"module": pair(P, ".lora_A.default.weight", ".lora_B.default.weight")}, "mp_rank_00_model_states.pt"), **peft()}),
    "47 TRL": (READ, "peft", "lora", {**st(pair() | {"v_head.summary.weight": mat(1, 16), "v_head.summary.bias": mat(1)}), **peft()}),
    "47 TRL, policy": (READ, "peft", "lora", {**st(pair(f"pretrained_model.{P}")), **peft()}),
    "47 TRL, with its reference": ("multiple_adapters", "peft", "lora", {**st(pair() | pair(P, ".lora_A.ref.weight", ".lora_B.ref.weight")), **peft()}),
    "48 Flax": ("full_checkpoint", "full-checkpoint", "full_checkpoint", npz({"params/transformer/h/0/attention/wq/kernel": mat(16, 16), "params/wte/embedding": mat(64, 16)}, "x.npz")),
    "48 merged model": ("full_checkpoint", "full-checkpoint", "full_checkpoint", st({"model.embed_tokens.weight": mat(64, 16), f"{Q}.weight": mat(16, 16)}, "model.safetensors")),
    "48 quantised": ("full_checkpoint", "full-checkpoint", "full_checkpoint", st({f"{Q}.qweight": mat(2, 16), f"{Q}.qzeros": mat(1, 2), f"{Q}.scales": mat(1, 16)}, "model.safetensors")),
    "49 Phi-4-mm": ("full_checkpoint", "phi-4-multimodal", "full_checkpoint", st({f"{Q}.lora_A.speech.weight": mat(2, 16), f"{Q}.lora_B.speech.weight": mat(16, 2), f"{Q}.base_layer.weight": mat(16, 16)}, "model.safetensors")),
    "5.15 optimizer": ("not_an_adapter", "optimizer-state", "optimizer_state", pt({"state": {0: {"exp_avg": mat(4), "exp_avg_sq": mat(4), "step": torch.tensor(1.0)}}, "param_groups": [{"lr": 1.0}]}, "optim.pt")),
    "5.15 ZeRO": ("sharded_state", "deepspeed-shard", "sharded_state", pt({"optimizer_state_dict": {"zero_stage": 3, "fp32_flat_groups": [mat(64)]}}, "zero_pp_rank_0_mp_rank_00_optim_states.pt")),
    "5.15 ZeRO-3, not gathered": ("sharded_state", "peft", "lora", {**st({f"{P}.lora_A.weight": mat(0), f"{P}.lora_B.weight": mat(0)}), **peft()}),
    "5.15 ZeRO, a folder": ("sharded_state", "peft", "lora", {**pt({"optimizer_state_dict": {"fp32_flat_groups": [mat(64)]}}, "zero_pp_rank_0_mp_rank_00_optim_states.pt"), **pt({"module": pair()}, "mp_rank_00_model_states.pt"), **peft()}),
    "5.15 nothing but a run's state": ("not_an_adapter", "training-state", "training-state", {**pt({"state": {0: {"exp_avg": mat(4)}}}, "optimizer.pt"), **pt({"last_epoch": 1}, "scheduler.pt")}),
    "5.15 a checkpoint": (READ, "peft", "lora", {**st(pair()), **peft(), **pt({"state": {0: {"exp_avg": mat(4)}}}, "optimizer.pt")}),
    "5.15 FSDP, flat": ("sharded_state", "deepspeed-shard", "sharded_state", st({"model.layers.0._flat_param": mat(512)}, "shard.safetensors")),
    "5.15 DCP": ("sharded_state", "dcp", "lora", {"__0_0.distcp": bytes(64), "__1_0.distcp": bytes(64)}),
    "5.17 textual inversion": ("soft_prompt", "textual-inversion", "textual_inversion", st({"clip_l": mat(2, 16), "clip_g": mat(2, 32)}, "token.safetensors")),
    "5.17 learned embeds": ("soft_prompt", "textual-inversion", "textual_inversion", pt({"<cat-toy>": mat(16)}, "learned_embeds.bin")),
    "5.17 IP-Adapter": (REFUSED, "ip-adapter", "ip_adapter", st({"image_proj.proj.weight": mat(8, 8), "ip_adapter.1.to_k_ip.weight": mat(8, 8)}, "ip.safetensors")),
    "aLoRA": ("positional_adapter", "peft", "alora", {**st(pair()), **peft(alora_invocation_tokens=[1, 2])}),
    "VeLoRA": (READ, "peft", "lora", {**st(pair() | {f"{P}.lora_velora_embed": mat(4)}), **peft(velora_config={"x": 1})}),
    "MonteCLoRA": (READ, "peft", "lora", {**st(pair() | {f"{P}.lora_monteclora_sampler.std": mat(2)}), **peft(monteclora_config={"x": 1})}),
    "4.9 vera, no config": ("missing_config", "peft", "vera", st({f"{P}.vera_lambda_b": mat(16), f"{P}.vera_lambda_d": mat(2)})),
    "4.9 oft, no config": ("missing_config", "peft", "oft", st({f"{P}.oft_R.weight": mat(4, 6)})),
    "4.9 boft, no config": ("missing_config", "peft", "boft", st({f"{P}.boft_R": mat(1, 4, 4, 4), f"{P}.boft_s": mat(16, 1)})),
    "4.9 hra, no config": ("missing_config", "peft", "hra", st({f"{P}.hra_u": mat(16, 4)})),
    "4.9 miss, no config": ("missing_config", "peft", "miss", st({f"{P}.miss_block": mat(4, 16)})),
    "4.9 delora, no config": ("missing_config", "peft", "delora", st({f"{P}.delora_A": mat(2, 16), f"{P}.delora_B": mat(16, 2), f"{P}.delora_lambda": mat(1), f"{P}.delora_w_norm": mat(16)})),
    "4.9 ln_tuning, no config": ("missing_config", "peft", "ln_tuning", st({f"{P}.ln_tuning_layers.weight": mat(16)})),
    "4.9 loha, no config": ("missing_config", "peft", "loha", st({f"{P}.hada_w{i}_{s}": mat(16, 16) for i in (1, 2) for s in "ab"})),
    "4.9 lokr, no config": ("missing_config", "peft", "lokr", st({f"{P}.lokr_w{i}": mat(4, 4) for i in (1, 2)})),
    "4.9 vblora, no config": ("missing_config", "peft", "vblora", st({f"{P}.vblora_logits_A": mat(2, 4, 6), "base_model.vblora_vector_bank": mat(6, 4)})),
    "old llama.cpp model": ("full_checkpoint", "ggml", "full_checkpoint", {"ggml-model.bin": b"tjgg" + bytes(64)}),
    "an ONNX graph": ("full_checkpoint", "onnx", "full_checkpoint", {"model.onnx": bytes(64)}),
    "one array": ("not_an_adapter", "numpy", "unknown", npy("x.npy", mat(4, 4))),
}  # fmt: skip


def test_an_empty_state_dict_says_so():
    for content in ({}, {"state_dict": {}}):
        with pytest.raises(FormatError) as error:
            read_adapter(files_of({**pt(content, "adapter_model.bin"), **peft()}))
        assert (error.value.code, error.value.exit_status) == ("no_tensors", 2)
        assert "empty" in error.value.hint


def files_of(files):
    found = {name: MemorySource(name, content) for name, content in files.items()}
    return AdapterFiles(location="mem", files=found)


def base_of(row):
    """No base for what is another model's, or no model's."""
    needs = {"18 MiSS", "32 NeMo 1", "35 Tunix", "24 loralib", "26 LitGPT", "27 torchtune"}
    return LLAMA if row in needs else None


@pytest.mark.parametrize("row", list(ROWS))
def test_every_kind_is_known(row):
    outcome, form, method, files = ROWS[row]
    reading = read_adapter(files_of(files), ReadOptions(base_config=base_of(row)))
    found = reading.inspection
    assert (found.format.name, found.format.method) == (form, method), found.problems
    assert found.format.evidence
    stops = [p for p in found.problems if PROBLEM_CODES[p.code].stops]
    assert found.convertible == (outcome == READ), found.problems
    assert not found.tensors.unknown
    account = found.tensors
    assert account.total == account.used + len(account.ignored)
    if outcome == READ:
        assert found.tensors.used
        return
    code = {REFUSED: "unsupported_method", ASKED: "missing_alpha"}.get(outcome, outcome)
    assert [p.code for p in stops][:1] == [code]
    asked = outcome in {ASKED, "missing_config", "multiple_adapters"}
    assert found.verdict == ("INCONCLUSIVE" if asked else "FAIL")
    error = refusal(reading)
    assert len(error.hint) > 20
    text = f"{error.message} {error.hint}".lower()
    assert not any(word in text for word in (" yet", "later", "this release", "unknown format"))
