"""Model cards come from strangers: their front matter builds nothing and unfolds to nothing."""

from __future__ import annotations

import time

import pytest

from adaptrix.convert.source import AdapterFiles, MemorySource
from adaptrix.registry.card import MAX_CARD_BYTES, Card, read_card


def card_of(text):
    data = text if isinstance(text, bytes) else text.encode()
    source = MemorySource("README.md", data)
    return read_card(AdapterFiles(location="x", files={"README.md": source}))


def test_what_the_front_matter_says():
    card = card_of(
        "---\nlicense: MIT\ndatasets:\n- a/b\n- c\ndescription: |\n  two\n  lines\n---\n# Hi\n"
    )
    assert (card.license, card.training_data, card.description) == ("MIT", "a/b, c", "two lines")
    assert card.text.endswith("# Hi\n")


BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [{','.join([f'*{chr(97 + n)}'] * 9)}]\n" for n in range(12)
)


@pytest.mark.parametrize(
    "matter",
    [
        BOMB,
        "license: !!python/object/apply:os.system ['touch canary']\n",
        "license: !!python/name:os.system\n",
        "[" * 20_000,
        "license: \x00\n",
        "license: {a: 1}\n",
        "license: [1, 2]\n",
        "- just\n- a list\n",
        "license: 2026-13-45\n",
        "? [1]\n: 2\n",
    ],
    ids=["anchors", "call", "name", "depth", "nul", "object", "list", "top-list", "date", "key"],
)
def test_hostile_front_matter_is_none(matter, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    started = time.monotonic()
    card = card_of(f"---\n{matter}\n---\ntext\n")
    assert time.monotonic() - started < 10
    assert card.license in {"", "2026-13-45"}
    assert card.text.endswith("text\n")
    assert list(tmp_path.iterdir()) == []


def test_a_card_that_is_too_large_or_no_text():
    assert card_of(b"x" * (MAX_CARD_BYTES + 1)) == Card()
    assert card_of(b"---\nlicense: \xff\xfe\n---\n").license == "\ufffd\ufffd"
