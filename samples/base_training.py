"""Train the bundled base model: tokenizer, then a small Phi on the corpus.

About 25 minutes on two cores, a minute on a GPU. Seeded; the result is rounded to
float16 once, and adapters are trained on the rounded weights.
"""

from __future__ import annotations

import itertools
import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn
from transformers import PhiConfig, PhiForCausalLM, PreTrainedTokenizerFast

from adaptrix.samples.corpus import GLUE, cloze, documents

SEED = 20
VOCABULARY = 1024
CONTEXT = 96
BATCH = 48
PEAK_RATE = 2e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """One stretch of training.

    Attributes:
        steps: Optimiser steps.
        horizon: Steps over which the learning rate would fall to its end.
        passages: Whether half of the text is hard passages.
    """

    steps: int
    horizon: int
    passages: bool


# Retrieval by name comes late and only with much of it in the text; the rest is learned
# by then.
PHASES = (
    Phase(steps=1500, horizon=2600, passages=False),
    Phase(steps=1300, horizon=1300, passages=True),
)


def device() -> torch.device:
    """A GPU when there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE trained on the corpus; each of its words becomes one token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<|endoftext|>", "<|pad|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    lines = itertools.chain(itertools.islice(documents(SEED), 30_000), [GLUE] * 500)
    tokenizer.train_from_iterator(lines, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|endoftext|>",
        eos_token="<|endoftext|>",
        pad_token="<|pad|>",
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=256,
    )


def make_model(tokenizer: PreTrainedTokenizerFast) -> PhiForCausalLM:
    """A Phi of 3.4 million parameters, with Phi-2's partial rotary factor and biases."""
    torch.manual_seed(SEED)
    vocabulary = -(-len(tokenizer) // 64) * 64
    settings: dict[str, Any] = {"partial_rotary_factor": 0.375}
    return PhiForCausalLM(
        PhiConfig(
            vocab_size=vocabulary,
            hidden_size=256,
            intermediate_size=1024,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=4,
            **settings,
            max_position_embeddings=256,
            hidden_act="gelu_new",
            attention_dropout=0.0,
            embd_pdrop=0.0,
            resid_pdrop=0.0,
            tie_word_embeddings=False,
            bos_token_id=0,
            eos_token_id=0,
            pad_token_id=1,
            dtype="float32",
        )
    )


def packed_blocks(
    tokenizer: PreTrainedTokenizerFast, seed: int, *, passages: bool
) -> Iterator[torch.Tensor]:
    """Endless blocks ``(CONTEXT,)`` of corpus documents, each ended by the end token."""
    buffer: list[int] = []
    source = documents(seed, passages=passages)
    while True:
        while len(buffer) < CONTEXT:
            batch = list(itertools.islice(source, 256))
            for ids in tokenizer(batch).input_ids:
                buffer += [*ids, 0]
        yield torch.tensor(buffer[:CONTEXT])
        del buffer[:CONTEXT]


def rate_at(step: int, steps: int, peak: float, warmup: int = 100) -> float:
    """Linear warm-up, then a cosine to a twentieth of the peak."""
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return peak * (0.05 + 0.475 * (1 + math.cos(math.pi * progress)))


def train_base(model: PhiForCausalLM, tokenizer: PreTrainedTokenizerFast) -> float:
    """Train ``model`` in place through all phases and return the last mean loss."""
    target = device()
    nn.Module.to(model, target).train()
    loss = 0.0
    for number, phase in enumerate(PHASES):
        loss = train_phase(model, tokenizer, phase, seed=SEED + number)
    return loss


def train_phase(
    model: PhiForCausalLM, tokenizer: PreTrainedTokenizerFast, phase: Phase, *, seed: int
) -> float:
    """One phase with a fresh optimiser; returns the last mean loss."""
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98), weight_decay=0.05)
    blocks = packed_blocks(tokenizer, seed, passages=phase.passages)
    started, recent = time.monotonic(), 0.0
    for step in range(phase.steps):
        for group in optimizer.param_groups:
            group["lr"] = rate_at(step, phase.horizon, PEAK_RATE)
        batch = torch.stack(list(itertools.islice(blocks, BATCH))).to(model.device)
        with torch.autocast(model.device.type, torch.bfloat16):
            loss = model(input_ids=batch, labels=batch).loss
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        recent = 0.95 * recent + 0.05 * loss.item() if step else loss.item()
        if step % 50 == 49:
            spent = time.monotonic() - started
            print(f"base step {step + 1}/{phase.steps} loss {recent:.3f} {spent:.0f} s", flush=True)
    return recent


@torch.inference_mode()
def cloze_scores(model: PhiForCausalLM, tokenizer: PreTrainedTokenizerFast) -> dict[str, float]:
    """Share of cloze prompts whose next token is the right one, by kind."""
    model.eval()
    found = {}
    for kind, pairs in cloze().items():
        right = 0
        for prompt, answer in pairs:
            ids = torch.tensor([[0, *tokenizer(prompt.strip()).input_ids]], device=model.device)
            wanted = tokenizer(answer.strip()).input_ids[0]
            right += int(model(input_ids=ids).logits[0, -1].argmax()) == wanted
        found[kind] = right / len(pairs)
    return found


def save_base(model: PhiForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Round to float16 once and save model and tokenizer."""
    nn.Module.to(model, "cpu", torch.float16)
    model.generation_config.update(eos_token_id=0, pad_token_id=1, bos_token_id=0)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    # Where transformers before 5 wrote it, and where other engines look for it.
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["partial_rotary_factor"] = config["rope_parameters"]["partial_rotary_factor"]
    config["rope_theta"] = config["rope_parameters"]["rope_theta"]
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
