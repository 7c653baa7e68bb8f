"""Generation: batched, streamed, seeded, with stop strings; whitespace is never touched."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jinja2 import TemplateError
from transformers import (
    GenerationConfig,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)

from adaptrix.loader.base import BaseModel
from adaptrix.loader.completion import Completion
from adaptrix.loader.sampling import Chooser
from adaptrix.schema.errors import UsageError

Prompt = str | Sequence[int]
"""Text to continue, or token ids that are taken as they stand."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateOptions:
    """How to generate.

    Attributes:
        max_new_tokens: Upper bound of new tokens.
        temperature: 0 means greedy.
        top_p: Nucleus mass, 0 to 1.
        top_k: Only so many of the likeliest tokens; 0 for all.
        seed: Seed for sampling; the same seed and prompt give the same text in any batch.
        stop: Texts that end a completion; they are not part of it.
    """

    max_new_tokens: int = 128
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
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
        if self.top_k < 0:
            raise UsageError(f"expected 0 or more, got {self.top_k}", where="top-k")
        if not -(2**63) <= self.seed < 2**64:
            raise UsageError(f"expected a 64-bit number, got {self.seed}", where="seed")
        if "" in self.stop:
            raise UsageError("a stop string is empty", where="stop")


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """One completion.

    Attributes:
        prompt: The prompt.
        text: The new text, exactly as decoded.
        ids: New token ids, without the end-of-text token; with a stop string, up to the
            token that completed it.
        finish: Why it ended: ``end`` of text, ``stop`` string, or ``length``.
        seconds: Time of the whole batch.
    """

    prompt: Prompt
    text: str
    ids: tuple[int, ...]
    finish: str
    seconds: float

    @property
    def tokens(self) -> int:
        """Number of new tokens, without the end-of-text token."""
        return len(self.ids)


class _Rows(StoppingCriteria):
    """Feeds each new token to its row's completion and ends the rows that are done."""

    def __init__(
        self, rows: Sequence[Completion], limits: Sequence[int], ends: frozenset[int]
    ) -> None:
        self.rows, self.limits, self.ends = rows, limits, ends

    def __call__(
        self, input_ids: torch.Tensor, scores: torch.Tensor, **_options: Any
    ) -> torch.Tensor:
        for row, limit, token in zip(
            self.rows, self.limits, input_ids[:, -1].tolist(), strict=True
        ):
            if row.finish:
                continue
            if token in self.ends:
                row.end("end")
                continue
            row.add(token)
            if not row.finish and len(row.ids) >= limit:
                row.end("length")
        return torch.tensor([bool(row.finish) for row in self.rows], device=input_ids.device)


def encode(base: BaseModel, prompt: Prompt) -> list[int]:
    """Token ids of a prompt, with what the tokenizer puts before every text.

    Raises:
        UsageError: it has none, or more than the model has positions for.
    """
    if base.tokenizer is None:
        raise UsageError("this base has no tokenizer", where=base.name)
    ids = base.tokenizer(prompt).input_ids if isinstance(prompt, str) else prompt
    ids = [int(token) for token in ids]
    if not ids:
        raise UsageError("the prompt has no tokens", where="prompt", hint="Pass some text with -p.")
    positions = position_limit(base)
    if positions is not None and len(ids) >= positions:
        raise UsageError(
            f"the prompt has {len(ids)} tokens, and the model has {positions} positions",
            where="prompt",
            hint="Shorten it.",
        )
    return ids


def templated(base: BaseModel, messages: Sequence[Mapping[str, str]]) -> list[int]:
    """Token ids of a conversation in the tokenizer's own chat template.

    Raises:
        UsageError: the tokenizer has none, or it does not take these messages.
    """
    if not getattr(base.tokenizer, "chat_template", None):
        raise UsageError("this base has no chat template", where=base.name, hint="Pass a prompt.")
    try:
        text = base.tokenizer.apply_chat_template(
            [dict(message) for message in messages], tokenize=False, add_generation_prompt=True
        )
    except (TemplateError, ValueError, TypeError, KeyError) as error:
        raise UsageError(f"the chat template refuses: {error}", where=base.name) from error
    # The template writes the special tokens itself; a second first one would be an error.
    return [int(token) for token in base.tokenizer(text, add_special_tokens=False).input_ids]


