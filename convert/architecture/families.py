"""All families: transformers' model types from the catalogue, and those beside it."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

from adaptrix.convert.architecture.catalogue import catalogue
from adaptrix.convert.architecture.family import Family
from adaptrix.convert.architecture.plain_families import (
    FORMER_NAMES,
    PLAIN_FAMILIES,
    SAME_FAMILY,
)

_PLAIN = {family.name: family for family in PLAIN_FAMILIES}


@cache
def family_named(model_type: str) -> Family | None:
    """The family of a ``config.json``'s ``model_type``, or of a plain name."""
    name = SAME_FAMILY.get(model_type, model_type)
    if name in _PLAIN:
        return _PLAIN[name]
    found = catalogue().family(name)
    if found is None or name not in FORMER_NAMES:
        return found
    return replace(found, former=FORMER_NAMES[name])


<<<<<<< HEAD
def family_names() -> tuple[str, ...]:
    """Every family's name, sorted."""
    return tuple(sorted({*catalogue().types, *_PLAIN}))
=======
FAMILIES: tuple[Family, ...] = (
    _family("llama", 0.25, "model.", r"llama|vicuna|alpaca|smollm|deepseek-(coder|llm)", _LLAMA),
    _family("mistral", 0.10, "model.", r"mistral|zephyr-7b|openhermes", _LLAMA),
    _family("qwen2", 0.14, "model.", r"qwen[-_ ]?(1\.5|2)", _LLAMA),
    _family("qwen3", 0.05, "model.", r"qwen[-_ ]?3", _LLAMA),
    _family("gemma", 0.03, "model.", r"gemma-?(2b|7b|1\.1)", _LLAMA),
    _family("gemma2", 0.03, "model.", r"gemma-?2-", _LLAMA),
    _family("gemma3_text", 0.02, "model.", r"gemma-?3-(270m|1b)", _LLAMA),
    _family("phi", 0.04, "model.", r"(?<![a-z])phi(?![a-z0-9])(?![-_ ]?[34])|phi[-_ ]?(1|2)(?!\d)", _PHI),
    _family(
        "phi3", 0.03, "model.", r"phi[-_ ]?(3|4)",
        _block(_DECODER, "self_attn.qkv_proj q+2k,h self_attn.o_proj h,q mlp.gate_up_proj 2i,h mlp.down_proj h,i"), _HEAD,
    ),
    _family("stablelm", 0.01, "model.", r"stablelm|stable-code", _LLAMA),
    _family("minicpm", 0.005, "model.", r"minicpm", _LLAMA),
    _family(
        "mixtral", 0.01, "model.", r"mixtral",
        _block(_DECODER, _QKV + "self_attn.o_proj h,q block_sparse_moe.gate ?,h "
               "block_sparse_moe.experts.{}.w1 i,h block_sparse_moe.experts.{}.w2 h,i "
               "block_sparse_moe.experts.{}.w3 i,h mlp.gate ?,h "
               "mlp.experts.gate_up_proj 2i,h mlp.experts.down_proj h,i"), _HEAD,
    ),
    _family(
        "qwen2_moe", 0.003, "model.", r"qwen[-_ ]?(1\.5|2)[-_]?moe",
        _block(_DECODER, _QKV + "self_attn.o_proj h,q " + _GATED + "mlp.gate ?,h "
               "mlp.experts.{}.gate_proj ?,h mlp.experts.{}.up_proj ?,h mlp.experts.{}.down_proj h,? "
               "mlp.experts.gate_up_proj ?,h mlp.experts.down_proj h,? "
               "mlp.shared_expert.gate_proj ?,h mlp.shared_expert.up_proj ?,h mlp.shared_expert.down_proj h,?"),
        _HEAD,
    ),
    _family(
        "starcoder2", 0.005, "model.", r"starcoder2",
        _block(_DECODER, _QKV + "self_attn.o_proj h,q mlp.c_fc i,h mlp.c_proj h,i"), _HEAD,
    ),
    _family(
        "persimmon", 0.002, "model.", r"persimmon|fuyu",
        _fused(_DECODER, "self_attn", "mlp", "3h,h"), _HEAD,
    ),
    _family(
        "baichuan", 0.005, "model.", r"baichuan",
        _block(_DECODER, "self_attn.W_pack 3h,h self_attn.o_proj h,h " + _GATED), _HEAD,
    ),
    _family(
        "internlm2", 0.003, "model.", r"internlm2",
        _block(_DECODER, "attention.wqkv q+2k,h attention.wo h,q feed_forward.w1 i,h feed_forward.w2 h,i feed_forward.w3 i,h"),
    ),
    _family("gpt2", 0.05, "transformer.", r"(?<![a-z])gpt-?2|dialogpt", _GPT2),
    _family(
        "gpt_neo", 0.01, "transformer.", r"gpt-neo(?!x)",
        _block("transformer.h.{}.", "attn.attention.q_proj h,h attn.attention.k_proj h,h "
               "attn.attention.v_proj h,h attn.attention.out_proj h,h mlp.c_fc i,h mlp.c_proj h,i"),
    ),
    _family(
        "gptj", 0.008, "transformer.", r"gpt-?j",
        _block("transformer.h.{}.", "attn.q_proj h,h attn.k_proj h,h attn.v_proj h,h attn.out_proj h,h mlp.fc_in i,h mlp.fc_out h,i"),
    ),
    _family(
        "codegen", 0.004, "transformer.", r"codegen",
        _block("transformer.h.{}.", "attn.qkv_proj 3h,h attn.out_proj h,h mlp.fc_in i,h mlp.fc_out h,i"),
    ),
    _family(
        "gpt_neox", 0.02, "gpt_neox.", r"pythia|gpt-neox|dolly|redpajama",
        _fused("gpt_neox.layers.{}.", "attention", "mlp", "3h,h"),
        _block("", "gpt_neox.embed_in h,v embed_out v,h"),
    ),
    _family("opt", 0.02, "model.", r"(?<![a-z])opt-", _OPT),
    _family("bloom", 0.02, "transformer.", r"bloom", _fused("transformer.h.{}.", "self_attention", "mlp", "3h,h")),
    _family("falcon", 0.02, "transformer.", r"falcon", _fused("transformer.h.{}.", "self_attention", "mlp", "q+2k,h")),
    _family("mpt", 0.005, "transformer.", r"(?<![a-z])mpt-", _block("transformer.blocks.{}.", "attn.Wqkv 3h,h attn.out_proj h,h ffn.up_proj i,h ffn.down_proj h,i")),
    _family(
        "chatglm", 0.02, "transformer.", r"chatglm|glm-4-9b",
        _fused("transformer.encoder.layers.{}.", "self_attention", "mlp", "?,h"),
        _fused("transformer.layers.{}.", "attention", "mlp", "3h,h"),
    ),
    _family("bert", 0.03, "bert.", r"(?<![a-z])bert", _encoder("bert.")),
    _family("roberta", 0.03, "roberta.", r"(?<!xlm-)roberta", _encoder("roberta.")),
    _family("xlm-roberta", 0.006, "roberta.", r"xlm-?r", _encoder("roberta.")),
    _family("big_bird", 0.001, "bert.", r"big-?bird", _encoder("bigbird.")),
    _family("electra", 0.002, "electra.", r"electra", _encoder("electra.")),
    _family(
        "distilbert", 0.02, "distilbert.", r"distilbert",
        _block("distilbert.transformer.layer.{}.", "attention.q_lin h,h attention.k_lin h,h "
               "attention.v_lin h,h attention.out_lin h,h ffn.lin1 i,h ffn.lin2 h,i"),
    ),
    _family(
        "deberta-v2", 0.01, "deberta.", r"deberta",
        _block("deberta.encoder.layer.{}.", "attention.self.query_proj h,h attention.self.key_proj h,h "
               "attention.self.value_proj h,h attention.output.dense h,h intermediate.dense i,h output.dense h,i"),
    ),
    _family("t5", 0.03, "", r"(?<![a-z])(flan-)?t5|codet5(?!p)", _T5),
    _family("mt5", 0.005, "", r"mt5|mt0", _T5),
    _family("bart", 0.01, "model.", r"(?<![a-z])bart", _BART),
    _family("mbart", 0.003, "model.", r"mbart", _BART),
    _family("whisper", 0.01, "model.", r"whisper", _BART),
    _family("wav2vec2", 0.003, "wav2vec2.", r"wav2vec|xls-r", _WAV),
    _family("vit", 0.01, "vit.", r"(?<![a-z])vit-", _VIT_OLD, _block("vit.layers.{}.", "attention.q_proj h,h attention.k_proj h,h attention.v_proj h,h attention.o_proj h,h mlp.fc1 i,h mlp.fc2 h,i")),
    _family(
        "clip", 0.01, "", r"(?<![a-z])clip",
        _block("text_model.encoder.layers.{}.", _CLIP_BLOCK), _block("vision_model.encoder.layers.{}.", _CLIP_BLOCK),
    ),
    _family("stable-diffusion", 0.03, "", r"stable-diffusion|sdxl", _UNET, {f"unet.{k}": v for k, v in _UNET.items()}),
)  # fmt: skip
BY_NAME: Mapping[str, Family] = {family.name: family for family in FAMILIES}
_SAME_NAMES = {"bigbird": "bert", "mixformer-sequential": "phi", "phi-msft": "phi"}


def family_of_model_type(model_type: str) -> Family | None:
    """The family of a ``config.json``'s ``model_type``."""
    return BY_NAME.get(_SAME_NAMES.get(model_type, model_type))
>>>>>>> main
