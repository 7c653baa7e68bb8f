"""Generation: batched, streamed, seeded, with stop strings; whitespace is never touched."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

from adaptrix.loader.base import BaseModel
from adaptrix.schema.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateOptions:
    """How to generate.

    Attributes:
        max_new_tokens: Upper bound of new tokens.
        temperature: 0 means greedy.
        top_p: Nucleus mass, 0 to 1.
        seed: Seed for sampling.
        stop: Texts that end a completion; they are not part of it.
    """

    max_new_tokens: int = 128
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise UsageError(
                f"expected 1 or more, got {self.max_new_tokens}", where="max-new-tokens"
            )
        if not 0 <= self.temperature < 100:
            raise UsageError(f"expected 0 to 100, got {self.temperature}", where="temperature")
        if not 0 < self.top_p <= 1:
            raise UsageError(f"expected more than 0 and at most 1, got {self.top_p}", where="top-p")


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """One completion.

    Attributes:
        prompt: The prompt.
        text: The new text, exactly as decoded.
        tokens: Number of new tokens.
        seconds: Time of the whole batch.
    """

    prompt: str
    text: str
    tokens: int
    seconds: float


class _Stop(StoppingCriteria):
    """Ends a row once its new text holds a stop string."""

    def __init__(self, tokenizer: Any, stop: tuple[str, ...], prompt_tokens: int) -> None:
        self.tokenizer, self.stop, self.prompt_tokens = tokenizer, stop, prompt_tokens

    def __call__(
        self, input_ids: torch.Tensor, scores: torch.Tensor, **_options: Any
    ) -> torch.Tensor:
        texts = self.tokenizer.batch_decode(input_ids[:, self.prompt_tokens :])
        found = [any(mark in text for mark in self.stop) for text in texts]
        return torch.tensor(found, device=input_ids.device)


class _Pieces(BaseStreamer):
    """Hands out text as soon as no later token can change it."""

    def __init__(
        self, tokenizer: Any, stop: tuple[str, ...], prompt: list[int], sink: Callable[[str], None]
    ) -> None:
        self.tokenizer, self.stop, self.sink = tokenizer, stop, sink
        self.prompt = prompt
        self.ids: list[int] = []
        self.skip_prompt, self.sent = True, 0

    def put(self, value: torch.Tensor) -> None:
        if self.skip_prompt:
            self.skip_prompt = False
            return
        self.ids += value.flatten().tolist()
        text = cut(new_text(self.tokenizer, self.prompt, self.ids), self.stop)
        # A replacement character at the end is an unfinished multi-byte character, and
        # the tail may be the beginning of a stop string.
        held = max((len(mark) - 1 for mark in self.stop), default=0)
        if not text.endswith("\ufffd"):
            self._send(text[: len(text) - held] if held else text)

    def end(self) -> None:
        self._send(cut(new_text(self.tokenizer, self.prompt, self.ids), self.stop))

    def _send(self, text: str) -> None:
        if len(text) > self.sent:
            self.sink(text[self.sent :])
            self.sent = len(text)


def new_text(tokenizer: Any, prompt: list[int], ids: list[int]) -> str:
    """Text that ``ids`` add after ``prompt``.

    Decoded together with the prompt's last tokens, since some tokenizers drop the blank
    of a first token.
    """
    head = prompt[-8:]
    before = tokenizer.decode(head, skip_special_tokens=True)
    whole = tokenizer.decode([*head, *ids], skip_special_tokens=True)
    return str(whole[len(before) :])


def cut(text: str, stop: tuple[str, ...]) -> str:
    """``text`` up to the first stop string."""
    ends = [text.find(mark) for mark in stop if mark in text]
    return text[: min(ends)] if ends else text


@torch.inference_mode()
def generate(
    base: BaseModel,
    prompts: Sequence[str],
    options: GenerateOptions,
    *,
    on_text: Callable[[str], None] | None = None,
) -> list[Generation]:
    """One completion per prompt; prompts of one batch are padded on the left.

    Raises:
        UsageError: a prompt without tokens, or streaming more than one prompt.
    """
    tokenizer = base.tokenizer
    if on_text is not None and len(prompts) != 1:
        raise UsageError("only a single prompt can be streamed", where="generate")
    rows = [tokenizer(prompt).input_ids for prompt in prompts]
    if not rows or not all(rows):
        raise UsageError("the prompt has no tokens", where="prompt", hint="Pass some text with -p.")
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    pad = 0 if pad is None else pad
    width = max(map(len, rows))
    ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows], device=base.device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    criteria = [_Stop(tokenizer, options.stop, width)] if options.stop else []
    streamer = _Pieces(tokenizer, options.stop, rows[0], on_text) if on_text else None
    torch.manual_seed(options.seed)
    started = time.perf_counter()
    model: Any = base.model
    out = model.generate(
        input_ids=ids,
        attention_mask=mask.to(base.device),
        generation_config=_config(base, options, pad),
        stopping_criteria=StoppingCriteriaList(criteria),
        streamer=streamer,
    )
    seconds = time.perf_counter() - started
    found = []
    for prompt, row, generated in zip(prompts, rows, out[:, width:].tolist(), strict=True):
        kept = _until_end(generated, tokenizer.eos_token_id)
        text = cut(new_text(tokenizer, row, kept), options.stop)
        found.append(Generation(prompt=prompt, text=text, tokens=len(kept), seconds=seconds))
    return found


def _config(base: BaseModel, options: GenerateOptions, pad: int) -> GenerationConfig:
    sampling = options.temperature > 0
    own = base.model.generation_config
    config = GenerationConfig(
        max_new_tokens=options.max_new_tokens,
        do_sample=sampling,
        pad_token_id=pad,
        eos_token_id=own.eos_token_id if own is not None else base.tokenizer.eos_token_id,
        bos_token_id=base.tokenizer.bos_token_id,
    )
    if sampling:
        config.temperature, config.top_p = options.temperature, options.top_p
    return config


def _until_end(ids: list[int], end: int | None) -> list[int]:
    return ids[: ids.index(end)] if end is not None and end in ids else ids


def peak_memory_bytes() -> int:
    """Largest resident size of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
