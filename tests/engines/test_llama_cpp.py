"""llama.cpp's own loader, on its sample and on what we write: the log-probabilities are PEFT's."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch.nn import functional

from adaptrix.samples import BASE_DIR
from adaptrix.schema.errors import Refused

llama = pytest.importorskip("xllamacpp", reason="make test-engines installs it")
conftest = sys.modules.get("tests.conftest") or sys.modules["conftest"]
reference = conftest.load_helper("engine_reference", Path(__file__).parent / "reference.py")


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """The sample base as a GGUF file, float32."""
    config = json.loads((BASE_DIR / "config.json").read_text())
    tokenizer = json.loads((BASE_DIR / "tokenizer.json").read_text())
    path = tmp_path_factory.mktemp("gguf") / "base.gguf"
    writer = gguf.GGUFWriter(path, "phi2")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_eps(config["layer_norm_eps"])
    head = config["hidden_size"] // config["num_attention_heads"]
    writer.add_rope_dimension_count(int(head * config["partial_rotary_factor"]))
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    _add_tokenizer(writer, tokenizer, config["vocab_size"])
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.PHI2, config["num_hidden_layers"])
    for name, array in load_file(BASE_DIR / "model.safetensors").items():
        known = names.get_name(name, try_suffixes=(".weight", ".bias"))
        writer.add_tensor(known, array.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_tokenizer(writer, tokenizer, size):
    tokens, kinds = [f"<unused {n}>" for n in range(size)], [gguf.TokenType.UNUSED] * size
    for token, index in tokenizer["model"]["vocab"].items():
        tokens[index], kinds[index] = token, gguf.TokenType.NORMAL
    for added in tokenizer["added_tokens"]:
        tokens[added["id"]], kinds[added["id"]] = added["content"], gguf.TokenType.CONTROL
    merges = [m if isinstance(m, str) else " ".join(m) for m in tokenizer["model"]["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(merges)
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    writer.add_add_bos_token(False)


def log_probabilities(base: Path, adapter: Path | None) -> np.ndarray:
    """Of every token after the reference's ids."""
    params = llama.CommonParams()
    params.model.path = str(base)
    params.n_ctx, params.n_parallel, params.warmup, params.fit_params = 256, 1, False, False
    params.verbosity = 0
    params.cpuparams.n_threads = 1
    params.flash_attn_type = llama.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.cache_type_k = params.cache_type_v = llama.ggml_type.GGML_TYPE_F32
    if adapter is not None:
        params.lora_adapters = [llama.CommonAdapterLoraInfo(str(adapter), 1.0)]
    size = json.loads((BASE_DIR / "config.json").read_text())["vocab_size"]
    request = {"prompt": reference.IDS, "n_predict": 1, "n_probs": size, "temperature": -1,
               "cache_prompt": False}  # fmt: skip
    answer = llama.Server(params).handle_completions(request)
    document = json.loads(answer) if isinstance(answer, str) else answer
    top = document["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
    found = np.full(size, np.nan)
    for entry in top:
        found[entry["id"]] = entry["logprob"]
    assert not np.isnan(found).any()
    return found


def log_softmax(logits: np.ndarray) -> np.ndarray:
    wide = logits.astype(np.float64)
    return wide - np.log(np.exp(wide - wide.max()).sum()) - wide.max()


class HalfGelu(torch.nn.Module):
    """llama.cpp looks GELU up in a table of half-precision values; so does the reference here."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        table = functional.gelu(x.half().float(), approximate="tanh").half().float()
        return torch.where(x <= -10, 0.0, torch.where(x >= 10, x, table))


def wanted_log_probabilities(source: str | Path, tmp_path: Path) -> np.ndarray:
    return log_softmax(reference.peft_logits(source, tmp_path, HalfGelu())[-1])


def test_the_base_itself_agrees(agree, base):
    wanted = log_softmax(reference.base_logits(HalfGelu())[-1])
    agree(log_probabilities(base, None), wanted, None)


def test_llama_cpp_reads_its_sample(agree, base, tmp_path):
    wanted = wanted_log_probabilities("qa", tmp_path)
    got = log_probabilities(base, reference.ADAPTERS / "qa" / "adapter.gguf")
    agree(got, wanted, log_probabilities(base, None))


@pytest.mark.parametrize("task", ["math", "instruct", "code", "qa"])
def test_llama_cpp_reads_what_we_write(agree, base, task, tmp_path):
    wanted = wanted_log_probabilities(task, tmp_path)
    out = reference.convert(task, "gguf", tmp_path / "gguf")
    file = next(out.glob("*.gguf")) if out.is_dir() else out
    agree(log_probabilities(base, file), wanted, log_probabilities(base, None))


@pytest.mark.parametrize("case", [case for case in reference.MADE if case != "dora"])
def test_llama_cpp_reads_parts_of_a_model(agree, base, case, tmp_path):
    source = reference.made(case, tmp_path)
    wanted = wanted_log_probabilities(source, tmp_path)
    out = reference.convert(source, "gguf", tmp_path / "gguf")
    file = next(out.glob("*.gguf")) if out.is_dir() else out
    agree(log_probabilities(base, file), wanted, log_probabilities(base, None))


def test_dora_is_refused_not_lost(tmp_path):
    source = reference.made("dora", tmp_path)
    with pytest.raises(Refused, match="magnitude"):
        reference.convert(source, "gguf", tmp_path / "gguf")


def test_several_alphas_are_refused_not_lost(tmp_path):
    with pytest.raises(Refused, match="one alpha"):
        reference.convert("news", "gguf", tmp_path / "gguf")
