"""Published models and models of one's own, with the names and sizes that their code gives them.

A row: what it is, the declared base, the families that are right, layers, a prefix, and names
with ``out,in`` (``;`` before a second shape, which every sixth layer has).
"""

import pytest

from adaptrix.convert.architecture.claims import told
from adaptrix.convert.architecture.detect import Claims, Observation, detect

PUBLISHED = """
timm ViT-B qkv | timm/vit_base_patch16_224.augreg_in21k | timm | 12 | blocks.{}. | attn.qkv 2304,768
timm ViT-B fc1 | timm/vit_base_patch16_224.augreg_in21k | timm | 12 | blocks.{}. | mlp.fc1 3072,768
timm ViT-B all | timm/vit_base_patch16_224.augreg_in21k | timm | 12 | blocks.{}. | attn.qkv 2304,768 attn.proj 768,768 mlp.fc1 3072,768 mlp.fc2 768,3072
timm ViT-S fc | timm/vit_small_patch16_224.augreg_in1k | timm | 12 | blocks.{}. | mlp.fc1 1536,384 mlp.fc2 384,1536
timm ViT-L qkv | vit_large_patch16_224 | timm | 24 | blocks.{}. | attn.qkv 3072,1024 attn.proj 1024,1024
GLM-4.5-Air attn | zai-org/GLM-4.5-Air | glm4_moe | 46 | model.layers.{}. | self_attn.q_proj 12288,4096 self_attn.k_proj 1024,4096 self_attn.v_proj 1024,4096 self_attn.o_proj 4096,12288
GLM-4.5-Air qv | unsloth/GLM-4.5-Air-bnb-4bit | glm4_moe | 46 | model.layers.{}. | self_attn.q_proj 12288,4096 self_attn.v_proj 1024,4096
GLM-4.5 attn | zai-org/GLM-4.5 | glm4_moe | 92 | model.layers.{}. | self_attn.q_proj 12288,5120 self_attn.k_proj 1024,5120
gemma-3n E4B attn | google/gemma-3n-E4B-it | gemma3n | 35 | model.language_model.layers.{}. | self_attn.q_proj 2048,2048 self_attn.k_proj 512,2048 self_attn.v_proj 512,2048 self_attn.o_proj 2048,2048
gemma-3n E4B all | unsloth/gemma-3n-E4B-it | gemma3n | 35 | model.language_model.layers.{}. | self_attn.q_proj 2048,2048 self_attn.k_proj 512,2048 self_attn.v_proj 512,2048 self_attn.o_proj 2048,2048 mlp.gate_proj 16384,2048 mlp.up_proj 16384,2048 mlp.down_proj 2048,16384
gemma-3n E2B all | google/gemma-3n-E2B-it | gemma3n | 30 | model.language_model.layers.{}. | self_attn.q_proj 2048,2048 self_attn.k_proj 512,2048 mlp.gate_proj 8192,2048 mlp.up_proj 8192,2048 mlp.down_proj 2048,8192
gemma-4 E2B | google/gemma-4-E2B-it | gemma4 | 35 | model.language_model.layers.{}. | self_attn.q_proj 2048,1536;4096,1536 self_attn.o_proj 1536,2048;1536,4096
gemma-4 E4B | unsloth/gemma-4-E4B-it | gemma4 | 42 | model.language_model.layers.{}. | self_attn.q_proj 2048,2560;4096,2560 self_attn.k_proj 512,2560;1024,2560
gemma-4 31B | google/gemma-4-31B-it | gemma4 | 60 | model.language_model.layers.{}. | self_attn.q_proj 8192,5376;16384,5376 mlp.gate_proj 21504,5376 mlp.up_proj 21504,5376
Qwen3-VL-30B-A3B | Qwen/Qwen3-VL-30B-A3B-Instruct | qwen3_vl_moe | 48 | model.language_model.layers.{}. | self_attn.q_proj 4096,2048 self_attn.k_proj 512,2048 self_attn.v_proj 512,2048 self_attn.o_proj 2048,4096
Qwen3-VL-235B-A22B | Qwen/Qwen3-VL-235B-A22B-Instruct | qwen3_vl_moe | 94 | model.language_model.layers.{}. | self_attn.q_proj 8192,4096 self_attn.v_proj 512,4096
OLMoE attn | allenai/OLMoE-1B-7B-0924 | olmoe | 16 | model.layers.{}. | self_attn.q_proj 2048,2048 self_attn.k_proj 2048,2048 self_attn.v_proj 2048,2048 self_attn.o_proj 2048,2048
OLMoE qv | allenai/OLMoE-1B-7B-0125-Instruct | olmoe | 16 | model.layers.{}. | self_attn.q_proj 2048,2048 self_attn.v_proj 2048,2048
OLMoE experts | allenai/OLMoE-1B-7B-0924 | olmoe | 16 | model.layers.{}. | self_attn.q_proj 2048,2048 mlp.experts.3.gate_proj 1024,2048 mlp.experts.3.up_proj 1024,2048 mlp.experts.3.down_proj 2048,1024
MiniCPM-V-2.6 attn | openbmb/MiniCPM-V-2_6 | minicpmv | 28 | llm.model.layers.{}. | self_attn.q_proj 3584,3584 self_attn.k_proj 512,3584 self_attn.v_proj 512,3584
MiniCPM-V-2.6 both | openbmb/MiniCPM-V-2_6 | minicpmv | 28 |  | llm.model.layers.{}.self_attn.q_proj 3584,3584 llm.model.layers.{}.self_attn.v_proj 512,3584 vpm.encoder.layers.{}.self_attn.q_proj 1152,1152 resampler.kv_proj 3584,1152
MiniCPM-Llama3-V-2.5 | openbmb/MiniCPM-Llama3-V-2_5 | minicpmv | 32 | llm.model.layers.{}. | self_attn.q_proj 4096,4096 self_attn.v_proj 1024,4096
MiniCPM-o-2.6 | openbmb/MiniCPM-o-2_6 | minicpmv | 28 | llm.model.layers.{}. | self_attn.q_proj 3584,3584 self_attn.k_proj 512,3584
Phi-4-mm | microsoft/Phi-4-multimodal-instruct | phi4_multimodal | 32 | model.layers.{}. | self_attn.qkv_proj 5120,3072 self_attn.o_proj 3072,3072 mlp.gate_up_proj 16384,3072 mlp.down_proj 3072,8192
Llama-4-Scout attn | meta-llama/Llama-4-Scout-17B-16E-Instruct | llama4 | 48 | language_model.model.layers.{}. | self_attn.q_proj 5120,5120 self_attn.k_proj 1024,5120
Llama-4-Scout w1 | meta-llama/Llama-4-Scout-17B-16E | llama4,llama4_text | 48 | model.layers.{}.feed_forward.experts.1. | w1 8192,5120 w2 5120,8192 w3 8192,5120
Llama-4-Scout w1 cond | meta-llama/Llama-4-Scout-17B-16E | llama4,llama4_text | 48 | language_model.model.layers.{}.feed_forward.experts.1. | w1 8192,5120 w2 5120,8192 w3 8192,5120
Llama-4-Scout gate | meta-llama/Llama-4-Scout-17B-16E | llama4,llama4_text | 48 | model.layers.{}.feed_forward.experts.1. | gate_proj 8192,5120 up_proj 8192,5120 down_proj 5120,8192
Llama-4-Scout shared | meta-llama/Llama-4-Scout-17B-16E | llama4 | 48 | language_model.model.layers.{}.feed_forward.shared_expert. | gate_proj 8192,5120 up_proj 8192,5120 down_proj 5120,8192
Florence-2-base own | microsoft/Florence-2-base-ft | florence2 | 6 | language_model.model. | decoder.layers.{}.self_attn.q_proj 768,768 decoder.layers.{}.self_attn.v_proj 768,768 encoder.layers.{}.self_attn.q_proj 768,768 encoder.layers.{}.self_attn.v_proj 768,768
Florence-2-base own all | microsoft/Florence-2-base | florence2 | 6 | language_model. | model.decoder.layers.{}.self_attn.q_proj 768,768 model.decoder.layers.{}.self_attn.k_proj 768,768 model.decoder.layers.{}.fc2 768,3072 model.encoder.layers.{}.fc2 768,3072 lm_head 51289,768
Florence-2-large dec | microsoft/Florence-2-large | florence2 | 12 | language_model.model.decoder.layers.{}. | self_attn.q_proj 1024,1024 self_attn.v_proj 1024,1024
Florence-2 native | florence-community/Florence-2-base | florence2 | 6 | model.language_model.decoder.layers.{}. | self_attn.q_proj 768,768 self_attn.v_proj 768,768
MusicGen-small | facebook/musicgen-small | musicgen | 24 | decoder.model.decoder.layers.{}. | self_attn.q_proj 1024,1024 self_attn.v_proj 1024,1024
MusicGen-medium all | facebook/musicgen-medium | musicgen | 48 | decoder.model.decoder.layers.{}. | self_attn.q_proj 1536,1536 encoder_attn.q_proj 1536,1536 fc1 6144,1536 fc2 1536,6144
MusicGen-melody | facebook/musicgen-melody | musicgen,musicgen_melody | 48 | decoder.model.decoder.layers.{}. | self_attn.q_proj 1536,1536 self_attn.v_proj 1536,1536 fc1 6144,1536 fc2 1536,6144
VideoMAE-base | MCG-NJU/videomae-base | videomae | 12 | videomae.encoder.layer.{}.attention.attention. | query 768,768 value 768,768
VideoMAE-large all | MCG-NJU/videomae-large | videomae | 24 | videomae.encoder.layer.{}. | attention.attention.query 1024,1024 attention.attention.value 1024,1024 attention.output.dense 1024,1024 intermediate.dense 4096,1024 output.dense 1024,4096
Granite-4-h-tiny mamba | ibm-granite/granite-4.0-h-tiny | granitemoehybrid | 40 | model.layers.{}. | mamba.in_proj 6448,1536 mamba.out_proj 1536,3072
Granite-4-h-micro | ibm-granite/granite-4.0-h-micro | granitemoehybrid | 40 | model.layers.{}. | self_attn.q_proj 2048,2048 self_attn.k_proj 512,2048 mamba.in_proj 8512,2048 mamba.out_proj 2048,4096 shared_mlp.input_linear 16384,2048 shared_mlp.output_linear 2048,8192
Granite-4-h-small attn | ibm-granite/granite-4.0-h-small | granitemoehybrid | 40 | model.layers.{}. | self_attn.q_proj 4096,4096 self_attn.k_proj 1024,4096
xlm-roberta-xl qv | facebook/xlm-roberta-xl | xlm-roberta-xl | 36 | roberta.encoder.layer.{}.attention.self. | query 2560,2560 value 2560,2560
xlm-roberta-xxl qv | facebook/xlm-roberta-xxl | xlm-roberta-xl | 48 | roberta.encoder.layer.{}.attention.self. | query 4096,4096 value 4096,4096
groupvit text | nvidia/groupvit-gcc-yfcc | groupvit | 12 | text_model.encoder.layers.{}.self_attn. | q_proj 256,256 v_proj 256,256
altclip vision | BAAI/AltCLIP | altclip | 24 | vision_model.encoder.layers.{}.self_attn. | q_proj 1024,1024 v_proj 1024,1024
siglip2 vision | google/siglip2-base-patch16-224 | siglip,siglip2 | 12 | vision_model.encoder.layers.{}.self_attn. | q_proj 768,768 v_proj 768,768
owlvit text | google/owlvit-base-patch32 | owlvit | 12 | owlvit.text_model.encoder.layers.{}.self_attn. | q_proj 512,512 v_proj 512,512
ChatGLM1 | THUDM/chatglm-6b | chatglm | 28 | transformer.layers.{}. | attention.query_key_value 12288,4096
Baichuan-13B | baichuan-inc/Baichuan-13B-Chat | baichuan | 40 | model.layers.{}. | self_attn.W_pack 15360,5120
InternVL2-8B own | OpenGVLab/InternVL2-8B | internvl_chat | 32 | language_model.model.layers.{}. | attention.wqkv 6144,4096 attention.wo 4096,4096 feed_forward.w1 14336,4096 feed_forward.w2 4096,14336 feed_forward.w3 14336,4096
InternVL2.5-4B own | OpenGVLab/InternVL2_5-4B | internvl_chat | 36 | language_model.model.layers.{}. | self_attn.q_proj 2048,2048 self_attn.k_proj 256,2048 mlp.gate_proj 11008,2048
InternVL2-8B vision | OpenGVLab/InternVL2-8B | internvl_chat | 24 | vision_model.encoder.layers.{}. | attn.qkv 3072,1024 attn.proj 1024,1024 mlp.fc1 4096,1024 mlp.fc2 1024,4096
RWKV-4 HF | RWKV/rwkv-4-169m-pile | rwkv | 12 | rwkv.blocks.{}. | attention.key 768,768 attention.value 768,768 attention.receptance 768,768
Mamba-ssm | state-spaces/mamba-130m | mamba | 24 | backbone.layers.{}.mixer. | in_proj 3072,768 x_proj 80,1536 out_proj 768,1536
DeepSeek-VL own | deepseek-ai/deepseek-vl-7b-chat | deepseek_vl,multi_modality | 30 | language_model.model.layers.{}. | self_attn.q_proj 4096,4096 self_attn.v_proj 4096,4096
Kimi-VL own | moonshotai/Kimi-VL-A3B-Instruct | kimi_vl | 27 | language_model.model.layers.{}. | self_attn.q_proj 3072,2048 self_attn.kv_a_proj_with_mqa 576,2048 self_attn.kv_b_proj 4096,512 self_attn.o_proj 2048,2048
Yi-VL-6B | 01-ai/Yi-VL-6B | llama,llava | 32 | model.layers.{}. | self_attn.q_proj 4096,4096 self_attn.k_proj 512,4096
"""
OWN = """
RWKV-5 remote | RWKV/rwkv-5-world-3b |  | 32 | rwkv.blocks.{}. | attention.key 2560,2560 attention.gate 2560,2560 attention.receptance 2560,2560 feed_forward.key 8960,2560
RWKV own | BlinkDL/rwkv-6-world |  | 32 | blocks.{}. | att.receptance 2560,2560 att.key 2560,2560 att.value 2560,2560 ffn.key 8960,2560 ffn.value 2560,8960
RWKV-7 fla | fla-hub/rwkv7-1.5B-world |  | 24 | model.layers.{}. | attn.r_proj 2048,2048 attn.k_proj 2048,2048 attn.v_proj 2048,2048 attn.o_proj 2048,2048
fla GLA | fla-hub/gla-1.3B-100B |  | 24 | model.layers.{}. | attn.q_proj 1024,2048 attn.k_proj 1024,2048 attn.v_proj 2048,2048 attn.g_proj 2048,2048
xLSTM package |  |  | 24 | xlstm_block_stack.blocks.{}. | xlstm.proj_up 4096,1024 xlstm.proj_down 1024,2048 xlstm.q_proj 2048,4
Evo StripedHyena | togethercomputer/evo-1-131k-base |  | 32 | backbone.blocks.{}. | projections 12288,4096 out_filter_dense 4096,4096 mlp.l1 10928,4096 mlp.l2 10928,4096 mlp.l3 4096,10928
Evo attention |  |  | 4 | backbone.blocks.{}. | inner_mha_cls.Wqkv 12288,4096 inner_mha_cls.out_proj 4096,4096
HyenaDNA | LongSafari/hyenadna-small-32k-seqlen-hf |  | 4 | hyena.backbone.layers.{}. | mixer.in_proj 768,256 mixer.out_proj 256,256 mlp.fc1 1024,256 mlp.fc2 256,1024
HyenaDNA in_proj |  |  | 8 | backbone.layers.{}. | mixer.in_proj 768,256 mixer.out_proj 256,256
Vim | hustvl/Vim-base |  | 24 | layers.{}. | mixer.in_proj 1536,384 mixer.x_proj 56,768 mixer.x_proj_b 56,768 mixer.out_proj 384,768
Caduceus | kuleshov-group/caduceus-ph |  | 16 | caduceus.backbone.layers.{}. | mixer.submodule.mamba_fwd.in_proj 1024,256 mixer.submodule.mamba_fwd.x_proj 48,512
MambaVision | nvidia/MambaVision-B-1K |  | 4 | levels.2.blocks.{}. | mixer.in_proj 512,512 mixer.out_proj 512,512 mlp.fc1 2048,512
custom mamba wrap |  |  | 12 | encoder.mamba_layers.{}. | in_proj 1024,256 x_proj 48,512 out_proj 256,512
Emu2 | BAAI/Emu2 |  | 60 | model.decoder.lm.model.layers.{}. | self_attn.q_proj 6656,6656 self_attn.v_proj 6656,6656
custom GPT |  |  | 6 | blocks.{}. | sa.heads.0.key 64,384 sa.heads.0.query 64,384 sa.heads.0.value 64,384 sa.proj 384,384 ffwd.net.0 1536,384
custom GPT 2 |  |  | 8 | layers.{}. | attn.qkv 1536,512 attn.out 512,512 mlp.fc1 2048,512 mlp.fc2 512,2048
custom GPT 3 |  |  | 6 | transformer.blocks.{}. | attn.q_proj 512,512 attn.k_proj 512,512 attn.v_proj 512,512 attn.o_proj 512,512
custom GPT 4 |  |  | 6 | decoder.blocks.{}. | attention.query 512,512 attention.key 512,512 attention.value 512,512
custom MLP |  |  | 1 |  | fc1 256,784 fc2 128,256 fc3 10,128
custom MLP seq |  |  | 1 |  | seq.0 20,20 seq.2 20,20 seq.4 2,20
custom net |  |  | 1 | net. | lin1 64,10 lin2 64,64
x-transformers |  |  | 6 | attn_layers.layers.{}.1. | to_q 512,512 to_k 512,512 to_v 512,512 to_out 512,512
lucidrains ViT |  |  | 6 | transformer.layers.{}.0. | to_qkv 1536,512 to_out.0 512,512
fairseq roberta |  |  | 24 | encoder.sentence_encoder.layers.{}. | self_attn.q_proj 1024,1024 self_attn.v_proj 1024,1024
fairseq wav2vec |  |  | 24 | w2v_encoder.w2v_model.encoder.layers.{}. | self_attn.q_proj 1024,1024 self_attn.v_proj 1024,1024 fc1 4096,1024
ESM original | facebook/esm2_t33_650M_UR50D |  | 33 | layers.{}. | self_attn.q_proj 1280,1280 self_attn.k_proj 1280,1280 self_attn.v_proj 1280,1280 self_attn.out_proj 1280,1280 fc1 5120,1280 fc2 1280,5120
ESM original qv |  |  | 33 | layers.{}. | self_attn.q_proj 1280,1280 self_attn.v_proj 1280,1280
OpenFold |  |  | 48 | evoformer.blocks.{}. | msa_att_row.mha.linear_q 256,256 msa_att_row.mha.linear_k 256,256 msa_transition.linear_1 1024,256
Boltz |  |  | 48 | pairformer_module.layers.{}. | attention.proj_q 384,384 attention.proj_k 384,384 transition_s.fc1 1536,384
speechbrain |  |  | 12 | Transformer.encoder.layers.{}. | self_att.att.out_proj 512,512 pos_ffn.ffn.0 2048,512
speechbrain w2v |  |  | 24 | modules.wav2vec2.model.encoder.layers.{}. | attention.q_proj 1024,1024 attention.v_proj 1024,1024
NeMo conformer attn | nvidia/stt_en_conformer_ctc_large |  | 17 | encoder.layers.{}. | self_attn.linear_q 512,512 self_attn.linear_k 512,512 self_attn.linear_v 512,512 self_attn.linear_out 512,512
NeMo conformer all |  |  | 24 | encoder.layers.{}. | self_attn.linear_q 1024,1024 self_attn.linear_v 1024,1024 feed_forward1.linear1 4096,1024 feed_forward2.linear2 1024,4096
espnet |  |  | 12 | encoder.encoders.{}. | self_attn.linear_q 256,256 self_attn.linear_v 256,256 feed_forward.w_1 2048,256
timm swin qkv | timm/swin_tiny_patch4_window7_224.ms_in1k |  | 2 | layers.{}.blocks.1. | attn.qkv 288,96 attn.proj 96,96
timm swin fc1 |  |  | 2 | layers.{}.blocks.0. | mlp.fc1 384,96 mlp.fc2 96,384
timm convnext | timm/convnext_tiny.fb_in22k |  | 3 | stages.{}.blocks.1. | mlp.fc1 384,96 mlp.fc2 96,384
timm mixer | timm/mixer_b16_224 |  | 12 | blocks.{}. | mlp_tokens.fc1 384,196 mlp_channels.fc1 3072,768
DiT | facebook/DiT-XL-2-256 |  | 28 | blocks.{}. | attn.qkv 3456,1152 attn.proj 1152,1152 adaLN_modulation.1 6912,1152
DiT qkv |  |  | 28 | blocks.{}. | attn.qkv 3456,1152 attn.proj 1152,1152
Whisper original | openai/whisper-small |  | 12 | decoder.blocks.{}. | attn.query 768,768 attn.value 768,768 cross_attn.query 768,768 cross_attn.value 768,768
nn.Transformer |  |  | 6 | transformer.encoder.layers.{}. | linear1 2048,512 linear2 512,2048 self_attn.out_proj 512,512
nn.TransformerEncoder |  |  | 6 | encoder.layers.{}. | linear1 2048,512 linear2 512,2048
DNABERT-2 | zhihan1996/DNABERT-2-117M |  | 12 | bert.encoder.layer.{}. | attention.self.Wqkv 2304,768 mlp.gated_layers 6144,768 mlp.wo 768,3072
DNABERT-2 dense | zhihan1996/DNABERT-2-117M |  | 12 | bert.encoder.layer.{}. | attention.self.Wqkv 2304,768 attention.output.dense 768,768
scGPT |  |  | 12 | transformer_encoder.layers.{}. | self_attn.Wqkv 1536,512 self_attn.out_proj 512,512 linear1 512,512
Lag-Llama | time-series-foundation-models/Lag-Llama |  | 8 | model.transformer.h.{}. | attn.q_proj 144,144 attn.kv_proj 288,144 attn.c_proj 144,144 mlp.c_fc1 512,144
VAR |  |  | 16 | blocks.{}. | attn.mat_qkv 3072,1024 attn.proj 1024,1024 ffn.fc1 4096,1024 ffn.fc2 1024,4096
Show-o | showlab/show-o |  | 24 | showo.model.layers.{}. | self_attn.q_proj 2048,2048 self_attn.v_proj 2048,2048 mlp.fc1 8192,2048
OpenVLA | openvla/openvla-7b |  | 32 |  | language_model.model.layers.{}.self_attn.q_proj 4096,4096 language_model.model.layers.{}.self_attn.v_proj 4096,4096 vision_backbone.featurizer.blocks.{}.attn.qkv 3072,1024 projector.fc1 8704,2176
F5-TTS | SWivid/F5-TTS |  | 22 | transformer.transformer_blocks.{}. | attn.to_q 1024,1024 attn.to_k 1024,1024 attn.to_v 1024,1024
CosyVoice | FunAudioLLM/CosyVoice2-0.5B |  | 24 | llm.model.model.layers.{}. | self_attn.q_proj 896,896 self_attn.v_proj 128,896
XTTS | coqui/XTTS-v2 |  | 30 | gpt.gpt.h.{}. | attn.c_attn 3072,1024 attn.c_proj 1024,1024
CogVLM | THUDM/cogvlm-chat-hf |  | 32 | model.layers.{}. | self_attn.language_expert_query_key_value 12288,4096 self_attn.vision_expert_query_key_value 12288,4096
CogVLM dense |  |  | 32 | model.layers.{}. | self_attn.language_expert_dense 4096,4096 mlp.language_mlp.gate_proj 11008,4096
Monkey chat |  |  | 32 | transformer.h.{}. | attn.c_attn.lora 16,4096 attn.c_attn_v 4096,4096
own retriever |  |  | 12 | query_encoder.encoder.layer.{}. | attention.self.query 768,768 attention.self.value 768,768
own two tower |  |  | 12 |  | image_tower.encoder.layers.{}.self_attn.q_proj 768,768 text_tower.encoder.layer.{}.attention.self.query 768,768
own reward |  |  | 32 | actor.model.layers.{}. | self_attn.q_proj 4096,4096 self_attn.v_proj 1024,4096
ViViT scenic |  |  | 12 | encoder.encoderblock.{}. | attention.query 768,768 mlp.dense_0 3072,768
Perceiver own |  |  | 8 | layers.{}.cross_attn. | to_q 512,512 to_kv 1024,512
Decision own |  |  | 3 | h.{}. | attn.c_attn 384,128 attn.c_proj 128,128
MLP-Mixer own |  |  | 8 | mixer.{}. | token.fc1 256,196 channel.fc1 1024,256
GNN |  |  | 4 | convs.{}. | lin_l 128,128 lin_r 128,128
DETR own |  |  | 6 | transformer.encoder.layers.{}. | self_attn.out_proj 256,256 linear1 2048,256 linear2 256,2048
TabPFN |  |  | 12 | transformer_encoder.layers.{}. | self_attn_between_features.w_qkv 576,192 mlp.linear1 768,192
Uni-Mol |  |  | 15 | encoder.layers.{}. | self_attn.in_proj 1536,512 self_attn.out_proj 512,512 fc1 2048,512 fc2 512,2048
Moirai | Salesforce/moirai-1.0-R-small |  | 6 | encoder.layers.{}. | self_attn.q_proj 384,384 self_attn.k_proj 384,384 self_attn.v_proj 384,384 ffn.fc1 1024,384 ffn.fc2 384,1024 ffn.fc_gate 1024,384
"""
"""No family has these modules, or none has them in this place."""