def position_limit(base: BaseModel) -> int | None:
    """Positions the model was made for; beyond them its output means nothing."""
    limit = getattr(base.model.config.get_text_config(), "max_position_embeddings", None)
    return limit if isinstance(limit, int) and limit > 0 else None


@torch.inference_mode()
def generate(
    base: BaseModel,
    prompts: Sequence[Prompt],
    options: GenerateOptions | Sequence[GenerateOptions],
    *,
    on_text: Callable[[str], None] | None = None,
) -> list[Generation]:
    """One completion per prompt; prompts of one batch are padded on the left.

    Args:
        base: The model.
        prompts: Texts, or token ids.
        options: For all rows, or one for each.
        on_text: Called with each new piece of text; for a single prompt only.

    Raises:
        UsageError: a prompt without tokens, or streaming more than one prompt.
    """
    if on_text is not None and len(prompts) != 1:
        raise UsageError("only a single prompt can be streamed", where="generate")
    if not prompts:
        return []
    by_row = [options] * len(prompts) if isinstance(options, GenerateOptions) else list(options)
    ids = [encode(base, prompt) for prompt in prompts]
    rows = [
        Completion(base.tokenizer, prompt, stop=own.stop, sink=on_text)
        for prompt, own in zip(ids, by_row, strict=True)
    ]
    limits = [_limit(base, prompt, own) for prompt, own in zip(ids, by_row, strict=True)]
    started = time.perf_counter()
    _search(base, ids, by_row, _Rows(rows, limits, end_tokens(base)), max(limits))
    seconds = time.perf_counter() - started
    return [
        Generation(
            prompt=prompt, text=row.text, ids=tuple(row.ids), finish=row.finish, seconds=seconds
        )
        for prompt, row in zip(prompts, rows, strict=True)
    ]


def _limit(base: BaseModel, prompt: Sequence[int], options: GenerateOptions) -> int:
    positions = position_limit(base)
    room = options.max_new_tokens if positions is None else positions - len(prompt)
    return min(options.max_new_tokens, room)


def _search(
    base: BaseModel,
    ids: Sequence[Sequence[int]],
    options: Sequence[GenerateOptions],
    rows: _Rows,
    max_new_tokens: int,
) -> None:
    pad = pad_token(base)
    tokens, mask = padded(ids, pad, base.device)
    config = _config(base, max_new_tokens, pad)
    model: Any = base.model
    own = model.generation_config
    # transformers would fill in what the checkpoint recommends: repetition penalties and
    # the like, which change scores that we promise to leave alone.
    model.generation_config = config
    try:
        model.generate(
            input_ids=tokens,
            attention_mask=mask,
            generation_config=config,
            logits_processor=LogitsProcessorList([Chooser(options)]),
            stopping_criteria=StoppingCriteriaList([rows]),
        )
    finally:
        model.generation_config = own


def padded(
    ids: Sequence[Sequence[int]], pad: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and attention mask, each ``(rows, tokens)``, padded on the left."""
    width = max(map(len, ids))
    tokens = [[pad] * (width - len(row)) + list(row) for row in ids]
    mask = [[0] * (width - len(row)) + [1] * len(row) for row in ids]
    return torch.tensor(tokens, device=device), torch.tensor(mask, device=device)


def pad_token(base: BaseModel) -> int:
    """A token for places that the mask hides."""
    own = base.tokenizer.pad_token_id
    return int(own) if own is not None else min(end_tokens(base), default=0)


def end_tokens(base: BaseModel) -> frozenset[int]:
    """Tokens that end a text, by the model and by the tokenizer."""
    settings = base.model.generation_config
    declared = None if settings is None else settings.eos_token_id
    listed = declared if isinstance(declared, list) else [declared]
    return frozenset(
        int(token) for token in (*listed, base.tokenizer.eos_token_id) if token is not None
    )


def _config(base: BaseModel, max_new_tokens: int, pad: int) -> GenerationConfig:
    return GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        pad_token_id=pad,
        eos_token_id=sorted(end_tokens(base)) or None,
        bos_token_id=base.tokenizer.bos_token_id,
    )
