"""``run``: batches, comparisons, interrupts; in this process where no terminal is needed."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from safetensors.numpy import load_file, save_file

from adaptrix.cli import main
from adaptrix.cli.chatting import Chat
from adaptrix.cli.comparing import Compared, comparison_lines
from adaptrix.cli.output import Output

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = ROOT / "samples" / "adapters"
MATH = "problem : tom has 3 apples and gets 4 more . how many in all ? answer :"
CODE = "function : take x , add 5 . code :"


@pytest.fixture(scope="module")
def stocked(tmp_path_factory):
    home = tmp_path_factory.mktemp("run") / "home"
    for name in ("math", "code"):
        assert main.run(["pull", str(SAMPLES / name), "--as", name, "--home", str(home), "-q"]) == 0
    return home


@pytest.fixture
def adaptrix(stocked, capsysbinary, monkeypatch):
    def run(*arguments, stdin=b""):
        typed = SimpleNamespace(buffer=io.BytesIO(stdin), isatty=lambda: False)
        monkeypatch.setattr(sys, "stdin", typed)
        status = main.run(["run", *map(str, arguments), "--home", str(stocked)])
        out, err = capsysbinary.readouterr()
        return status, out.decode(), err.decode()

    return run


def batch(path, *lines):
    path.write_text("\n".join(json.dumps(line) for line in lines), "utf-8")
    return path


MIXED = (
    {"prompt": MATH, "id": "a"},
    {"prompt": CODE, "adapters": "code"},
    {"prompt": CODE, "adapters": ["code"], "weights": [1.0], "stop": " x )"},
    {"prompt": MATH, "adapters": {"math": 0.9, "code:latest": 0.3}, "seed": 3},
    {"prompt": MATH, "adapters": [], "max_tokens": 3},
    {"prompt": MATH, "weights": {"math": 1}, "temperature": 2.5, "top_k": 40, "seed": 7},
)


def test_rows_of_a_batch_have_their_own_adapters_in_order(adaptrix, tmp_path):
    file = batch(tmp_path / "b.jsonl", *MIXED)
    status, out, err = adaptrix("--adapters", "math", "--batch", file, "--batch-size", 4)
    rows = [json.loads(line) for line in out.splitlines()]
    assert status == 0, err
    assert [row["index"] for row in rows] == list(range(6))
    assert rows[0]["id"] == "a"
    assert rows[0]["text"].strip() == "3 + 4 = 7"
    assert rows[1]["text"].strip() == "def f ( x ) : return x + 5"
    assert rows[2]["text"] == " def f ("
    assert [entry["weight"] for entry in rows[3]["adapters"]] == [0.9, 0.3]
    assert (rows[4]["adapters"], rows[4]["tokens"], rows[4]["finish"]) == ([], 3, "length")
    assert [row["finish"] for row in rows[:3]] == ["end", "end", "stop"]
    assert "attached" in err
    merged = adaptrix("--adapters", "math", "--batch", "-", "--mode", "merged",
                      stdin=file.read_bytes())  # fmt: skip
    assert merged[1] == out
    one = adaptrix("--adapters", "math", "-p", MATH, "--temperature", 2.5, "--top-k", 40,
                   "--seed", 7, "--json")  # fmt: skip
    assert json.loads(one[1])["text"] == rows[5]["text"]


def test_a_batch_with_one_set_is_merged_and_json_is_one_document(adaptrix, tmp_path):
    file = batch(tmp_path / "b.jsonl", {"prompt": MATH}, {"prompt": MATH, "adapters": "math=1"})
    status, out, _ = adaptrix("--adapters", "math", "--batch", file, "--json")
    document = json.loads(out)
    assert status == 0
    assert document["mode"] == "merged"
    assert document["rows"][0]["text"] == document["rows"][1]["text"]
    assert document["tokens"] == sum(row["tokens"] for row in document["rows"])


@pytest.mark.parametrize("mode", ["merged", "attached"])
def test_a_set_that_says_nothing_is_not_forgotten_by_later_rows(adaptrix, stocked, tmp_path, mode):
    folder = Path(shutil.copytree(SAMPLES / "math", tmp_path / "zero"))
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    save_file({n: t * 0 if "lora_B" in n else t for n, t in tensors.items()}, file)
    main.run(["pull", str(folder), "--as", f"zero-{mode}", "--home", str(stocked), "-q"])
    lines = ({"prompt": MATH, "adapters": f"zero-{mode}"}, {"prompt": MATH}, {"prompt": CODE})
    given = batch(tmp_path / "b.jsonl", *lines)
    status, out, err = adaptrix("--adapters", "math", "--batch", given, "--batch-size", 2,
                                "--mode", mode)  # fmt: skip
    assert sum(line.startswith("{") for line in out.splitlines()) == 3
    assert status == 3, err
    assert "zero_module" in err


@pytest.mark.parametrize(
    ("line", "status", "said"),
    [
        ('{"prompt": "a", "adaptors": []}', 2, ":2: adaptors: Extra"),
        ("{", 2, ":2: Invalid JSON"),
        ("{}", 2, "expected either prompt or messages"),
        ('{"prompt": "a", "weights": [1, 2]}', 2, ":2: 2 weights for 1 adapters"),
        ('{"prompt": "a", "weights": {"code": 1}}', 2, "a weight for code, which is not used"),
        ('{"prompt": "a", "temperature": -1}', 2, ":2: temperature: expected 0"),
        ('{"prompt": "a", "stop": [""]}', 2, "a stop string is empty"),
        ('{"prompt": "a", "adapters": "nobody"}', 5, "nobody"),
        ('{"prompt": "a", "adapters": ["math", "math:latest"]}', 2, "named twice"),
        ('{"prompt": ""}', 2, ":2: the prompt has no tokens"),
        ('{"messages": [{"role": "user", "content": "a"}]}', 2, ":2: this base has no chat"),
    ],
)
def test_a_mistake_in_any_line_is_found_before_the_first_runs(
    adaptrix, tmp_path, line, status, said
):
    file = tmp_path / "b.jsonl"
    file.write_text(json.dumps({"prompt": MATH}) + "\n" + line)
    got, out, err = adaptrix("--adapters", "math", "--batch", file)
    assert (got, out) == (status, "")
    assert said in err


def test_batches_that_cannot_be(adaptrix, tmp_path):
    assert adaptrix("--batch", tmp_path / "none.jsonl")[0] == 5
    (tmp_path / "empty.jsonl").write_text("\n\n")
    assert adaptrix("--batch", tmp_path / "empty.jsonl")[0] == 2
    assert adaptrix("--batch", "-", "-p", "x")[0] == 2
    status, _, err = adaptrix("-p", "x")
    assert (status, "Pass --adapters" in err) == (2, True)


def test_the_base_runs_alone(adaptrix):
    status, out, _ = adaptrix("--base", "sample", "-p", MATH, "--max-new-tokens", 3, "--json")
    document = json.loads(out)
    assert (status, document["adapters"], document["tokens"]) == (0, [], 3)
    assert document["finish"] == "length"


def test_stdin_is_taken_byte_by_byte(adaptrix):
    exact = adaptrix("--base", "sample", "-p", MATH, "--max-new-tokens", 3)[1]
    assert adaptrix("--base", "sample", "-p", "-", "--max-new-tokens", 3,
                    stdin=MATH.encode())[1] == exact  # fmt: skip
    assert adaptrix("--base", "sample", "-p", "-", stdin=b"\xff")[0] == 2


@pytest.mark.parametrize("mode", ["merged", "attached"])
def test_compare_measures_the_distance_from_the_base(adaptrix, mode):
    status, out, err = adaptrix("--adapters", "math,code=0.5", "--compare", "-p", MATH, "--json",
                                "--mode", mode)  # fmt: skip
    assert status == 0, err
    rows = json.loads(out)["rows"]
    labels = ["base", "math:latest", "0.5·code:latest", "math:latest + 0.5·code:latest"]
    assert [row["adapters"] for row in rows] == labels
    assert rows[0]["kl_nats"] == [0.0] * len(rows[0]["kl_nats"])
    assert rows[1]["kl_nats"][0] > 1.0 > rows[2]["kl_nats"][0]
    assert all(len(row["kl_nats"]) == len(rows[0]["kl_nats"]) for row in rows)
    assert rows[1]["text"].strip() == "3 + 4 = 7"


def test_columns_keep_every_blank(monkeypatch):
    found = [
        Compared(label="base", text="a  b\n\n  c", tokens=1, kl_nats=(0.0,)),
        Compared(label="math", text="x" * 70, tokens=1, kl_nats=(0.5, 1.5)),
    ]
    monkeypatch.setenv("COLUMNS", "62")
    assert comparison_lines(found)[:2] == ["base:", "a  b"]
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    lines = comparison_lines(found)
    assert lines[0].split("  ", 1)[0] == "base"
    assert "math (KL 1)" in lines[0]
    assert [line[:30].rstrip() for line in lines[2:]] == ["a  b", "", "  c"]
    assert "".join(line[32:] for line in lines[2:]) == "x" * 70
    monkeypatch.setenv("COLUMNS", "30")
    assert comparison_lines(found)[0] == "base:"


class Answering:
    """A session that echoes, so that a chat's own conduct can be seen."""

    def __init__(self, template=None):
        tokenizer = SimpleNamespace(chat_template=template)
        self.base = SimpleNamespace(tokenizer=tokenizer, name="base")
        self.known = {"math:latest": None}
        self.prompts, self.used = [], []

    def generate(self, prompts, options, *, on_text):
        self.prompts += prompts
        on_text("par")
        if "stop" in str(prompts[0]):
            raise KeyboardInterrupt
        on_text("rot")
        return [SimpleNamespace(tokens=2)]

    def use(self, weights):
        self.used.append(weights)

    def self_check(self):
        pass


