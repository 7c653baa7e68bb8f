"""llama.cpp keeps q and k of Llama in another row order: an adapter must be written in it.

A forgotten permutation leaves the likeliest token as it is, so all log-probabilities are
compared with PEFT's, and with those of the same file without the permutation.
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from adaptrix import Registry
from adaptrix.samples import BASE_DIR

pytest.importorskip("xllamacpp", reason="make test-engines installs it")
conftest = sys.modules.get("tests.conftest") or sys.modules["conftest"]
reference = conftest.load_helper("engine_reference", Path(__file__).parent / "reference.py")
engine = conftest.load_helper("engine_llama_cpp", Path(__file__).parent / "test_llama_cpp.py")
HEADS, KV_HEADS, WIDTH = 4, 2, 64


def tiny_llama() -> LlamaForCausalLM:
    torch.manual_seed(3)
    size = json.loads((BASE_DIR / "config.json").read_text())["vocab_size"]
    config = LlamaConfig(
        vocab_size=size, hidden_size=WIDTH, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=HEADS, num_key_value_heads=KV_HEADS, max_position_embeddings=256,
        tie_word_embeddings=False, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(std=0.2)
    return model.eval()


def permuted(weight: np.ndarray, heads: int) -> np.ndarray:
    """``LlamaModel.permute`` of llama.cpp's converter."""
    shape = (heads, 2, weight.shape[0] // heads // 2, weight.shape[1])
    return weight.reshape(shape).swapaxes(1, 2).reshape(weight.shape)


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    model = tiny_llama()
    path = tmp_path_factory.mktemp("gguf") / "llama.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(256)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(96)
    writer.add_block_count(2)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(model.config.rms_norm_eps)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    tokenizer = json.loads((BASE_DIR / "tokenizer.json").read_text())
    engine._add_tokenizer(writer, tokenizer, model.config.vocab_size)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 2)
    for name, tensor in model.state_dict().items():
        array = tensor.numpy()
        if name.endswith("q_proj.weight"):
            array = permuted(array, HEADS)
        if name.endswith("k_proj.weight"):
            array = permuted(array, KV_HEADS)
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def saved_adapter(folder: Path) -> np.ndarray:
    """Save a random adapter; returns PEFT's log-probabilities."""
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "down_proj"]
    settings = LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=6, target_modules=targets)
    tuned = get_peft_model(tiny_llama(), settings)
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.2)
    with warnings.catch_warnings():
        # The base has no folder for PEFT to look into.
        warnings.simplefilter("ignore")
        tuned.save_pretrained(folder, save_embedding_layers=False)
    with torch.no_grad():
        logits = tuned.eval()(torch.tensor([reference.IDS])).logits[0, -1].numpy()
    return engine.log_softmax(logits)


def test_rows_of_q_and_k_are_in_llama_cpps_order(agree, base, tmp_path):
    with torch.no_grad():
        plain = tiny_llama()(torch.tensor([reference.IDS])).logits[0, -1].numpy()
    without = engine.log_probabilities(base, None)
    agree(without, engine.log_softmax(plain), None)
    wanted = saved_adapter(tmp_path / "peft")
    config = tmp_path / "config.json"
    tiny_llama().config.to_json_file(config)
    with Registry(tmp_path / "home") as registry:
        report = registry.convert(
            str(tmp_path / "peft"), to="gguf", output=tmp_path / "a.gguf", base=str(config)
        )
    assert report.fidelity == "exact"
    agree(engine.log_probabilities(base, tmp_path / "a.gguf"), wanted, without)
    # The test can fail: the same file in the order of transformers is told apart.
    wrong = tmp_path / "wrong.gguf"
    reader = gguf.GGUFReader(tmp_path / "a.gguf")
    writer = gguf.GGUFWriter(wrong, "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 6.0)
    for tensor in reader.tensors:
        array = np.array(tensor.data)
        for mark, heads in (("attn_q.weight.lora_b", HEADS), ("attn_k.weight.lora_b", KV_HEADS)):
            if tensor.name.endswith(mark):
                shape = (heads, array.shape[0] // heads // 2, 2, array.shape[1])
                array = array.reshape(shape).swapaxes(1, 2).reshape(array.shape)
        writer.add_tensor(tensor.name, np.ascontiguousarray(array))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    missed = engine.log_probabilities(base, wrong)
    assert np.abs(missed - wanted).max() / np.abs(wanted).max() > 1e-3
