"""How many public adapters are made for a family, roughly, and how its models are called.

Shares are relative weights, from what public repositories hold: two figures are more than is
known. A family that is not in the table has a small share, and its ``model_type`` for words.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from adaptrix.convert.architecture.known_bases import KnownBase, bases_of

_ROWS = r"""
llama 0.25 llama(?![-_. ]?4)|vicuna|alpaca|smollm2?(?!3)|deepseek-(coder|llm)|(?<![a-z])yi-|codellama|wizardlm
mistral 0.10 mistral(?!.*(small-3|nemo-vl))|zephyr-7b|openhermes
qwen2 0.14 qwen[-_ ]?(1\.5|2|2\.5)(?!\d|.*(vl|audio|omni|moe))|qwq
qwen3 0.05 qwen[-_ ]?3(?!\.\d|.*(vl|omni|next|moe|a3b|a22b|asr|coder))
qwen2_moe 0.004 qwen[-_ ]?(1\.5|2).*(moe|a2\.7b|a14b)
qwen3_moe 0.006 qwen[-_ ]?3(?!\.\d|.*(vl|omni|next)).*(moe|a3b|a22b|coder)
qwen2_vl 0.008 qwen[-_ ]?2[-_ ]?vl
qwen2_5_vl 0.010 qwen[-_ ]?2[._]5[-_ ]?vl|cosmos-reason1
qwen3_vl 0.004 qwen[-_ ]?3[-_ ]?vl(?!.*(moe|a3b|a22b))|cosmos-reason2
qwen3_vl_moe 0.001 qwen[-_ ]?3[-_ ]?vl.*(moe|a\d+b)
qwen3_5 0.003 qwen[-_ ]?3[._]5(?!.*a\d+b)
qwen3_5_moe 0.001 qwen[-_ ]?3[._]5.*a\d+b
qwen2_audio 0.001 qwen[-_ ]?2[-_ ]?audio
gemma 0.03 gemma-?(2b|7b|1\.1)|codegemma
gemma2 0.03 gemma-?2-
gemma3_text 0.02 gemma-?3-(270m|1b)
gemma3 0.008 gemma-?3-(4b|12b|27b)|medgemma
gemma3n 0.002 gemma-?3n-
gemma4 0.002 gemma-?4-
nemotron_h 0.001 nemotron[-_]?(h-|3-nano|nano-(9b|12b|30b))
paligemma 0.003 paligemma
phi 0.04 (?<![a-z])phi(?![a-z0-9])(?![-_ ]?[34])|phi[-_ ]?(1|2)(?!\d)
phi3 0.03 phi[-_ ]?(3|4)(?!.*(moe|multimodal|vision|small))
phimoe 0.001 phi[-_ ]?3\.5.*moe
phi4_multimodal 0.001 phi[-_ ]?4.*multimodal
stablelm 0.01 stablelm|stable-code
minicpm 0.005 minicpm(?![-_ ]?(3|v|o))
minicpmv 0.002 minicpm-?(v|o|llama3-v)
mixtral 0.01 mixtral
starcoder2 0.005 starcoder2
gpt_bigcode 0.004 starcoder(?!2)|santacoder|bigcode
persimmon 0.001 persimmon
fuyu 0.0005 fuyu
baichuan 0.005 baichuan
internlm2 0.003 internlm2
internlm 0.002 internlm(?!-?(2|3|xcomposer))
internvl_chat 0.002 internvl(?!.*-hf)
internvl 0.0005 internvl.*-hf
hunyuan_v1_dense 0.001 hunyuan(?!.*(moe|a13b))|hy-mt
qwen 0.004 qwen(?![-_ ]?(\d+\.\d|[23]))
gpt2 0.05 (?<![a-z])gpt-?2|dialogpt
gpt_neo 0.01 gpt-neo(?!x)
gptj 0.008 gpt-?j
codegen 0.004 codegen
gpt_neox 0.02 pythia|gpt-neox|dolly|redpajama
gpt_oss 0.004 gpt-?oss
opt 0.02 (?<![a-z])opt-
bloom 0.02 bloom
falcon 0.02 falcon(?![-_ ]?(3|mamba|h1))
mpt 0.005 (?<![a-z])mpt-
chatglm 0.02 chatglm|glm-4-9b-chat(?!-hf)
glm 0.001 glm-(4|edge).*-hf
glm4 0.001 glm-4-(9b|32b)-0414
glm4_moe 0.001 glm-?4\.[5-7](?![\d.]*[-_]?(v|flash))
glm4v_moe 0.0003 glm-?4\.5-?v
glm46v 0.0002 glm-?4\.6-?v
olmo 0.002 olmo(?!-?[23e])
olmo2 0.002 olmo-?2
olmoe 0.001 olmoe
granite 0.003 granite-3
granitemoehybrid 0.001 granite[-_]?4
smollm3 0.002 smollm3
cohere 0.002 command-r|c4ai|aya-(23|expanse)
deepseek_v2 0.002 deepseek-v2
deepseek_v3 0.002 deepseek-(v3|r1)(?!-distill)
deepseek_vl 0.0003 deepseek-vl(?!-?2)
kimi_vl 0.0001 kimi-vl
llama4 0.001 llama-?4
llama4_text 0.0005 llama-?4[-_]text
mamba 0.002 mamba-(?!2)
mamba2 0.001 mamba-?2|mamba-codestral|codestral-mamba
jamba 0.0005 jamba
bert 0.03 (?<![a-z])bert(?!weet|in)
roberta 0.03 (?<!xlm-)(?<!x)roberta|bertweet
xlm-roberta 0.004 xlm-?r(?!.*(xl|xxl)$)|bge-m3|multilingual-e5
xlm-roberta-xl 0.0003 xlm-?r(oberta)?-?xx?l
camembert 0.001 camembert
big_bird 0.001 big-?bird
electra 0.002 electra
albert 0.002 (?<![a-z])albert
distilbert 0.02 distilbert
deberta-v2 0.01 deberta-?v[23]
deberta 0.002 deberta(?!-?v[23])
mpnet 0.002 mpnet
modernbert 0.003 modernbert
esm 0.004 (?<![a-z])esm-?[12]
t5 0.03 (?<![a-z])(flan-)?t5|codet5(?!p)
mt5 0.005 mt5|mt0
umt5 0.0005 umt5
bart 0.01 (?<![a-z])bart
mbart 0.003 mbart
pegasus 0.002 pegasus(?!-?x)
m2m_100 0.003 m2m|nllb(?!-moe)
marian 0.002 opus-mt|marian
led 0.001 (?<![a-z])led-
whisper 0.01 whisper
musicgen 0.0005 musicgen
wav2vec2 0.003 wav2vec(?!2-?(bert|conf))|xls-r|mms-
wav2vec2-bert 0.0005 w2v-?bert|wav2vec2-bert
hubert 0.001 hubert
speecht5 0.001 speecht5
vit 0.01 (?<![a-z])vit-
timm 0.002 (?<![a-z])timm/|vit_(tiny|small|medium|base|large|huge|giant|so400m)_patch
videomae 0.0005 videomae
dinov2 0.003 dino-?v2
swin 0.002 (?<![a-z])swin-
beit 0.001 (?<![a-z])beit
deit 0.001 (?<![a-z])deit
segformer 0.001 segformer|mit-b\d
clip 0.01 (?<![a-z])clip(?!seg)
siglip 0.002 siglip(?!2)
sam 0.002 (?<![a-z])sam-vit
blip 0.003 blip(?!-?2)
blip-2 0.003 blip-?2
florence2 0.001 florence-?2
instructblip 0.001 instructblip
git 0.001 (?<![a-z])git-(base|large)
llava 0.008 llava(?!.*(next|1\.6|onevision|video))
llava_next 0.003 llava.*(next|1\.6)
llava_onevision 0.001 llava.*onevision
mllama 0.003 llama-3\.2.*vision
idefics2 0.002 idefics2
idefics3 0.002 idefics3|smolvlm(?!-?2(?!\d))
smolvlm 0.002 smolvlm-?2(?!\d)
pixtral 0.001 pixtral
mistral3 0.002 mistral-small-3
layoutlmv3 0.001 layoutlmv3
stable-diffusion 0.03 stable-diffusion|sdxl
"""
WIDESPREAD = frozenset(
    [
        "FacebookAI/roberta-base",
        "google-bert/bert-base-uncased",
        "openai-community/gpt2",
        "google/flan-t5-base",
        "Qwen/Qwen1.5-0.5B",
        "Qwen/Qwen1.5-1.8B",
        "Qwen/Qwen2.5-0.5B",
        "Qwen/Qwen2.5-0.5B-Instruct",
        "Qwen/Qwen2.5-1.5B",
        "Qwen/Qwen2.5-1.5B-Instruct",
        "Qwen/Qwen2.5-7B",
        "Qwen/Qwen2.5-7B-Instruct",
        "Qwen/Qwen2.5-Coder-7B-Instruct",
        "Qwen/Qwen3-0.6B",
        "Qwen/Qwen3-1.7B",
        "Qwen/Qwen3-4B",
        "Qwen/Qwen3-8B",
        "TinyLlama/TinyLlama-1.1B-Chat-v1.0",
        "bigscience/bloom-560m",
        "bigscience/bloom-7b1",
        "facebook/opt-125m",
        "facebook/opt-350m",
        "facebook/opt-6.7b",
        "google/gemma-2-2b",
        "google/gemma-2-2b-it",
        "google/gemma-2b",
        "google/gemma-2b-it",
        "google/gemma-3-1b-it",
        "google/gemma-3-4b-it",
        "huggyllama/llama-7b",
        "meta-llama/Llama-2-7b-chat-hf",
        "meta-llama/Llama-2-7b-hf",
        "meta-llama/Llama-3.1-8B",
        "meta-llama/Llama-3.1-8B-Instruct",
        "meta-llama/Llama-3.2-1B",
        "meta-llama/Llama-3.2-1B-Instruct",
        "meta-llama/Llama-3.2-3B",
        "meta-llama/Llama-3.2-3B-Instruct",
        "meta-llama/Meta-Llama-3-8B",
        "meta-llama/Meta-Llama-3-8B-Instruct",
        "microsoft/Phi-3-mini-4k-instruct",
        "microsoft/phi-2",
        "mistralai/Mistral-7B-Instruct-v0.2",
        "mistralai/Mistral-7B-Instruct-v0.3",
        "mistralai/Mistral-7B-v0.1",
        "openai/whisper-large-v2",
        "openai/whisper-small",
        "tiiuae/falcon-7b",
        "tiiuae/falcon-7b-instruct",
    ]
)
"""Bases that most public adapters of their families are made for."""
_FOLD = 8.0
"""How many times as many adapters such a base has as another one of its family."""
_OTHERWISE = frozenset({"smolvlm", "internvl"})
"""Types whose name other types' models have: the first SmolVLM are of the type ``idefics3``,
and InternVL without ``-hf`` comes with code of its own."""
_RARE = 6e-5
_TEXT = "_text"
_PART = re.compile(
    r"_(text|vision|audio|encoder|decoder)(_model|_encoder)?$|_(qformer|vqmodel|talker|thinker)"
)
_RARE_PART = 1e-5


@dataclass(frozen=True, slots=True)
class Popularity:
    """Share of public adapters, and what matches the names of its models."""

    share: float
    words: re.Pattern[str] | None


def _parse(row: str) -> tuple[str, Popularity]:
    name, share, words = row.split(" ", 2)
    return name, Popularity(float(share), re.compile(words, re.IGNORECASE))


POPULARITY: Mapping[str, Popularity] = dict(map(_parse, _ROWS.strip().splitlines()))


def share_of(family: str) -> float:
    """Share of public adapters that are made for ``family``, roughly."""
    known = POPULARITY.get(family)
    if known is not None:
        return known.share
    return _RARE_PART if _PART.search(family) else _RARE


def is_called(family: str, name: str) -> bool:
    """Whether a model called ``name`` is one of ``family``, as far as names tell."""
    known = POPULARITY.get(family)
    return bool(known is not None and known.words is not None and known.words.search(name))


def called_at(family: str, name: str) -> tuple[int, int] | None:
    """Where ``name`` says that a model is one of ``family``: by its usual words, or its type."""
    known = POPULARITY.get(family)
    usual = known.words.search(name) if known is not None and known.words is not None else None
    # Most types are not named at all: that is seen without a pattern to compile.
    maybe = family not in _OTHERWISE and _letters(family) in _letters(name)
    own = _own_words(family).search(name) if maybe else None
    spans = [match.span() for match in (usual, own) if match is not None]
    if not spans and family.endswith(_TEXT):
        # The text model of a larger one is trained under the larger one's name.
        return called_at(family.removesuffix(_TEXT), name)
    return max(spans, key=lambda span: span[1] - span[0], default=None)


@cache
def _letters(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())


def chance_of_word(family: str) -> float:
    """How often a name has the type's name in it by chance."""
    if family == "bit":
        return 0.01  # 4-bit
    return 0.0 if not family.isalpha() or family in POPULARITY else 1e-5


@cache
def _own_words(family: str) -> re.Pattern[str]:
    """The type's name, with any mark between its parts: ``olmo_hybrid`` as ``OLMo-Hybrid``."""
    parts = re.findall(r"[a-z]+|[0-9]+", family, re.IGNORECASE)
    body = r"[-_./ ]?".join(map(re.escape, parts))
    end = r"(?![a-z0-9])" if len(family) < 4 else r"(?![a-z])"
    return re.compile(rf"(?<![a-z]){body}{end}", re.IGNORECASE)


@cache
def base_shares(family: str) -> tuple[float, ...]:
    """Share of each known base among the adapters of the family's known bases."""
    weights = [_FOLD if base.name in WIDESPREAD else 1.0 for base in bases_of(family)]
    return tuple(weight / sum(weights) for weight in weights)


def base_share(base: KnownBase) -> float:
    """Share of ``base``; see :func:`base_shares`."""
    return base_shares(base.family)[bases_of(base.family).index(base)]