def chat(session, text, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    talk = Chat(session, None, Output())
    talk.run()
    return talk


def test_a_chat_line_by_line(monkeypatch, capsys):
    session = Answering()
    chat(
        session, "one\n\n/nonsense\n/use math=0.5\n/use code\nstop it\ntwo\n/exit\nx\n", monkeypatch
    )
    out, err = capsys.readouterr()
    assert session.prompts == ["one", "stop it", "two"]
    assert session.used == [{"math:latest": 0.5}]
    assert out == "parrot\npar\nparrot\n"
    assert "no command /nonsense" in err
    assert "no code here; there are math:latest" in err
    assert "(stopped)" in err


def test_a_chat_remembers_where_there_is_a_template(monkeypatch, capsys):
    from adaptrix.loader import generate as module

    monkeypatch.setattr(
        module, "templated", lambda _base, messages: [m["content"] for m in messages]
    )
    monkeypatch.setattr(module, "encode", lambda _base, prompt: list(prompt))
    session = Answering("template")
    talk = chat(session, "one\nstop\ntwo\n/reset\nthree\n", monkeypatch)
    assert session.prompts == [
        ["one"], ["one", "parrot", "stop"], ["one", "parrot", "stop", "par", "two"], ["three"],
    ]  # fmt: skip
    assert [message["role"] for message in talk.messages] == ["user", "assistant"]
    assert "it remembers" in capsys.readouterr().err


@pytest.mark.parametrize("reader_leaves", [False, True])
def test_an_interrupt_keeps_what_was_said(stocked, reader_leaves):
    process = subprocess.Popen(
        [sys.executable, "-m", "adaptrix.cli.main", "run", "--base", "sample", "-p", "problem :",
         "--temperature", "90", "--max-new-tokens", "230", "--home", str(stocked)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
    )  # fmt: skip
    with process:
        first = process.stdout.read(1)
        process.send_signal(signal.SIGINT)
        if reader_leaves:
            process.stdout.close()
        rest = "" if reader_leaves else process.stdout.read()
        err = process.stderr.read()
    assert process.returncode == 130, err
    assert first
    assert reader_leaves or rest.endswith("\n")
    assert "the store is consistent" in err
    assert "Traceback" not in err


def test_a_saved_model_verifies_and_answers(stocked, adaptrix, tmp_path):
    folder = tmp_path / "merged"
    status, out, err = adaptrix("--adapters", "math", "--save", folder, "--json")
    assert status == 0, err
    document = json.loads(out)
    assert (document["path"], document["verdict"]) == (str(folder), "PASS")
    assert document["bytes"] == sum(path.stat().st_size for path in folder.iterdir())
    recipe = json.loads((folder / "adaptrix.json").read_text())
    assert recipe["adapters"] == document["adapters"]
    _, merged, _ = adaptrix("--base", folder, "-p", MATH)
    _, wanted, _ = adaptrix("--adapters", "math", "-p", MATH)
    assert merged == wanted
    verify = ["verify", "math", "--base", "sample", "--merged", str(folder), "--home", str(stocked)]
    assert main.run(verify) == 0
    assert main.run([*verify[:1], "code", *verify[2:]]) == 1


def test_save_is_refused_before_anything_is_loaded(adaptrix, tmp_path):
    (tmp_path / "kept").write_text("mine")
    status, _, err = adaptrix("--adapters", "math", "--save", tmp_path, "-p", MATH)
    assert (status, "new or empty folder" in err) == (2, True)
    for other in (["--compare", "-p", MATH], ["--mode", "attached"]):
        status, _, err = adaptrix("--adapters", "math", "--save", tmp_path / "new", *other)
        assert (status, "--save excludes" in err) == (2, True)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
