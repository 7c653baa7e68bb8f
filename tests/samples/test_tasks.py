"""Generators are deterministic, splits do not overlap, and the evaluator runs nothing."""

from __future__ import annotations

import itertools

import pytest
import torch

from adaptrix.samples.evaluator import CodeRefused, compile_function
from adaptrix.samples.metrics import exact_match, score
from adaptrix.samples.tasks import SPLITS, TASKS, Item, generate, items, read_heldout, split_of


@pytest.mark.parametrize("task", TASKS)
def test_committed_items_are_the_generated_ones(task):
    found = read_heldout(task)
    assert found == items(task, "heldout")
    assert len({item.prompt for item in found}) == len(found) >= 200
    assert score([item.answer for item in found], found) == 1.0


@pytest.mark.parametrize("task", TASKS)
def test_splits_do_not_overlap(task):
    seen = {
        split: {i.prompt for i in itertools.islice(generate(task, split, 1), 500)}
        for split in SPLITS
    }
    for one, other in itertools.combinations(SPLITS, 2):
        assert not seen[one] & seen[other]
    for split, prompts in seen.items():
        assert {split_of(prompt) for prompt in prompts} == {split}


@pytest.mark.parametrize(
    "source",
    ["import os", "def f ( x ) : return open(x)", "def f ( x ) : return x . y", "def f ( x ) : return y",
     "def f ( x ) : return x ** 99999", "def f ( x , y ) : return x", "def f ( x = 1 ) : return x",
     "def f ( x ) :\n while True : pass", "lambda x : x", "def f ( x ) : return 'a' * x",
     "def f ( * x ) : return 1", "def f ( x ) : return x if x else 1", "def f(x): return " + "(" * 300,
     "@f\ndef f ( x ) : return x", "def f ( x ) : return True"],
)  # fmt: skip
def test_evaluator_refuses(source):
    with pytest.raises(CodeRefused):
        compile_function(source)(2)


def test_evaluator_computes_and_bounds():
    assert compile_function("def f ( x ) : return ( x + 2 ) * 3 - - 1")(4) == 19
    assert compile_function("def g(n): return n // 2 % 3")(11) == 2
    with pytest.raises(CodeRefused):
        compile_function("def f ( x ) : return x // 0")(1)
    with pytest.raises(CodeRefused):
        compile_function("def f ( x ) : return x * x * x")(10**6)


def test_code_is_judged_by_what_it_computes():
    item = Item(
        task="code", prompt="p", answer="def f ( x ) : return x * 2", checks=((3, 6), (5, 10))
    )
    assert exact_match(" def f ( x ) : return x + x\n", item)
    assert not exact_match("def f ( x ) : return x + 3", item)
    assert not exact_match("", item)


def test_legacy_layout_computes_what_transformers_does():
    from transformers import PhiForCausalLM

    from adaptrix.samples import BASE_DIR
    from adaptrix.samples.legacy_phi import LegacyPhi

    model = PhiForCausalLM.from_pretrained(BASE_DIR, dtype=torch.float32).eval()
    ids = torch.randint(2, 600, (2, 31), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        wanted, got = model(input_ids=ids).logits, LegacyPhi(model).eval()(ids)
    assert (got - wanted).abs().max() <= 1e-5 * wanted.abs().max()


def test_base_is_what_the_documents_say():
    from adaptrix.samples import BASE_DIR, SAMPLES_DIR

    total = sum(path.stat().st_size for path in BASE_DIR.iterdir())
    assert total <= 16e6
    assert (SAMPLES_DIR / "base" / "config.json").read_text().count("PhiForCausalLM") == 1
