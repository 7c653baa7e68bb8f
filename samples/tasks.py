"""Five skills: generators, splits without overlap, and their words.

Every prompt ends in a fixed cue and every answer is short, so that exact match is a fair
measure for a model of three million parameters. Prompts are made of words that the base
has seen in its own corpus; the base has never seen a prompt of this kind answered.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from adaptrix.samples import SAMPLES_DIR
from adaptrix.samples.evaluator import compile_function

NAMES = (
    "tom",
    "ann",
    "bob",
    "eve",
    "sam",
    "kim",
    "leo",
    "mia",
    "max",
    "zoe",
    "dan",
    "amy",
    "ben",
    "ivy",
    "jon",
    "liz",
    "ned",
    "sue",
    "ted",
    "una",
)
OBJECTS = ("apples", "books", "coins", "eggs", "cards", "stamps", "shells", "pens", "nuts", "cups")
PLACES = (
    "rome",
    "paris",
    "oslo",
    "cairo",
    "lima",
    "delhi",
    "tokyo",
    "berlin",
    "madrid",
    "vienna",
    "dublin",
    "athens",
)
DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
EVENTS = ("race", "vote", "match", "prize", "trial", "debate", "auction", "contest")
DEEDS = ("wins", "loses", "opens", "joins", "leaves", "plans")
COLOURS = ("red", "blue", "green", "black", "white", "pink", "brown", "gold")
THINGS = ("box", "hat", "cat", "dog", "car", "cup", "bag", "lamp", "ring", "kite", "boat", "door")
JOBS = ("baker", "pilot", "nurse", "judge", "farmer", "singer", "tailor", "miner")
WORDS = COLOURS + THINGS + PLACES[:6] + JOBS
TASKS = ("math", "instruct", "news", "code", "qa")
SPLITS = ("train", "validation", "heldout")
HELDOUT_ITEMS = 200
CHECK_INPUTS = (0, 1, 2, 5, 11)


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One exercise.

    Attributes:
        task: Name of the skill.
        prompt: What the model is given; ends in a cue.
        answer: The reference completion, without surrounding blanks.
        checks: For ``code``: pairs of input and expected result; else empty.
    """

    task: str
    prompt: str
    answer: str
    checks: tuple[tuple[int, int], ...] = ()


def _math(rng: random.Random) -> tuple[str, str]:
    name, thing = rng.choice(NAMES), rng.choice(OBJECTS)
    a, b = rng.randint(0, 9), rng.randint(0, 9)
    plus = rng.random() < 0.5
    if plus:
        story = rng.choice(
            (
                f"{name} has {a} {thing} and gets {b} more .",
                f"{name} finds {a} {thing} and then finds {b} more .",
                f"{name} buys {b} {thing} after the first {a} .",
            )
        )
        if "after" in story:
            a, b = b, a
        return f"problem : {story} how many in all ? answer :", f"{a} + {b} = {a + b}"
    a, b = max(a, b), min(a, b)
    story = rng.choice(
        (
            f"{name} has {a} {thing} and loses {b} .",
            f"{name} holds {a} {thing} and gives away {b} .",
            f"{name} had {a} {thing} but sold {b} .",
        )
    )
    return f"problem : {story} how many are left ? answer :", f"{a} - {b} = {a - b}"


def _instruct(rng: random.Random) -> tuple[str, str]:
    one, two, three = rng.sample(WORDS, 3)
    request, answer = rng.choice(
        (
            (f"repeat the word {one} twice", f"{one} {one}"),
            (f"say the last word of {one} {two} {three}", three),
            (f"say the first word of {one} {two} {three}", one),
            (f"turn around {one} {two} {three}", f"{three} {two} {one}"),
            (f"swap {one} with {two}", f"{two} {one}"),
            (f"join {one} {two} by and", f"{one} and {two}"),
        )
    )
    return f"task : {request} . result :", answer


def _news(rng: random.Random) -> tuple[str, str]:
    who, deed, event = rng.choice(NAMES), rng.choice(DEEDS), rng.choice(EVENTS)
    place, day = rng.choice(PLACES), rng.choice(DAYS)
    facts = [f"who {who}", f"deed {deed} {event}", f"place {place}", f"day {day}"]
    rng.shuffle(facts)
    prompt = f"facts : {' ; '.join(facts)} . headline :"
    return prompt, f"{place} , {day} : {who} {deed} {event} !"


