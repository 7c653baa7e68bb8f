"""llama.cpp on architectures that keep q, k and v as one matrix: adapters written for each.

A tiny model of every class is put into GGUF by gguf-py's own names, its fused rows as
``convert_hf_to_gguf.py`` orders them; log-probabilities are compared with PEFT's.
"""

from __future__ import annotations

import json
import sys
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model

from adaptrix import Registry
from adaptrix.samples import BASE_DIR

pytest.importorskip("xllamacpp", reason="make test-engines installs it")
conftest = sys.modules.get("tests.conftest") or sys.modules["conftest"]
reference = conftest.load_helper("engine_reference", Path(__file__).parent / "reference.py")
engine = conftest.load_helper("engine_llama_cpp", Path(__file__).parent / "test_llama_cpp.py")
HEADS, WIDTH, LAYERS = 4, 64, 2
WORDS = json.loads((BASE_DIR / "tokenizer.json").read_text())["model"]["vocab"]
SHOWN = {index for word, index in WORDS.items() if word.isascii() and word.isalpha()}
VOCABULARY = json.loads((BASE_DIR / "config.json").read_text())["vocab_size"]


@dataclass(frozen=True)
class Case:
    """One class: its configuration, its adapted modules, and its fused weight."""

    arch: str
    config: dict[str, object]
    targets: tuple[str, ...]
    fused: str = ""
    groups: int = HEADS
    kv_heads: int = HEADS
    rotary: int = 0
    rms: bool = False
    parameters: tuple[str, ...] = ()
    values: dict[str, object] = field(default_factory=dict)


DECODER = {"num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "hidden_size": WIDTH}
OLD = {"n_layer": LAYERS, "n_head": HEADS}
DENSE = ("query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h")
GATED = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48,
           "num_key_value_heads": HEADS, "intermediate_size": 96}  # fmt: skip
STACKED = ("mlp.experts.gate_up_proj", "mlp.experts.down_proj")
CASES = {
    "gpt2": Case("gpt2", {**OLD, "n_embd": WIDTH, "n_positions": 256}, ("c_attn", "c_proj", "c_fc")),
    "bloom": Case("bloom", {**OLD, "hidden_size": WIDTH}, DENSE, "query_key_value"),
    "gpt_neox": Case(
        "gptneox", {**DECODER, "intermediate_size": 96, "rotary_pct": 0.5},
        DENSE, "query_key_value", rotary=8, values={"use_parallel_residual": True},
    ),
    "falcon": Case(
        "falcon", {**DECODER, "new_decoder_architecture": True, "num_kv_heads": 2},
        DENSE, "query_key_value", groups=2, kv_heads=2, rotary=16,
    ),
    "falcon multi-query": Case(
        "falcon", {**DECODER, "multi_query": True},
        DENSE, "query_key_value", groups=1, kv_heads=1, rotary=16,
    ),
    "phi3": Case(
        "phi3", {**DECODER, "intermediate_size": 96, "num_key_value_heads": 2,
                 "max_position_embeddings": 256, "original_max_position_embeddings": 256},
        ("qkv_proj", "o_proj", "gate_up_proj", "down_proj"), kv_heads=2, rotary=16, rms=True,
    ),
    "olmo2": Case(
        "olmo2", {**DECODER, "intermediate_size": 96, "num_key_value_heads": 4},
        GATED, rotary=16, rms=True,
    ),
    "qwen3_moe": Case(
        "qwen3moe", {**DECODER, **EXPERTS, "head_dim": 16, "norm_topk_prob": True},
        ("q_proj", "v_proj"), rotary=16, rms=True, parameters=STACKED,
    ),
    "mixtral": Case(
        "llama", {**DECODER, "num_local_experts": 4, "num_experts": 4, "num_experts_per_tok": 2,
                  "num_key_value_heads": 2, "intermediate_size": 48},
        ("q_proj", "k_proj"), kv_heads=2, rotary=16, rms=True, parameters=STACKED,
    ),
    "qwen2_moe": Case(
        "qwen2moe", {**DECODER, **EXPERTS, "shared_expert_intermediate_size": 40},
        ("q_proj", "shared_expert.up_proj"), rotary=16, rms=True, parameters=STACKED,
    ),
    "olmoe": Case(
        "olmoe", {**DECODER, "num_experts": 4, "num_experts_per_tok": 2, "intermediate_size": 48},
        ("k_proj", "o_proj"), rotary=16, rms=True, parameters=STACKED,
    ),
}  # fmt: skip


def drawn(parameters, model, spread: float, seed: int) -> np.ndarray:
    """Log-probabilities with random parameters under which the next token is a word.

    llama.cpp gives no probabilities of an answer that is empty, or part of a character.
    """
    for attempt in range(seed, seed + 20):
        torch.manual_seed(attempt)
        with torch.no_grad():
            for parameter in parameters:
                parameter.normal_(std=spread) if parameter.ndim == 2 else parameter.uniform_(
                    -0.5, 1
                )
            logits = model(torch.tensor([reference.IDS])).logits[0, -1].numpy()
        if int(logits.argmax()) in SHOWN:
            return engine.log_softmax(logits)
    raise AssertionError("every draw ends the text at once")


def tiny(name: str):
    config = transformers.AutoConfig.for_model(
        name.partition(" ")[0], vocab_size=VOCABULARY, bos_token_id=0, eos_token_id=0,
        pad_token_id=0, tie_word_embeddings=False, **CASES[name].config,
    )  # fmt: skip
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    for module in model.modules():
        for place in ("act", "activation_fn", "gelu_impl"):
            if "gelu" in type(getattr(module, place, None)).__name__.lower():
                setattr(module, place, engine.HalfGelu())
    return model.eval()


