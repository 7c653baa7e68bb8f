"""Text exactly as decoded, stops never shown, and rows that do not depend on their batch."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from adaptrix.loader.base import load_base
from adaptrix.loader.completion import Completion
from adaptrix.loader.divergence import divergence, log_shares
from adaptrix.loader.generate import GenerateOptions, encode, generate, templated
from adaptrix.loader.sampling import draw
from adaptrix.samples import BASE_NAME
from adaptrix.schema.errors import FormatError, UsageError

PROMPT = "problem : tom has 3 apples and gets 4 more . how many in all ? answer :"


def byte_tokenizer():
    """One token per byte, as the byte-level tokenizers of GPT-2 and Phi-2 fall back to."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bare = Tokenizer(models.BPE({char: number for number, char in enumerate(alphabet)}, []))
    bare.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bare.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=bare)


BYTES = byte_tokenizer()


@pytest.fixture(scope="module")
def base():
    return load_base(BASE_NAME)


def stream(text, stop=(), ids=None):
    pieces = []
    row = Completion(BYTES, BYTES("a prompt :").input_ids, stop=stop, sink=pieces.append)
    for token in BYTES(text).input_ids if ids is None else ids:
        row.add(token)
        if row.finish:
            break
    if not row.finish:
        row.end("end")
    return pieces, row


def test_characters_arrive_whole_and_blanks_untouched():
    text = " héllo  🙂🏽\n\n\tx \u202f\r\n日本 "
    pieces, row = stream(text)
    assert "".join(pieces) == text == row.text
    assert not any("\ufffd" in piece for piece in pieces)
    assert len(pieces) > len(text) // 2


def test_bytes_that_are_no_character_are_shown_as_the_tokenizer_shows_them():
    ids = [*BYTES("a").input_ids, *BYTES("é").input_ids[:1], *BYTES("b").input_ids,
           *BYTES("🙂").input_ids[:2]]  # fmt: skip
    pieces, row = stream("", ids=ids)
    assert "".join(pieces) == row.text == BYTES.decode(ids) == "a\ufffdb\ufffd"
    many = BYTES("é").input_ids[:1] * 30
    pieces, row = stream("", ids=many)
    assert "".join(pieces) == BYTES.decode(many)


@given(st.text(max_size=40), st.lists(st.text(min_size=1, max_size=4), max_size=3))
@settings(max_examples=60, deadline=None)
def test_what_is_shown_is_the_text_up_to_the_first_stop(text, stop):
    ends = [text.find(mark) for mark in stop if mark in text]
    wanted = text[: min(ends)] if ends else text
    pieces, row = stream(text, stop)
    assert "".join(pieces) == row.text == wanted
    assert row.finish == ("stop" if ends else "end")


def test_a_stop_string_over_several_tokens_is_never_begun():
    shown = []
    row = Completion(BYTES, [], stop=("</s>",), sink=shown.append)
    for token in BYTES("x < y </ z </s> more").input_ids:
        row.add(token)
        assert not "".join(shown).endswith("</")
        if row.finish:
            break
    assert "".join(shown) == "x < y </ z "
    assert row.finish == "stop"


def test_draws_follow_the_shares():
    scores = torch.tensor([2.0, 1.0, 0.0, -1.0, -torch.inf])
    generator = torch.Generator().manual_seed(0)
    count = 4000
    drawn = [draw(scores, 0.7, 0, 1.0, generator) for _ in range(count)]
    shares = torch.softmax(scores / 0.7, 0)
    for token, share in enumerate(shares.tolist()):
        spread = 5 * math.sqrt(count * share * (1 - share))
        assert abs(drawn.count(token) - count * share) <= spread
    nucleus = {draw(scores, 1.0, 0, 0.8, generator) for _ in range(300)}
    assert nucleus == {0, 1}
    assert {draw(scores, 1.0, 3, 1.0, generator) for _ in range(300)} == {0, 1, 2}
    assert {draw(scores, 1.0, 0, 1e-9, generator) for _ in range(20)} == {0}
    assert draw(scores, 0.0, 0, 1.0, generator) == 0


