"""Model families as data: module names with the shapes of their weights, in symbols.

A weight's shape is written ``out,in`` in the symbols of :class:`~.dimensions.Dimensions`:
``h`` hidden, ``i`` intermediate, ``q`` query width (heads × head size), ``k`` key/value
width, ``v`` vocabulary; ``3h`` and ``q+2k`` are sums of them; ``?`` is anything. Names are
those of the transformers classes (5.x), or of the remote code where that came first.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One family.

    Attributes:
        name: transformers' ``model_type``, or a plain name.
        prior: Share of public adapters that are made for it, roughly.
        modules: Shape by module path, layer numbers written ``{}``.
        root: First part of paths that a headless class lacks, e.g. ``model.``.
        words: Matches base model names of the family.
    """

    name: str
    prior: float
    modules: Mapping[str, str]
    root: str = ""
    words: re.Pattern[str]


def _family(name: str, prior: float, root: str, words: str, *groups: Mapping[str, str]) -> Family:
    modules = {path: shape for group in groups for path, shape in group.items()}
    pattern = re.compile(words, re.IGNORECASE)
    return Family(name=name, prior=prior, modules=modules, root=root, words=pattern)


def _block(prefix: str, rows: str) -> dict[str, str]:
    """``"self_attn.q_proj q,h  mlp.fc1 i,h"`` under ``prefix``."""
    words = rows.split()
    return {f"{prefix}{n}": s for n, s in zip(words[::2], words[1::2], strict=True)}


_DECODER = "model.layers.{}."
_QKV = "self_attn.q_proj q,h self_attn.k_proj k,h self_attn.v_proj k,h "
_GATED = "mlp.gate_proj i,h mlp.up_proj i,h mlp.down_proj h,i "
_HEAD = _block("", "model.embed_tokens h,v lm_head v,h")
_LLAMA = {**_block(_DECODER, _QKV + "self_attn.o_proj h,q " + _GATED), **_HEAD}
_PHI_MLP = "mlp.fc1 i,h mlp.fc2 h,i "
_PHI_OLD = "mixer.Wqkv 3h,h mixer.out_proj h,h " + _PHI_MLP
_PHI = {
    **_block(_DECODER, "self_attn.q_proj h,h self_attn.k_proj k,h self_attn.v_proj k,h "),
    **_block(_DECODER, "self_attn.dense h,h self_attn.o_proj h,h " + _PHI_MLP),
    **_block(_DECODER, "self_attn.query_key_value 3h,h"),
    **_block("transformer.h.{}.", _PHI_OLD), **_block("h.{}.", _PHI_OLD),
    **_block("layers.{}.", _PHI_OLD),
    **_block("", "transformer.embd.wte h,v lm_head.linear v,h layers.0.wte h,v"), **_HEAD,
}  # fmt: skip
_GPT2 = {
    **_block("transformer.h.{}.", "attn.c_attn 3h,h attn.c_proj h,h mlp.c_fc i,h mlp.c_proj h,i"),
    **_block("", "transformer.wte h,v lm_head v,h"),
}  # fmt: skip
_BERT_BLOCK = (
    "attention.self.query h,h attention.self.key h,h attention.self.value h,h "
    "attention.output.dense h,h intermediate.dense i,h output.dense h,i "
)
_T5 = {
    **_block("encoder.block.{}.layer.{}.SelfAttention.", "q q,h k q,h v q,h o h,q"),
    **_block("encoder.block.{}.layer.{}.DenseReluDense.", "wi i,h wi_0 i,h wi_1 i,h wo h,i"),
    **_block("decoder.block.{}.layer.{}.SelfAttention.", "q q,h k q,h v q,h o h,q"),
    **_block("decoder.block.{}.layer.{}.EncDecAttention.", "q q,h k q,h v q,h o h,q"),
    **_block("decoder.block.{}.layer.{}.DenseReluDense.", "wi i,h wi_0 i,h wi_1 i,h wo h,i"),
    **_block("", "shared h,v lm_head v,h"),
}
_SEQ = "q_proj h,h k_proj h,h v_proj h,h out_proj h,h "
_BART = {
    **_block("model.encoder.layers.{}.self_attn.", _SEQ),
    **_block("model.decoder.layers.{}.self_attn.", _SEQ),
    **_block("model.decoder.layers.{}.encoder_attn.", _SEQ),
    **_block("model.encoder.layers.{}.", "fc1 i,h fc2 h,i"),
    **_block("model.decoder.layers.{}.", "fc1 i,h fc2 h,i"), **_block("", "lm_head v,h"),
}  # fmt: skip
_OPT = {
    **_block("model.decoder.layers.{}.self_attn.", _SEQ),
    **_block("model.decoder.layers.{}.", "fc1 i,h fc2 h,i"),
    **_block("", "model.decoder.embed_tokens ?,v lm_head v,?"),
}
_CLIP_BLOCK = "self_attn.q_proj h,h self_attn.k_proj h,h self_attn.v_proj h,h self_attn.out_proj h,h mlp.fc1 i,h mlp.fc2 h,i"  # fmt: skip
_UNET = {
    f"{place}.transformer_blocks.{{}}.{module}": "?,?"
    for place in ("down_blocks.{}.attentions.{}", "up_blocks.{}.attentions.{}", "mid_block.attentions.{}")
    for module in (
        *(f"attn{n}.{p}" for n in (1, 2) for p in ("to_q", "to_k", "to_v", "to_out.{}", "to_out")),
        "ff.net.{}.proj", "ff.net.{}",
    )
}  # fmt: skip
_VIT_OLD = _block(
    "vit.encoder.layer.{}.",
    "attention.attention.query h,h attention.attention.key h,h attention.attention.value h,h "
    "attention.output.dense h,h intermediate.dense i,h output.dense h,i",
)
_WAV = _block(
    "wav2vec2.encoder.layers.{}.",
    "attention.q_proj h,h attention.k_proj h,h attention.v_proj h,h attention.out_proj h,h "
    "feed_forward.intermediate_dense i,h feed_forward.output_dense h,i",
)


def _encoder(root: str, layer: str = "encoder.layer.{}.") -> dict[str, str]:
    return _block(f"{root}{layer}", _BERT_BLOCK)


def _fused(prefix: str, attention: str, mlp: str, rows: str) -> dict[str, str]:
    return _block(
        prefix,
        f"{attention}.query_key_value {rows} {attention}.dense h,h "
        f"{mlp}.dense_h_to_4h i,h {mlp}.dense_4h_to_h h,i",
    )


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