def in_blocks(weight: np.ndarray, groups: int) -> np.ndarray:
    """Rows of ``[q … k v]`` per group as all q, all k, all v."""
    size = WIDTH // HEADS
    rows = weight.reshape(groups, HEADS // groups + 2, size, *weight.shape[1:])
    parts = (rows[:, :-2], rows[:, -2], rows[:, -1])
    return np.concatenate([part.reshape(-1, *weight.shape[1:]) for part in parts])


def stored(model, case: Case):
    """Names and arrays as llama.cpp's converter has them before it renames."""
    for key, tensor in model.state_dict().items():
        array = tensor.numpy().astype(np.float32)
        if key.endswith((".attn.bias", ".attn.masked_bias")):
            continue
        if case.arch == "llama" and key.endswith(("q_proj.weight", "k_proj.weight")):
            heads = HEADS if key.endswith("q_proj.weight") else case.kv_heads
            array = array.reshape(heads, 2, -1, WIDTH).swapaxes(1, 2).reshape(array.shape)
        if case.fused and f".{case.fused}." in key:
            array = in_blocks(array, case.groups)
        if case.arch == "gpt2" and array.ndim == 2 and ".h." in key:
            array = array.T  # Conv1D
        if key.endswith("experts.gate_up_proj"):
            for name, half in zip(("gate", "up"), np.split(array, 2, axis=1), strict=True):
                yield key.replace("gate_up", name) + ".weight", half
        elif key.endswith("experts.down_proj"):
            yield key + ".weight", array
        else:
            # The converter takes BLOOM's first word away, and axes of one.
            yield key.removeprefix("transformer." * (case.arch == "bloom")), array.squeeze()


def base_file(name: str, model, path: Path) -> Path:
    case = CASES[name]
    architecture = next(k for k, v in gguf.MODEL_ARCH_NAMES.items() if v == case.arch)
    names = gguf.get_tensor_name_map(architecture, LAYERS)
    writer = gguf.GGUFWriter(path, case.arch)
    writer.add_context_length(256)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(case.config.get("intermediate_size", 4 * WIDTH))
    writer.add_block_count(LAYERS)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(case.kv_heads)
    config = model.config
    epsilons = ("rms_norm_eps", "layer_norm_epsilon", "layer_norm_eps")
    epsilon = next(getattr(config, n) for n in epsilons if hasattr(config, n))
    (writer.add_layer_norm_rms_eps if case.rms else writer.add_layer_norm_eps)(epsilon)
    if case.rotary:
        writer.add_rope_dimension_count(case.rotary)
        writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    for key, value in case.values.items():
        getattr(writer, f"add_{key.removeprefix('use_')}")(value)
    if case.parameters:
        size = case.config.get("moe_intermediate_size", case.config["intermediate_size"])
        writer.add_expert_count(case.config["num_experts"])
        writer.add_expert_used_count(case.config["num_experts_per_tok"])
        writer.add_expert_feed_forward_length(size)
        writer.add_key_length(WIDTH // HEADS)
        writer.add_value_length(WIDTH // HEADS)
        if shared := case.config.get("shared_expert_intermediate_size"):
            writer.add_expert_shared_feed_forward_length(shared)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    tokenizer = json.loads((BASE_DIR / "tokenizer.json").read_text())
    engine._add_tokenizer(writer, tokenizer, VOCABULARY)
    for key, array in stored(model, case):
        known = names.get_name(key, try_suffixes=(".weight", ".bias"))
        writer.add_tensor(known, np.ascontiguousarray(array))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def tuned(model, case: Case, folder: Path) -> np.ndarray:
    """PEFT's log-probabilities after the reference's ids; the adapter is saved in ``folder``."""
    config = LoraConfig(
        task_type="CAUSAL_LM", r=3, lora_alpha=6, target_modules=list(case.targets),
        fan_in_fan_out=case.arch == "gpt2", target_parameters=list(case.parameters) or None,
    )  # fmt: skip
    with warnings.catch_warnings():
        # PEFT and transformers advise each other.
        warnings.simplefilter("ignore")
        made = get_peft_model(model, config).eval()
        factors = [parameter for key, parameter in made.named_parameters() if "lora_" in key]
        wanted = drawn(factors, made, 0.15, seed=50)
        made.save_pretrained(folder, save_embedding_layers=False)
    return wanted


@pytest.mark.parametrize("name", CASES)
def test_llama_cpp_reads_an_adapter_of_every_architecture(agree, name, tmp_path):
    model = tiny(name)
    plain = drawn(list(model.parameters()), model, 0.2, seed=4)
    base = base_file(name, model, tmp_path / "base.gguf")
    without = engine.log_probabilities(base, None)
    agree(without, plain, None)
    model.config.save_pretrained(tmp_path / "config")
    wanted = tuned(model, CASES[name], tmp_path / "made")
    with Registry(tmp_path / "home") as registry:
        done = registry.convert(
            str(tmp_path / "made"), to="gguf", output=tmp_path / "x.gguf",
            base=str(tmp_path / "config"),
        )  # fmt: skip
    assert done.fidelity == "exact"
    agree(engine.log_probabilities(base, tmp_path / "x.gguf"), wanted, without)