def test_a_sampled_row_is_the_same_in_any_batch(base):
    prompts = [PROMPT, "problem :", "function : take x , add 5 . code :"]
    options = [
        GenerateOptions(max_new_tokens=20, temperature=1.4, seed=5),
        GenerateOptions(max_new_tokens=7, temperature=0.9, top_p=0.9, seed=6, stop=(" :",)),
        GenerateOptions(max_new_tokens=12),
    ]
    together = generate(base, prompts, options)
    again = generate(base, prompts[::-1], options[::-1])[::-1]
    for prompt, own, one, other in zip(prompts, options, together, again, strict=True):
        alone = generate(base, [prompt], own)[0]
        assert one.ids == other.ids == alone.ids
        assert one.text == alone.text
        assert one.finish == alone.finish
        assert one.tokens <= own.max_new_tokens
    other_seed = generate(base, [PROMPT], replace(options[0], seed=8))[0]
    assert other_seed.ids != together[0].ids


def test_streamed_pieces_are_the_text(base):
    pieces = []
    options = GenerateOptions(max_new_tokens=30, temperature=2.0, stop=(" answer :",))
    done = generate(base, [PROMPT], options, on_text=pieces.append)[0]
    assert "".join(pieces) == done.text
    plain = generate(base, [PROMPT], replace(options, stop=()))[0]
    ids = encode(base, PROMPT)
    whole = base.tokenizer.decode([*ids, *plain.ids], clean_up_tokenization_spaces=False)
    assert whole.endswith(plain.text)


def test_what_a_checkpoint_recommends_does_not_leak_in(base):
    options = GenerateOptions(max_new_tokens=12)
    wanted = generate(base, [PROMPT], options)[0].ids
    settings_before = base.model.generation_config
    settings_before.repetition_penalty, settings_before.temperature = 9.0, 0.1
    try:
        assert generate(base, [PROMPT], options)[0].ids == wanted
        assert base.model.generation_config is settings_before
    finally:
        settings_before.repetition_penalty = settings_before.temperature = None


def test_positions_end_where_the_model_does(base):
    limit = base.model.config.max_position_embeddings
    ids = [5] * (limit - 3)
    options = GenerateOptions(max_new_tokens=50, temperature=30.0, seed=1)
    done = generate(base, [ids], options)[0]
    assert done.tokens <= 3
    with pytest.raises(UsageError, match=f"the model has {limit} positions"):
        generate(base, [[5] * limit], options)


def test_scores_that_are_no_numbers_are_said(base):
    weight = base.model.lm_head.weight
    kept = weight.data.clone()
    weight.data[0, 0] = torch.nan
    try:
        with pytest.raises(FormatError, match="not numbers") as caught:
            generate(base, [PROMPT], GenerateOptions(max_new_tokens=2))
    finally:
        weight.data.copy_(kept)
    assert "--dtype float32" in caught.value.hint


def test_a_chat_is_in_the_tokenizers_own_template(base):
    messages = [{"role": "user", "content": "hi"}]
    with pytest.raises(UsageError, match="no chat template"):
        templated(base, messages)
    base.tokenizer.chat_template = (
        "{{ bos_token }}{% for m in messages %}{{ m.role }} : {{ m.content }} {% endfor %}answer :"
    )
    try:
        ids = templated(base, messages)
        text = base.tokenizer.apply_chat_template(messages, tokenize=False)
        assert ids == base.tokenizer(text, add_special_tokens=False).input_ids
        assert ids.count(base.tokenizer.bos_token_id) == 1
        base.tokenizer.chat_template = "{{ raise_exception('no system turns') }}"
        with pytest.raises(UsageError, match="no system turns"):
            templated(base, messages)
    finally:
        base.tokenizer.chat_template = None


def test_divergence_is_torchs_and_zero_for_the_same(base):
    ids = encode(base, PROMPT)
    first = log_shares(base, ids, [7, 8, 9])
    assert first.shape == (4, base.model.config.vocab_size)
    assert max(divergence(first, first)) == 0.0
    other = (first + torch.randn(first.shape, generator=torch.Generator().manual_seed(0))).double()
    other = other.log_softmax(-1)
    wanted = torch.nn.functional.kl_div(first, other, reduction="none", log_target=True).sum(-1)
    assert divergence(other, first) == pytest.approx(wanted.tolist(), rel=1e-12)
    with torch.no_grad():
        logits = base.model(input_ids=torch.tensor([[*ids, 7, 8, 9]])).logits[0, -4:]
    assert (first - logits.double().log_softmax(-1)).abs().max() <= 1e-5
