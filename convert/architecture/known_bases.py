"""Widely used base models with their dimensions, as their public ``config.json`` gives them."""

from __future__ import annotations

from dataclasses import dataclass

from adaptrix.convert.architecture.dimensions import Dimensions
from adaptrix.schema.canonical import Json


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownBase:
    """A base model: hub id, family, dimensions."""

    name: str
    family: str
    dimensions: Dimensions


_ROWS = """
adaptrix/sample-phi phi 256 1024 4 4 4 64 704
microsoft/phi-1 phi 2048 8192 24 32 32 64 51200
microsoft/phi-1_5 phi 2048 8192 24 32 32 64 51200
microsoft/phi-2 phi 2560 10240 32 32 32 80 51200
microsoft/Phi-3-mini-4k-instruct phi3 3072 8192 32 32 32 96 32064
microsoft/Phi-3-mini-128k-instruct phi3 3072 8192 32 32 32 96 32064
microsoft/Phi-3.5-mini-instruct phi3 3072 8192 32 32 32 96 32064
microsoft/Phi-3-medium-4k-instruct phi3 5120 17920 40 40 10 128 32064
microsoft/phi-4 phi3 5120 17920 40 40 10 128 100352
microsoft/Phi-4-mini-instruct phi3 3072 8192 32 24 8 128 200064
meta-llama/Llama-2-7b-hf llama 4096 11008 32 32 32 128 32000
meta-llama/Llama-2-13b-hf llama 5120 13824 40 40 40 128 32000
meta-llama/Llama-2-70b-hf llama 8192 28672 80 64 8 128 32000
huggyllama/llama-30b llama 6656 17920 60 52 52 128 32000
meta-llama/Meta-Llama-3-8B llama 4096 14336 32 32 8 128 128256
meta-llama/Llama-3.1-8B llama 4096 14336 32 32 8 128 128256
meta-llama/Meta-Llama-3-70B llama 8192 28672 80 64 8 128 128256
meta-llama/Llama-3.2-1B llama 2048 8192 16 32 8 64 128256
meta-llama/Llama-3.2-3B llama 3072 8192 28 24 8 128 128256
TinyLlama/TinyLlama-1.1B-Chat-v1.0 llama 2048 5632 22 32 4 64 32000
openlm-research/open_llama_3b llama 3200 8640 26 32 32 100 32000
HuggingFaceTB/SmolLM2-135M llama 576 1536 30 9 3 64 49152
HuggingFaceTB/SmolLM2-360M llama 960 2560 32 15 5 64 49152
HuggingFaceTB/SmolLM2-1.7B llama 2048 8192 24 32 32 64 49152
deepseek-ai/deepseek-coder-1.3b-base llama 2048 5504 24 16 16 128 32256
deepseek-ai/deepseek-coder-6.7b-base llama 4096 11008 32 32 32 128 32256
mistralai/Mistral-7B-v0.1 mistral 4096 14336 32 32 8 128 32000
mistralai/Mistral-7B-v0.3 mistral 4096 14336 32 32 8 128 32768
mistralai/Mistral-Nemo-Base-2407 mistral 5120 14336 40 32 8 128 131072
mistralai/Mixtral-8x7B-v0.1 mixtral 4096 14336 32 32 8 128 32000
Qwen/Qwen1.5-0.5B qwen2 1024 2816 24 16 16 64 151936
Qwen/Qwen1.5-1.8B qwen2 2048 5504 24 16 16 128 151936
Qwen/Qwen1.5-4B qwen2 2560 6912 40 20 20 128 151936
Qwen/Qwen1.5-7B qwen2 4096 11008 32 32 32 128 151936
Qwen/Qwen2.5-0.5B qwen2 896 4864 24 14 2 64 151936
Qwen/Qwen2.5-1.5B qwen2 1536 8960 28 12 2 128 151936
Qwen/Qwen2.5-3B qwen2 2048 11008 36 16 2 128 151936
Qwen/Qwen2.5-7B qwen2 3584 18944 28 28 4 128 152064
Qwen/Qwen2.5-14B qwen2 5120 13824 48 40 8 128 152064
Qwen/Qwen2.5-32B qwen2 5120 27648 64 40 8 128 152064
Qwen/Qwen2.5-72B qwen2 8192 29568 80 64 8 128 152064
Qwen/Qwen3-0.6B qwen3 1024 3072 28 16 8 128 151936
Qwen/Qwen3-1.7B qwen3 2048 6144 28 16 8 128 151936
Qwen/Qwen3-4B qwen3 2560 9728 36 32 8 128 151936
Qwen/Qwen3-8B qwen3 4096 12288 36 32 8 128 151936
Qwen/Qwen3-14B qwen3 5120 17408 40 40 8 128 151936
Qwen/Qwen3-32B qwen3 5120 25600 64 64 8 128 151936
google/gemma-2b gemma 2048 16384 18 8 1 256 256000
google/gemma-7b gemma 3072 24576 28 16 16 256 256000
google/gemma-2-2b gemma2 2304 9216 26 8 4 256 256000
google/gemma-2-9b gemma2 3584 14336 42 16 8 256 256000
google/gemma-2-27b gemma2 4608 36864 46 32 16 128 256000
google/gemma-3-270m gemma3_text 640 2048 18 4 1 256 262144
google/gemma-3-1b-pt gemma3_text 1152 6912 26 4 1 256 262144
stabilityai/stablelm-3b-4e1t stablelm 2560 6912 32 32 32 80 50304
stabilityai/stablelm-2-1_6b stablelm 2048 5632 24 32 32 64 100352
openbmb/MiniCPM-2B-sft-bf16 minicpm 2304 5760 40 36 36 64 122753
bigcode/starcoder2-3b starcoder2 3072 12288 30 24 2 128 49152
bigcode/starcoder2-7b starcoder2 4608 18432 32 36 4 128 49152
adept/persimmon-8b-base persimmon 4096 16384 36 64 64 64 262144
baichuan-inc/Baichuan2-7B-Base baichuan 4096 11008 32 32 32 128 125696
internlm/internlm2-7b internlm2 4096 14336 32 32 8 128 92544
openai-community/gpt2 gpt2 768 3072 12 12 12 64 50257
openai-community/gpt2-medium gpt2 1024 4096 24 16 16 64 50257
openai-community/gpt2-large gpt2 1280 5120 36 20 20 64 50257
openai-community/gpt2-xl gpt2 1600 6400 48 25 25 64 50257
distilbert/distilgpt2 gpt2 768 3072 6 12 12 64 50257
microsoft/DialoGPT-small gpt2 768 3072 12 12 12 64 50257
microsoft/DialoGPT-medium gpt2 1024 4096 24 16 16 64 50257
EleutherAI/gpt-neo-125m gpt_neo 768 3072 12 12 12 64 50257
EleutherAI/gpt-neo-1.3B gpt_neo 2048 8192 24 16 16 128 50257
EleutherAI/gpt-neo-2.7B gpt_neo 2560 10240 32 20 20 128 50257
EleutherAI/gpt-j-6b gptj 4096 16384 28 16 16 256 50400
Salesforce/codegen-350M-mono codegen 1024 4096 20 16 16 64 51200
EleutherAI/pythia-70m gpt_neox 512 2048 6 8 8 64 50304
EleutherAI/pythia-160m gpt_neox 768 3072 12 12 12 64 50304
EleutherAI/pythia-410m gpt_neox 1024 4096 24 16 16 64 50304
EleutherAI/pythia-1b gpt_neox 2048 8192 16 8 8 256 50304
EleutherAI/pythia-1.4b gpt_neox 2048 8192 24 16 16 128 50304
EleutherAI/pythia-2.8b gpt_neox 2560 10240 32 32 32 80 50304
EleutherAI/pythia-6.9b gpt_neox 4096 16384 32 32 32 128 50432
EleutherAI/gpt-neox-20b gpt_neox 6144 24576 44 64 64 96 50432
facebook/opt-125m opt 768 3072 12 12 12 64 50272
facebook/opt-350m opt 1024 4096 24 16 16 64 50272
facebook/opt-1.3b opt 2048 8192 24 32 32 64 50272
facebook/opt-2.7b opt 2560 10240 32 32 32 80 50272
facebook/opt-6.7b opt 4096 16384 32 32 32 128 50272
bigscience/bloom-560m bloom 1024 4096 24 16 16 64 250880
bigscience/bloom-1b1 bloom 1536 6144 24 16 16 96 250880
bigscience/bloom-1b7 bloom 2048 8192 24 16 16 128 250880
bigscience/bloom-3b bloom 2560 10240 30 32 32 80 250880
bigscience/bloom-7b1 bloom 4096 16384 30 32 32 128 250880
tiiuae/falcon-7b falcon 4544 18176 32 71 1 64 65024
mosaicml/mpt-7b mpt 4096 16384 32 32 32 128 50432
google-bert/bert-base-uncased bert 768 3072 12 12 12 64 30522
google-bert/bert-large-uncased bert 1024 4096 24 16 16 64 30522
FacebookAI/roberta-base roberta 768 3072 12 12 12 64 50265
FacebookAI/roberta-large roberta 1024 4096 24 16 16 64 50265
FacebookAI/xlm-roberta-base xlm-roberta 768 3072 12 12 12 64 250002
distilbert/distilbert-base-uncased distilbert 768 3072 6 12 12 64 30522
microsoft/deberta-v3-base deberta-v2 768 3072 12 12 12 64 128100
google-t5/t5-small t5 512 2048 6 8 8 64 32128
google-t5/t5-base t5 768 3072 12 12 12 64 32128
google/flan-t5-small t5 512 1024 8 6 6 64 32128
google/flan-t5-base t5 768 2048 12 12 12 64 32128
google/flan-t5-large t5 1024 2816 24 16 16 64 32128
bigscience/mt0-large mt5 1024 2816 24 16 16 64 250112
facebook/bart-base bart 768 3072 6 12 12 64 50265
facebook/bart-large bart 1024 4096 12 16 16 64 50265
openai/whisper-tiny whisper 384 1536 4 6 6 64 51865
openai/whisper-base whisper 512 2048 6 8 8 64 51865
openai/whisper-small whisper 768 3072 12 12 12 64 51865
openai/whisper-medium whisper 1024 4096 24 16 16 64 51865
openai/whisper-large-v3 whisper 1280 5120 32 20 20 64 51866
google/vit-base-patch16-224 vit 768 3072 12 12 12 64 0
"""


