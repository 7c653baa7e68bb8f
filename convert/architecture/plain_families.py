"""Families that transformers has no class for: remote code, diffusion models; and old names.

The place for a family that the catalogue cannot be generated for. Rows are written
``name out,in`` in short symbols: ``h`` hidden, ``i`` intermediate, ``q`` query width (heads ×
head size), ``k`` key/value width, ``v`` vocabulary, ``w`` an image tower's hidden, ``?`` anything;
``3h``, ``q+2k`` are sums.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from adaptrix.convert.architecture.family import Family
from adaptrix.convert.architecture.formula import UNKNOWN_SIZE
from adaptrix.convert.architecture.shape import Shape, Shapes

_SYMBOLS: Mapping[str, str] = {
    "h": "hidden_size", "w": "vision_config.hidden_size", "i": "intermediate_size", "v": "vocab_size",
    "q": "head_dim*num_attention_heads", "k": "head_dim*num_key_value_heads",
}  # fmt: skip
_DEFAULTS: Mapping[str, str] = {
    "head_dim": "hidden_size/num_attention_heads",
    "num_key_value_heads": "num_attention_heads",
}


def _formula(side: str) -> str:
    found = []
    for count, symbol in re.findall(r"(\d*)([hiqkvw])", side):
        found.append(f"{count}*{_SYMBOLS[symbol]}" if count else _SYMBOLS[symbol])
    return "+".join(found) or UNKNOWN_SIZE


def _block(prefix: str, rows: str, count: str = "num_hidden_layers") -> dict[str, Shapes]:
    """``"self_attn.q_proj q,h  mlp.fc1 i,h"`` under ``prefix``, which is repeated ``count`` times."""
    words = rows.split()
    count = count if "{}" in prefix else ""
    return {
        f"{prefix}{name}": (
            Shape(sizes=tuple(_formula(side) for side in sides.split(",")), count=count),
        )
        for name, sides in zip(words[::2], words[1::2], strict=True)
    }


def _family(
    name: str, root: str, *groups: Mapping[str, Shapes], heads: Mapping[str, Shapes] | None = None
) -> Family:
    modules = {path: shapes for group in groups for path, shapes in group.items()}
    roots = (root,) if root else ()
    return Family(name=name, roots=roots, modules=modules, heads=heads or {}, defaults=_DEFAULTS)


_QKV = "self_attn.q_proj q,h self_attn.k_proj k,h self_attn.v_proj k,h self_attn.o_proj h,q "
_GATED = "mlp.gate_proj i,h mlp.up_proj i,h mlp.down_proj h,i "
_EMBED = _block("", "embed_tokens h,v")
_HEAD = _block("", "lm_head v,h")
_FUSED = "{0}.query_key_value {2},h {0}.dense h,h {1}.dense_h_to_4h ?,h {1}.dense_4h_to_h h,i"
_UNET = {
    f"{place}.transformer_blocks.{{}}.{module}": (Shape(sizes=(UNKNOWN_SIZE,) * 2),)
    for place in ("down_blocks.{}.attentions.{}", "up_blocks.{}.attentions.{}", "mid_block.attentions.{}")
    for module in (
        *(f"attn{n}.{p}" for n in (1, 2) for p in ("to_q", "to_k", "to_v", "to_out.{}", "to_out")),
        "ff.net.{}.proj", "ff.net.{}",
    )
}  # fmt: skip

_SPLIT = "attention.wqkv q+2k,h attention.wo h,q feed_forward.w1 i,h feed_forward.w2 h,i feed_forward.w3 i,h"
_TOWER = "self_attn.q_proj ?,? self_attn.k_proj ?,? self_attn.v_proj ?,? self_attn.out_proj ?,? mlp.fc1 ?,? mlp.fc2 ?,?"
_TIMM = "attn.qkv 3h,h attn.proj h,h mlp.fc1 i,h mlp.fc2 h,i"
_TIMM_TOWER = "attn.qkv ?,? attn.proj ?,? mlp.fc1 ?,? mlp.fc2 ?,?"
_VISION = "vision_config.num_hidden_layers"
_LATENT = (
    "self_attn.q_proj ?,h self_attn.kv_a_proj_with_mqa ?,h self_attn.kv_b_proj ?,? self_attn.o_proj h,? "
    "mlp.shared_experts.gate_proj ?,h mlp.shared_experts.up_proj ?,h mlp.shared_experts.down_proj h,? "
)
_DECODER = (
    "{0}.q_proj h,h {0}.k_proj h,h {0}.v_proj h,h {0}.out_proj h,h "
    "{1}.q_proj h,h {1}.k_proj h,h {1}.v_proj h,h {1}.out_proj h,h fc1 i,h fc2 h,i"
).format("self_attn", "encoder_attn")
_PER_LAYER = (
    "laurel.linear_left ?,h laurel.linear_right h,? per_layer_input_gate ?,h "
    "per_layer_projection h,? altup.modality_router ?,h altup.prediction_coefs ?,? altup.correction_coefs ?,?"
)

_BERT_LIKE = (
    "attention.attention.query h,h attention.attention.key h,h attention.attention.value h,h "
    "attention.output.dense h,h intermediate.dense i,h output.dense h,i"
)

PLAIN_FAMILIES: tuple[Family, ...] = (
    _family("minicpm", "model.", _block("layers.{}.", _QKV + _GATED), _EMBED, heads=_HEAD),
    _family("hunyuan_v1_dense", "model.", _block("layers.{}.", _QKV + _GATED), _EMBED, heads=_HEAD),
    _family("internlm", "model.", _block("layers.{}.", _QKV + _GATED), _EMBED, heads=_HEAD),
    _family(
        "baichuan", "model.",
        _block("layers.{}.", "self_attn.W_pack 3h,h self_attn.o_proj h,h " + _GATED), _EMBED, heads=_HEAD,
    ),
    _family(
        "internlm2", "model.",
        _block("layers.{}.", _SPLIT),
        _block("", "tok_embeddings h,v"), heads=_block("", "output v,h"),
    ),
    _family(
        "qwen", "transformer.",
        _block("h.{}.", "attn.c_attn 3h,h attn.c_proj h,h mlp.w1 ?,h mlp.w2 ?,h mlp.c_proj h,?"),
        _block("", "wte h,v"), heads=_HEAD,
    ),
    _family(
        "chatglm", "transformer.",
        _block("encoder.layers.{}.", _FUSED.format("self_attention", "mlp", "?")),
        _block("layers.{}.", _FUSED.format("attention", "mlp", "3h")),
        _block("", "embedding.word_embeddings h,v word_embeddings h,v output_layer v,h"), heads=_HEAD,
    ),
    _family(
        "exaone", "transformer.",
        _block("h.{}.", "attn.attention.q_proj q,h attn.attention.k_proj k,h attn.attention.v_proj k,h "
               "attn.attention.out_proj h,q mlp.c_fc_0 i,h mlp.c_fc_1 i,h mlp.c_proj h,i"),
        _block("", "wte h,v"), heads=_HEAD,
    ),
    _family(
        "llada", "model.transformer.",
        _block("blocks.{}.", "q_proj q,h k_proj k,h v_proj k,h attn_out h,q ff_proj i,h up_proj i,h ff_out h,i"),
        _block("", "wte h,v ff_out v,h"),
    ),
    _family(
        "molmo", "model.transformer.",
        _block("blocks.{}.", "att_proj q+2k,h attn_out h,q ff_proj ?,h ff_out h,?"),
        _block("", "ff_out v,h"),
    ),
    _family(
        "esmc", "",
        _block("transformer.blocks.{}.", "attn.layernorm_qkv.{} 3h,h attn.out_proj h,h ffn.{} ?,?"),
    ),
    _family("stable-diffusion", "unet.", _UNET),
    _family(
        "timm", "",
        _block("blocks.{}.", _TIMM), _block("timm_model.blocks.{}.", _TIMM),
        heads=_block("", "head ?,h"),
    ),
    _family(
        "internvl_chat", "",
        _block("language_model.model.layers.{}.", _QKV + _GATED),
        _block("language_model.model.layers.{}.", _SPLIT),
        _block("language_model.model.layers.{}.", "self_attn.qkv_proj q+2k,h mlp.gate_up_proj 2i,h"),
        _block("vision_model.encoder.layers.{}.", _TIMM_TOWER, _VISION),
        _block("", "mlp1.{} ?,? language_model.lm_head v,h language_model.output v,h"),
    ),
    _family(
        "minicpmv", "",
        _block("llm.model.layers.{}.", _QKV + _GATED),
        _block("vpm.encoder.layers.{}.", _TOWER, _VISION), _block("vpm.blocks.{}.", _TIMM_TOWER, _VISION),
        _block("", "resampler.kv_proj ?,? resampler.attn.out_proj ?,? llm.lm_head v,h"),
    ),
    _family(
        "kimi_vl", "",
        _block("language_model.model.layers.{}.", _LATENT + _GATED),
        _block("vision_tower.encoder.blocks.{}.", "wqkv ?,? wo ?,? mlp.fc0 ?,? mlp.fc1 ?,?", _VISION),
        _block("", "multi_modal_projector.linear_1 ?,? multi_modal_projector.linear_2 h,?"),
    ),
    _family(
        "gemma3n", "",
        *(_block(f"{root}layers.{{}}.", _QKV + _GATED + _PER_LAYER)
          for root in ("model.language_model.", "language_model.", "language_model.model.")),
        _block("", "lm_head v,h model.embed_vision.embedding_projection ?,? model.embed_audio.embedding_projection ?,?"),
    ),
    _family(
        "musicgen", "", _block("decoder.model.decoder.layers.{}.", _DECODER),
        _block("", "decoder.lm_heads.{} v,h enc_to_dec_proj h,?"),
    ),
    _family(
        "videomae", "videomae.",
        _block("encoder.layer.{}.", _BERT_LIKE), heads=_block("", "fc_norm ?,h"),
    ),
    _family(
        "eva-clip", "",
        _block("visual.blocks.{}.", "attn.q_proj h,h attn.k_proj h,h attn.v_proj h,h attn.proj h,h "
               "mlp.w1 i,h mlp.w2 i,h mlp.w3 h,i"),
    ),
)  # fmt: skip
"""Families without a transformers class, by the names of the code that they come with."""

_PHI_OLD = "mixer.Wqkv 3h,h mixer.out_proj h,h mlp.fc1 i,h mlp.fc2 h,i "
_SAM = "attn.qkv 3w,w attn.proj w,w mlp.lin1 ?,w mlp.lin2 w,?"
_EXPERTS = (
    "block_sparse_moe.gate ?,h block_sparse_moe.experts.{}.w1 i,h "
    "block_sparse_moe.experts.{}.w2 h,i block_sparse_moe.experts.{}.w3 i,h"
)
FORMER_NAMES: Mapping[str, Mapping[str, Shapes]] = {
    "phi": {
        **_block("transformer.h.{}.", _PHI_OLD), **_block("h.{}.", _PHI_OLD),
        **_block("layers.{}.", _PHI_OLD),
        **_block("model.layers.{}.", "self_attn.query_key_value 3h,h self_attn.o_proj h,h"),
        **_block("layers.{}.", "self_attn.query_key_value 3h,h self_attn.o_proj h,h"),
        **_block("", "transformer.embd.wte h,v embd.wte h,v lm_head.linear v,h layers.0.wte h,v"),
    },
    "mixtral": {**_block("model.layers.{}.", _EXPERTS), **_block("layers.{}.", _EXPERTS)},
    "vit": {
        **_block("vit.encoder.layer.{}.", _BERT_LIKE), **_block("encoder.layer.{}.", _BERT_LIKE),
    },
    "clip": {
        **{
            f"{tower}.encoder.layers.{{}}.{name}": shapes
            for tower in ("text_model", "vision_model")
            for name, shapes in _block(
                "", "self_attn.q_proj h,h self_attn.k_proj h,h self_attn.v_proj h,h "
                "self_attn.out_proj h,h mlp.fc1 i,h mlp.fc2 h,i",
            ).items()
        },
        # OpenCLIP; its two towers have widths of their own.
        **{
            f"{tower}transformer.resblocks.{{}}.{name}": shapes
            for tower in ("visual.", "", "text.")
            for name, shapes in _block(
                "", "attn ?,? attn.base_layer.out_proj ?,? attn.out_proj ?,? mlp.c_fc ?,? mlp.c_proj ?,?",
            ).items()
        },
    },
    "florence2": {
        **_block("language_model.model.decoder.layers.{}.", _DECODER, "text_config.decoder_layers"),
        **_block(
            "language_model.model.encoder.layers.{}.",
            "self_attn.q_proj h,h self_attn.k_proj h,h self_attn.v_proj h,h self_attn.out_proj h,h "
            "fc1 i,h fc2 h,i", "text_config.encoder_layers",
        ),
        **_block("", "language_model.lm_head v,h"),
    },
    "deepseek_vl": _block("language_model.model.layers.{}.", _QKV + _GATED),
    "sam": {
        **_block("image_encoder.blocks.{}.", _SAM, _VISION), **_block("blocks.{}.", _SAM, _VISION),
    },
    # As timm's, from which their first code was made.
    "dinov2": {**_block("blocks.{}.", _TIMM), **_block("blocks.{}.{}.", _TIMM)},
    "vit_mae": _block("blocks.{}.", _TIMM),
}  # fmt: skip
"""Names that older classes or remote code of a catalogue type had, with their shapes."""
_HYBRID = _QKV + "mamba.in_proj ?,h mamba.out_proj h,?"
UNBUILT_NAMES: Mapping[str, Mapping[str, Shapes]] = {
    "granitemoehybrid": {
        **_block(
            "model.layers.{}.", _HYBRID + " shared_mlp.input_linear ?,h shared_mlp.output_linear h,?"
        ),
    },
    "bamba": _block("model.layers.{}.", _HYBRID + " " + _GATED.replace("mlp.", "feed_forward.")),
    # Its sizes hang together (heads × their size = expand × hidden), which no default can vary.
    "mamba2": {
        "backbone.layers.{}.mixer.in_proj": (
            Shape(
                sizes=("2*expand*hidden_size+2*n_groups*state_size+num_heads", "hidden_size"),
                count="num_hidden_layers",
            ),
        ),
        "backbone.layers.{}.mixer.out_proj": (
            Shape(sizes=("hidden_size", "expand*hidden_size"), count="num_hidden_layers"),
        ),
    },
}  # fmt: skip
"""Names of a catalogue type that its default configuration has not, or not with their sizes:
all its layers are of one kind, or one size follows from another."""
SAME_FAMILY: Mapping[str, str] = {
    "bigbird": "big_bird", "mixformer-sequential": "phi", "phi-msft": "phi",
}  # fmt: skip
"""Model types that earlier releases or remote code wrote, to the current one."""