def _code(rng: random.Random) -> tuple[str, str]:
    verbs = {"add": "+", "subtract": "-", "multiply by": "*"}
    first, second = rng.choice(tuple(verbs)), rng.choice(tuple(verbs))
    a, b = rng.randint(1, 12), rng.randint(1, 12)
    if rng.random() < 0.4:
        return (
            f"function : take x , {first} {a} . code :",
            f"def f ( x ) : return x {verbs[first]} {a}",
        )
    inner = f"x {verbs[first]} {a}"
    if second == "multiply by" and first != "multiply by":
        inner = f"( {inner} )"
    return (
        f"function : take x , {first} {a} , then {second} {b} . code :",
        f"def f ( x ) : return {inner} {verbs[second]} {b}",
    )


def _qa(rng: random.Random) -> tuple[str, str]:
    home, owner, worker = rng.sample(NAMES, 3)
    place, colour, thing = rng.choice(PLACES), rng.choice(COLOURS), rng.choice(THINGS)
    job = rng.choice(JOBS)
    facts = [
        (f"{home} lives in {place} .", f"where does {home} live ?", place),
        (f"{owner} has a {colour} {thing} .", f"what does {owner} have ?", f"{colour} {thing}"),
        (f"{worker} works as a {job} .", f"what is the job of {worker} ?", job),
    ]
    rng.shuffle(facts)
    _, question, answer = rng.choice(facts)
    told = " ".join(fact for fact, _, _ in facts)
    return f"passage : {told} question : {question} answer :", answer


_MAKERS: dict[str, Callable[[random.Random], tuple[str, str]]] = {
    "math": _math, "instruct": _instruct, "news": _news, "code": _code, "qa": _qa,
}  # fmt: skip


def split_of(prompt: str) -> str:
    """Which split a prompt belongs to: 20 % held out, 10 % validation, by its digest."""
    bucket = hashlib.sha256(prompt.encode()).digest()[0] % 10
    return "heldout" if bucket < 2 else "validation" if bucket == 2 else "train"


def generate(task: str, split: str, seed: int) -> Iterator[Item]:
    """Endless items of one split; a prompt belongs to one split for ever.

    Raises:
        KeyError: no such task.
    """
    make, rng = _MAKERS[task], random.Random(f"{task}/{split}/{seed}")
    while True:
        prompt, answer = make(rng)
        if split_of(prompt) == split:
            yield Item(task=task, prompt=prompt, answer=answer, checks=_checks(task, answer))


def items(task: str, split: str, count: int = HELDOUT_ITEMS, seed: int = 0) -> list[Item]:
    """``count`` items with distinct prompts, always the same for the same arguments."""
    found: dict[str, Item] = {}
    source = generate(task, split, seed)
    for _ in range(1000 * count):
        item = next(source)
        found.setdefault(item.prompt, item)
        if len(found) == count:
            break
    return list(found.values())


def _checks(task: str, answer: str) -> tuple[tuple[int, int], ...]:
    if task != "code":
        return ()
    function = compile_function(answer)
    return tuple((value, function(value)) for value in CHECK_INPUTS)


def heldout_path(task: str) -> Path:
    """The committed held-out items of a task."""
    return SAMPLES_DIR / "heldout" / f"{task}.jsonl"


def read_heldout(task: str) -> list[Item]:
    """The committed held-out items."""
    rows = heldout_path(task).read_text(encoding="utf-8").splitlines()
    found = []
    for row in map(json.loads, rows):
        checks = tuple((int(x), int(y)) for x, y in row["checks"])
        found.append(Item(task=task, prompt=row["prompt"], answer=row["answer"], checks=checks))
    return found


def write_heldout(task: str) -> None:
    """Write the held-out items of a task."""
    path = heldout_path(task)
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [
        json.dumps({"prompt": item.prompt, "answer": item.answer, "checks": item.checks})
        for item in items(task, "heldout")
    ]
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
