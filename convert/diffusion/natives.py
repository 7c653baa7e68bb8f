"""Names of modules in the code that models were first published with, beside diffusers'.

Left: the original name with ``_`` for dots and ``{}`` for numbers. Right: the paths in
diffusers' class; three or four of them share the rows of one fused layer, in this order. A
``~`` before the path swaps the two halves of the rows: diffusers keeps scale before shift
where the originals have shift first (``AdaLayerNormContinuous``); ``?`` does so for the last
block, whose layer has two parts instead of six. Sources: black-forest-labs/flux
``model.py``, Stability-AI/sd3-ref ``mmditx.py``, Wan-Video/Wan2.1 ``model.py``,
Tencent/HunyuanVideo ``models.py``, and the conversion scripts in diffusers' ``scripts/``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

_FLUX = """
double_blocks_{}_img_attn_qkv transformer_blocks.{}.attn.to_q transformer_blocks.{}.attn.to_k transformer_blocks.{}.attn.to_v
double_blocks_{}_img_attn_proj transformer_blocks.{}.attn.to_out.0
double_blocks_{}_img_mlp_0 transformer_blocks.{}.ff.net.0.proj
double_blocks_{}_img_mlp_2 transformer_blocks.{}.ff.net.2
double_blocks_{}_img_mod_lin transformer_blocks.{}.norm1.linear
double_blocks_{}_txt_attn_qkv transformer_blocks.{}.attn.add_q_proj transformer_blocks.{}.attn.add_k_proj transformer_blocks.{}.attn.add_v_proj
double_blocks_{}_txt_attn_proj transformer_blocks.{}.attn.to_add_out
double_blocks_{}_txt_mlp_0 transformer_blocks.{}.ff_context.net.0.proj
double_blocks_{}_txt_mlp_2 transformer_blocks.{}.ff_context.net.2
double_blocks_{}_txt_mod_lin transformer_blocks.{}.norm1_context.linear
single_blocks_{}_linear1 single_transformer_blocks.{}.attn.to_q single_transformer_blocks.{}.attn.to_k single_transformer_blocks.{}.attn.to_v single_transformer_blocks.{}.proj_mlp
single_blocks_{}_linear2 single_transformer_blocks.{}.proj_out
single_blocks_{}_modulation_lin single_transformer_blocks.{}.norm.linear
img_in x_embedder
txt_in context_embedder
time_in_in_layer time_text_embed.timestep_embedder.linear_1
time_in_out_layer time_text_embed.timestep_embedder.linear_2
vector_in_in_layer time_text_embed.text_embedder.linear_1
vector_in_out_layer time_text_embed.text_embedder.linear_2
guidance_in_in_layer time_text_embed.guidance_embedder.linear_1
guidance_in_out_layer time_text_embed.guidance_embedder.linear_2
final_layer_linear proj_out
final_layer_adaLN_modulation_1 ~norm_out.linear
"""
_XLABS = """
double_blocks_{}_processor_qkv_lora1 transformer_blocks.{}.attn.to_q transformer_blocks.{}.attn.to_k transformer_blocks.{}.attn.to_v
double_blocks_{}_processor_proj_lora1 transformer_blocks.{}.attn.to_out.0
double_blocks_{}_processor_qkv_lora2 transformer_blocks.{}.attn.add_q_proj transformer_blocks.{}.attn.add_k_proj transformer_blocks.{}.attn.add_v_proj
double_blocks_{}_processor_proj_lora2 transformer_blocks.{}.attn.to_add_out
single_blocks_{}_processor_qkv_lora single_transformer_blocks.{}.attn.to_q single_transformer_blocks.{}.attn.to_k single_transformer_blocks.{}.attn.to_v
single_blocks_{}_processor_proj_lora single_transformer_blocks.{}.proj_out
"""
_SD3 = """
joint_blocks_{}_x_block_attn_qkv transformer_blocks.{}.attn.to_q transformer_blocks.{}.attn.to_k transformer_blocks.{}.attn.to_v
joint_blocks_{}_x_block_attn_proj transformer_blocks.{}.attn.to_out.0
joint_blocks_{}_x_block_attn2_qkv transformer_blocks.{}.attn2.to_q transformer_blocks.{}.attn2.to_k transformer_blocks.{}.attn2.to_v
joint_blocks_{}_x_block_attn2_proj transformer_blocks.{}.attn2.to_out.0
joint_blocks_{}_x_block_mlp_fc1 transformer_blocks.{}.ff.net.0.proj
joint_blocks_{}_x_block_mlp_fc2 transformer_blocks.{}.ff.net.2
joint_blocks_{}_x_block_adaLN_modulation_1 transformer_blocks.{}.norm1.linear
joint_blocks_{}_context_block_attn_qkv transformer_blocks.{}.attn.add_q_proj transformer_blocks.{}.attn.add_k_proj transformer_blocks.{}.attn.add_v_proj
joint_blocks_{}_context_block_attn_proj transformer_blocks.{}.attn.to_add_out
joint_blocks_{}_context_block_mlp_fc1 transformer_blocks.{}.ff_context.net.0.proj
joint_blocks_{}_context_block_mlp_fc2 transformer_blocks.{}.ff_context.net.2
joint_blocks_{}_context_block_adaLN_modulation_1 ?transformer_blocks.{}.norm1_context.linear
x_embedder_proj pos_embed.proj
t_embedder_mlp_0 time_text_embed.timestep_embedder.linear_1
t_embedder_mlp_2 time_text_embed.timestep_embedder.linear_2
y_embedder_mlp_0 time_text_embed.text_embedder.linear_1
y_embedder_mlp_2 time_text_embed.text_embedder.linear_2
"""
_WAN = """
blocks_{}_self_attn_q blocks.{}.attn1.to_q
blocks_{}_self_attn_k blocks.{}.attn1.to_k
blocks_{}_self_attn_v blocks.{}.attn1.to_v
blocks_{}_self_attn_o blocks.{}.attn1.to_out.0
blocks_{}_cross_attn_q blocks.{}.attn2.to_q
blocks_{}_cross_attn_k blocks.{}.attn2.to_k
blocks_{}_cross_attn_v blocks.{}.attn2.to_v
blocks_{}_cross_attn_o blocks.{}.attn2.to_out.0
blocks_{}_cross_attn_k_img blocks.{}.attn2.add_k_proj
blocks_{}_cross_attn_v_img blocks.{}.attn2.add_v_proj
blocks_{}_ffn_0 blocks.{}.ffn.net.0.proj
blocks_{}_ffn_2 blocks.{}.ffn.net.2
text_embedding_0 condition_embedder.text_embedder.linear_1
text_embedding_2 condition_embedder.text_embedder.linear_2
time_embedding_0 condition_embedder.time_embedder.linear_1
time_embedding_2 condition_embedder.time_embedder.linear_2
time_projection_1 condition_embedder.time_proj
img_emb_proj_1 condition_embedder.image_embedder.ff.net.0.proj
img_emb_proj_3 condition_embedder.image_embedder.ff.net.2
head_head proj_out
"""
_HUNYUAN_VIDEO = """
double_blocks_{}_img_mlp_fc1 transformer_blocks.{}.ff.net.0.proj
double_blocks_{}_img_mlp_fc2 transformer_blocks.{}.ff.net.2
double_blocks_{}_img_mod_linear transformer_blocks.{}.norm1.linear
double_blocks_{}_txt_mlp_fc1 transformer_blocks.{}.ff_context.net.0.proj
double_blocks_{}_txt_mlp_fc2 transformer_blocks.{}.ff_context.net.2
double_blocks_{}_txt_mod_linear transformer_blocks.{}.norm1_context.linear
double_blocks_{}_img_attn_qkv transformer_blocks.{}.attn.to_q transformer_blocks.{}.attn.to_k transformer_blocks.{}.attn.to_v
double_blocks_{}_img_attn_proj transformer_blocks.{}.attn.to_out.0
double_blocks_{}_txt_attn_qkv transformer_blocks.{}.attn.add_q_proj transformer_blocks.{}.attn.add_k_proj transformer_blocks.{}.attn.add_v_proj
double_blocks_{}_txt_attn_proj transformer_blocks.{}.attn.to_add_out
single_blocks_{}_linear1 single_transformer_blocks.{}.attn.to_q single_transformer_blocks.{}.attn.to_k single_transformer_blocks.{}.attn.to_v single_transformer_blocks.{}.proj_mlp
single_blocks_{}_linear2 single_transformer_blocks.{}.proj_out
single_blocks_{}_modulation_linear single_transformer_blocks.{}.norm.linear
"""


@dataclass(frozen=True, slots=True)
class Row:
    """One module of the first code: its flat name, and its paths in diffusers."""

    native: str
    paths: tuple[str, ...]


def _rows(text: str) -> tuple[Row, ...]:
    split = (line.split() for line in text.strip().splitlines())
    return tuple(Row(native, tuple(paths)) for native, *paths in split)


NATIVES: Mapping[str, tuple[Row, ...]] = {
    "flux": _rows(_FLUX), "xlabs": _rows(_XLABS), "sd3": _rows(_SD3), "wan": _rows(_WAN),
    "hunyuan-video": _rows(_HUNYUAN_VIDEO),
}  # fmt: skip
"""Rows by naming; where two namings share a row, they agree (a test holds that)."""
FLUX_NORMS: Mapping[str, str] = {
    "double_blocks.{}.img_attn.norm.query_norm.scale": "transformer_blocks.{}.attn.norm_q.weight",
    "double_blocks.{}.img_attn.norm.key_norm.scale": "transformer_blocks.{}.attn.norm_k.weight",
    "double_blocks.{}.txt_attn.norm.query_norm.scale": "transformer_blocks.{}.attn.norm_added_q.weight",
    "double_blocks.{}.txt_attn.norm.key_norm.scale": "transformer_blocks.{}.attn.norm_added_k.weight",
    "single_blocks.{}.norm.query_norm.scale": "single_transformer_blocks.{}.attn.norm_q.weight",
    "single_blocks.{}.norm.key_norm.scale": "single_transformer_blocks.{}.attn.norm_k.weight",
}
"""Norms that Flux's control LoRA replaces outright."""