def _parse(row: str) -> KnownBase:
    name, family, *numbers = row.split()
    hidden, intermediate, layers, heads, kv_heads, head_size, vocabulary = map(int, numbers)
    return KnownBase(
        name=name,
        family=family,
        dimensions=Dimensions(
            hidden=hidden,
            intermediate=intermediate,
            layers=layers,
            heads=heads,
            kv_heads=kv_heads,
            head_size=head_size,
            vocabulary=vocabulary or None,
        ),
    )


KNOWN_BASES: tuple[KnownBase, ...] = tuple(_parse(row) for row in _ROWS.strip().splitlines())
_BY_NAME = {base.name.rpartition("/")[2].lower(): base for base in KNOWN_BASES}


def config_of(base: KnownBase) -> dict[str, Json]:
    """The dimensions of ``base`` as its ``config.json`` would give them."""
    sizes = base.dimensions
    return {
        "model_type": base.family,
        "hidden_size": sizes.hidden,
        "intermediate_size": sizes.intermediate,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads,
        "num_key_value_heads": sizes.kv_heads,
        "head_dim": sizes.head_size,
        "vocab_size": sizes.vocabulary,
    }


def known_base(declared: str) -> KnownBase | None:
    """The known base that a declared name or path ends with, if any."""
    last = declared.replace("\\", "/").rstrip("/").rpartition("/")[2]
    return _BY_NAME.get(last.lower())
