"""The module naming of Phi-2's first remote code, for training an adapter of that time.

Same arithmetic as transformers' ``PhiForCausalLM``, under the old names: attention is one
fused ``mixer.Wqkv`` whose rows are the blocks q, k, v, its output ``mixer.out_proj``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import PhiForCausalLM


class _Mixer(nn.Module):
    def __init__(self, width: int, heads: int, rotary: int, theta: float) -> None:
        super().__init__()
        self.Wqkv = nn.Linear(width, 3 * width)
        self.out_proj = nn.Linear(width, width)
        self.heads, self.rotary = heads, rotary
        steps = torch.arange(0, rotary, 2, dtype=torch.float32) / rotary
        self.register_buffer("inverse_frequency", theta**-steps, persistent=False)

    def _rotate(self, states: torch.Tensor) -> torch.Tensor:
        positions = torch.arange(states.shape[-2], dtype=torch.float32, device=states.device)
        frequency = self.get_buffer("inverse_frequency")
        angles = torch.outer(positions, frequency).repeat(1, 2)  # (length, rotary)
        turned, kept = states[..., : self.rotary], states[..., self.rotary :]
        first, second = turned.chunk(2, dim=-1)
        turned = turned * angles.cos() + torch.cat([-second, first], dim=-1) * angles.sin()
        return torch.cat([turned, kept], dim=-1)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        batch, length, width = hidden.shape
        fused = self.Wqkv(hidden).view(batch, length, 3, self.heads, width // self.heads)
        q, k, v = fused.permute(2, 0, 3, 1, 4)  # each (batch, heads, length, head)
        mixed = functional.scaled_dot_product_attention(
            self._rotate(q), self._rotate(k), v, is_causal=True
        )
        out: torch.Tensor = self.out_proj(mixed.transpose(1, 2).reshape(batch, length, width))
        return out


class _Mlp(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, inner)
        self.fc2 = nn.Linear(inner, width)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.fc2(functional.gelu(self.fc1(hidden), approximate="tanh"))
        return out


class _Block(nn.Module):
    def __init__(self, mixer: _Mixer, mlp: _Mlp, width: int, epsilon: float) -> None:
        super().__init__()
        self.ln = nn.LayerNorm(width, eps=epsilon)
        self.mixer, self.mlp = mixer, mlp

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        normed = self.ln(hidden)
        out: torch.Tensor = hidden + self.mixer(normed) + self.mlp(normed)
        return out


class LegacyPhi(nn.Module):
    """``forward(input_ids (batch, length)) -> logits (batch, length, vocabulary)``."""

    def __init__(self, model: PhiForCausalLM) -> None:
        """Take the weights of ``model`` (copied)."""
        super().__init__()
        config: Any = model.config
        width, heads = config.hidden_size, config.num_attention_heads
        rope = config.rope_parameters
        rotary = int(width // heads * rope["partial_rotary_factor"])
        blocks = [
            _Block(
                _Mixer(width, heads, rotary, float(rope["rope_theta"])),
                _Mlp(width, config.intermediate_size),
                width,
                config.layer_norm_eps,
            )
            for _ in range(config.num_hidden_layers)
        ]
        embedding = nn.Embedding(config.vocab_size, width)
        self.transformer = nn.ModuleDict(
            {"embd": nn.ModuleDict({"wte": embedding}), "h": nn.ModuleList(blocks)}
        )
        norm, head = (
            nn.LayerNorm(width, eps=config.layer_norm_eps),
            nn.Linear(width, config.vocab_size),
        )
        self.lm_head = nn.ModuleDict({"ln": norm, "linear": head})
        self.load_state_dict(legacy_state(model))

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Logits for every position."""
        hidden = self.get_submodule("transformer.embd.wte")(input_ids)
        for block in self.get_submodule("transformer.h").children():
            hidden = block(hidden)
        normed = self.get_submodule("lm_head.ln")(hidden)
        out: torch.Tensor = self.get_submodule("lm_head.linear")(normed)
        return out


def legacy_state(model: PhiForCausalLM) -> dict[str, torch.Tensor]:
    """The weights of ``model`` under the old names; q, k, v fused as blocks."""
    state = model.state_dict()
    found = {
        "transformer.embd.wte.weight": state["model.embed_tokens.weight"],
        "lm_head.ln.weight": state["model.final_layernorm.weight"],
        "lm_head.ln.bias": state["model.final_layernorm.bias"],
        "lm_head.linear.weight": state["lm_head.weight"],
        "lm_head.linear.bias": state["lm_head.bias"],
    }
    for n in range(model.config.num_hidden_layers):
        new, old = f"model.layers.{n}", f"transformer.h.{n}"
        for kind in ("weight", "bias"):
            parts = [state[f"{new}.self_attn.{p}_proj.{kind}"] for p in "qkv"]
            found[f"{old}.mixer.Wqkv.{kind}"] = torch.cat(parts)
            found[f"{old}.mixer.out_proj.{kind}"] = state[f"{new}.self_attn.dense.{kind}"]
            found[f"{old}.ln.{kind}"] = state[f"{new}.input_layernorm.{kind}"]
            for p in ("fc1", "fc2"):
                found[f"{old}.mlp.{p}.{kind}"] = state[f"{new}.mlp.{p}.{kind}"]
    return found
