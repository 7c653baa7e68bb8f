"""The sink: escapes, encodings, exclusive modes, and what reaches a terminal."""

from __future__ import annotations

import io
import json

import pytest

from adaptrix.cli.output import Output, clean, clean_prose, plain, size_text, table
from adaptrix.schema.report import Problem, Verdict


class Terminal(io.TextIOWrapper):
    """A text stream that says it is a terminal."""

    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain é 漢\t.", "plain é 漢\t."),
        ("\x1b[2J", "\\x1b[2J"),
        ("a\nerror: forged", "a\\nerror: forged"),
        ("\u202eevil\u2066", "\\u202eevil\\u2066"),
        ("\x9b31m\x7f", "\\x9b31m\\x7f"),
        ("\u2028", "\\u2028"),
    ],
)
def test_a_line_stays_one_harmless_line(text, shown):
    assert clean(text) == shown


def test_generated_text_keeps_lines_and_joiners_and_loses_escapes():
    assert clean_prose("a\n\tb 👩\u200d💻") == "a\n\tb 👩\u200d💻"
    assert clean_prose("\x1b]0;title\x07 \u202e") == "\\x1b]0;title\\x07 \\u202e"


def test_generated_text_is_untouched_in_a_pipe_and_escaped_on_a_terminal(monkeypatch):
    for stream, shown in ((io.TextIOWrapper, "\x1b[1m"), (Terminal, "\\x1b[1m")):
        raw = io.BytesIO()
        monkeypatch.setattr("sys.stdout", stream(raw, encoding="utf-8"))
        Output().piece("\x1b[1m")
        assert raw.getvalue().decode() == shown


def test_json_is_ascii_and_has_no_nan(monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(raw, encoding="ascii"))
    Output(as_json=True).document({"name": "é\x9b\u202e", "error": float("nan")})
    document = json.loads(raw.getvalue().decode("ascii"))
    assert document == {"schema_version": 1, "name": "é\x9b\u202e", "error": None}


def test_narrow_terminals_get_words_for_our_signs(monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(raw, encoding="ascii"))
    Output().document({}, lines=["1·math … é"])
    assert raw.getvalue() == b"1*math ... \\xe9\n"


def test_generated_text_is_never_put_in_other_words(monkeypatch):
    for encoding, shown in (
        ("ascii", b"a\\u2026 \\u2192 \\xe9"),
        ("latin-1", b"a\\u2026 \\u2192 \xe9"),
    ):
        raw = io.BytesIO()
        monkeypatch.setattr("sys.stdout", io.TextIOWrapper(raw, encoding=encoding))
        Output().piece("a… → é")
        assert raw.getvalue() == shown


def test_quiet_prints_identifiers_only(capsys):
    out = Output(quiet=True)
    out.document({"a": 1}, lines=["for people"], ids=["x", "y"])
    out.hint("next")
    assert capsys.readouterr() == ("x\ny\n", "")


def test_problems_go_to_stderr_with_what_to_do(capsys):
    problem = Problem.of("zero_update", "B is zero", where="layer\n0")
    Output().problems([problem])
    Output(as_json=True).problems([problem])
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "zero_update [layer\\n0]: B is zero" in printed.err
    assert printed.err.count("B is zero") == 1


def test_values_become_json_types():
    assert plain({"v": Verdict.PASS, "t": (1, 2.5), "s": {3}}) == {"v": "PASS", "t": [1, 2.5], "s": [3]}  # fmt: skip


def test_tables_align_and_sizes_read_well():
    assert table(("A", "BB"), [("xyz", 1)]) == ["A    BB", "xyz  1"]
    assert [size_text(n) for n in (0, 999, 1000, 42_000_000)] == ["0 B", "999 B", "1.0 kB", "42.0 MB"]  # fmt: skip