def rows(text):
    return [[part.strip() for part in line.split("|")] for line in text.strip().splitlines()]


def adapter(layers, prefix, text):
    words = text.split()
    seen = []
    for name, sides in zip(words[::2], words[1::2], strict=True):
        shapes = [tuple(map(int, pair.split(","))) for pair in sides.split(";")]
        path = prefix + name
        for layer in range(int(layers) if "{}" in path else 1):
            out, into = shapes[-1] if layer % 6 == 5 else shapes[0]
            seen.append(
                Observation(path=path.replace("{}", str(layer)), out_features=out, in_features=into)
            )
    return seen


def named(text):
    return [pytest.param(*row[1:], id=row[0]) for row in rows(text)]


@pytest.mark.parametrize(("declared", "families", "layers", "prefix", "modules"), named(PUBLISHED))
def test_a_published_model_is_found_by_its_name_and_never_surely_wrong_without(
    declared, families, layers, prefix, modules
):
    seen = adapter(layers, prefix, modules)
    assert detect(seen, Claims(base_name=declared)).family in families.split(",")
    alone = detect(seen, Claims())
    if alone.family not in families.split(","):
        # Text of Phi-4-multimodal is Phi-4-mini's, which is fifty times as common: they share.
        assert alone.confidence < (0.99 if "phi4_multimodal" in families else 0.9)
        if alone.confidence >= 0.9:
            assert set(families.split(",")) & {c.family for c in alone.candidates}


