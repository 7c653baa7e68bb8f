"""The base model's own text: ingredients of the skills, and none of their prompts.

All of it is generated here: equations of small numbers, lists that are copied or turned
around, statements about people that come back later, lines of Python, keyed lists.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

from adaptrix.samples.tasks import (
    COLOURS,
    DAYS,
    DEEDS,
    EVENTS,
    JOBS,
    NAMES,
    OBJECTS,
    PLACES,
    THINGS,
    WORDS,
)  # fmt: skip

ALL_WORDS = tuple(sorted({*WORDS, *NAMES, *OBJECTS, *PLACES, *DAYS, *EVENTS, *DEEDS, *JOBS}))
GLUE = (
    "problem : how many in all ? how many are left ? answer : has gets more finds then buys after "
    "the first loses holds gives away had but sold and task : repeat the word twice say the last "
    "of turn around swap with join by result : facts : who deed place day headline : function : "
    "take x , add subtract multiply code : passage : lives in works as a question : where does "
    "live what have is the job ; . !"
)


def _number(rng: random.Random) -> str:
    return str(rng.randint(0, 18))


def _equation(rng: random.Random) -> str:
    lines = []
    for _ in range(rng.randint(2, 4)):
        a, b = rng.randint(0, 9), rng.randint(0, 9)
        if rng.random() < 0.5:
            lines.append(f"{a} + {b} = {a + b}")
        else:
            a, b = max(a, b), min(a, b)
            lines.append(f"{a} - {b} = {a - b}")
    return " ; ".join(lines)


def _copy(rng: random.Random) -> str:
    words = [rng.choice(ALL_WORDS) for _ in range(rng.randint(2, 7))]
    text = " ".join(words)
    return f"{text} / {text}" + (f" / {text}" if rng.random() < 0.3 else "")


def _turned(rng: random.Random) -> str:
    words = rng.sample(ALL_WORDS, rng.randint(2, 4))
    return f"{' '.join(words)} < {' '.join(reversed(words))}"


def _picked(rng: random.Random) -> str:
    words = rng.sample(ALL_WORDS, rng.randint(2, 4))
    return f"{' '.join(words)} > {words[-1]} - {words[0]}"


def _statement(rng: random.Random, name: str, kind: int) -> str:
    if kind == 0:
        return f"{name} lives in {rng.choice(PLACES)} ."
    if kind == 1:
        return f"{name} has a {rng.choice(COLOURS)} {rng.choice(THINGS)} ."
    if kind == 2:
        return f"{name} works as a {rng.choice(JOBS)} ."
    return f"{name} has {_number(rng)} {rng.choice(OBJECTS)} ."


def _passage(rng: random.Random) -> str:
    names = rng.sample(NAMES, rng.randint(2, 4))
    told = [_statement(rng, name, rng.randrange(4)) for name in names]
    again = rng.sample(told, rng.randint(1, 2))
    return " ".join([*told, "yes ,", *again])


def _passage_of_a_kind(rng: random.Random) -> str:
    """Statements that differ in little but the name, so that the name has to be looked up."""
    kind = rng.randrange(3)
    names = rng.sample(NAMES, rng.randint(2, 4))
    told = [_statement(rng, name, kind) for name in names]
    return " ".join([*told, "yes ,", *rng.sample(told, len(told))])


def _python(rng: random.Random) -> str:
    a, b = rng.randint(0, 12), rng.randint(0, 12)
    one, two = rng.choice("+-*"), rng.choice("+-*")
    body = rng.choice((f"x {one} {a}", f"x {one} {a} {two} {b}", f"( x {one} {a} ) {two} {b}"))
    return f"def f ( x ) : return {body}"


def _keyed(rng: random.Random) -> str:
    values = {
        "who": rng.choice(NAMES),
        "place": rng.choice(PLACES),
        "day": rng.choice(DAYS),
        "deed": f"{rng.choice(DEEDS)} {rng.choice(EVENTS)}",
    }
    keys = rng.sample(sorted(values), rng.randint(2, 4))
    told = " ; ".join(f"{key} {values[key]}" for key in keys)
    again = " ; ".join(
        f"{key} {values[key]}" for key in rng.sample(keys, rng.randint(1, len(keys)))
    )
    return f"{told} / {again}"


def _sentence(rng: random.Random) -> str:
    name, place, day = rng.choice(NAMES), rng.choice(PLACES), rng.choice(DAYS)
    what = f"{rng.choice(DEEDS)} the {rng.choice(EVENTS)}"
    return rng.choice(
        (
            f"on {day} {name} {what} in {place} .",
            f"in {place} , {day} : {name} {what} !",
            f"{name} {what} and gets {_number(rng)} {rng.choice(OBJECTS)} .",
        )
    )


def _words(rng: random.Random) -> str:
    glue = GLUE.split()
    text = " ".join(rng.choice(glue if rng.random() < 0.6 else ALL_WORDS) for _ in range(6))
    return f"{text} / {text}"


_KINDS: tuple[tuple[Callable[[random.Random], str], float], ...] = (
    (_equation, 2.0), (_copy, 2.0), (_turned, 1.0), (_picked, 1.0), (_passage, 2.5),
    (_python, 1.0), (_keyed, 2.0), (_sentence, 1.0), (_words, 1.0),
)  # fmt: skip


def documents(seed: int, *, passages: bool = False) -> Iterator[str]:
    """Endless lines of the base corpus; with ``passages``, half are hard passages."""
    rng = random.Random(f"corpus/{seed}")
    kinds, weights = zip(*_KINDS, strict=True)
    while True:
        if passages and rng.random() < 0.5:
            yield _passage_of_a_kind(rng)
        else:
            yield rng.choices(kinds, weights)[0](rng)


def cloze(seed: int = 7, count: int = 200) -> dict[str, list[tuple[str, str]]]:
    """Prompts of the corpus's own kinds with the one continuation that is right."""
    rng = random.Random(f"cloze/{seed}")
    found: dict[str, list[tuple[str, str]]] = {"equations": [], "copies": [], "passages": []}
    for _ in range(count):
        left, _, right = _equation(rng).rpartition("= ")
        found["equations"].append((f"{left}=", right))
        words = [rng.choice(ALL_WORDS) for _ in range(4)]
        found["copies"].append((f"{' '.join(words)} / {' '.join(words[:3])}", words[3]))
        names = rng.sample(NAMES, 3)
        places = rng.sample(PLACES, 3)
        told = " ".join(f"{n} lives in {p} ." for n, p in zip(names, places, strict=True))
        pick = rng.randrange(3)
        found["passages"].append((f"{told} yes , {names[pick]} lives in", places[pick]))
    return found