@pytest.mark.parametrize(("declared", "_none", "layers", "prefix", "modules"), named(OWN))
def test_a_model_of_ones_own_is_never_surely_one_of_a_family(
    declared, _none, layers, prefix, modules
):
    seen = adapter(layers, prefix, modules)
    for name in dict.fromkeys((declared, "")):
        assert detect(seen, Claims(base_name=name)).confidence < 0.9


def test_a_part_behind_a_prefix_that_means_something_is_another_model():
    """The same modules: the whole model, in a class of plain code, in a model of its own."""
    spec = "layers.{}.self_attn.q_proj 896,896 layers.{}.self_attn.v_proj 128,896"
    whole, plain, part = (
        detect(adapter("24", prefix, spec), Claims())
        for prefix in ("model.", "module.model.", "llm.speech.model.")
    )
    assert whole.family == "qwen2"
    assert whole.confidence > plain.confidence > 0.85
    assert plain.family == "qwen2"
    assert part.family == "unknown"


def test_every_foreign_module_makes_the_family_less_likely():
    own = "self_attn.q_proj 896,896 self_attn.k_proj 128,896 self_attn.v_proj 128,896"
    chances = [
        detect(adapter("24", "model.layers.{}.", own + more), Claims()).candidates[0].probability
        for more in ("", " self_attn.g_proj 896,896", " self_attn.g_proj 896,896 mix.key 896,896")
    ]
    assert chances[0] > 0.95
    assert 0.9 > chances[1] > chances[2]


def test_the_owners_name_is_not_the_models():
    families = {"granite", "granitemoehybrid", "mistral", "mixtral"}
    assert set(told(families, Claims(base_name="ibm-granite/granite-4.0-h-tiny"))) == {
        "granitemoehybrid"
    }
    assert set(told(families, Claims(base_name="mistral/Mixtral-8x7B-x"))) == {"mixtral"}
    assert set(told(families, Claims(base_name="granite/checkpoint-7"))) == {"granite"}


def test_the_larger_models_name_tells_its_text_model():
    families = {"llama4_text", "llama"}
    assert set(told(families, Claims(base_name="meta-llama/Llama-4-Scout-17B-16E"))) == {
        "llama4_text"
    }
