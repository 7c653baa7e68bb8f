import ast
import inspect
import re

import pytest

from adaptrix.schema import errors
from adaptrix.schema.errors import AdaptrixError, NotFound
from adaptrix.schema.problems import PROBLEM_CODES, Severity
from adaptrix.schema.report import Problem, Verdict, verdict_of

# The command line's contract, written down once more.
STATUSES = {
    "AdaptrixError": 1, "UsageError": 2, "InvalidReference": 2, "FormatError": 2, "Refused": 1,
    "IncompatibleAdapter": 1, "IntegrityError": 1, "StoreError": 1, "Inconclusive": 3,
    "AccessDenied": 4, "NotFound": 5, "RemoteError": 6, "PolicyRefused": 7, "Interrupted": 130,
}  # fmt: skip


def test_exit_statuses():
    classes = {
        name: cls
        for name, cls in inspect.getmembers(errors, inspect.isclass)
        if issubclass(cls, AdaptrixError)
    }
    assert {name: cls.exit_status for name, cls in classes.items()} == STATUSES
    assert [name for name, cls in classes.items() if cls.temporary] == ["RemoteError"]


def test_codes_are_words_and_differ():
    classes = [AdaptrixError, *AdaptrixError.__subclasses__()]
    codes = [cls.code for cls in classes]
    assert len(set(codes)) == len(codes)
    assert all(re.fullmatch(r"[a-z_]+", code) for code in codes)


def test_the_tree_in_the_docstring_is_the_tree():
    tree = ast.get_docstring(ast.parse(inspect.getsource(errors)))
    written = dict(re.findall(r"([A-Z]\w+)\s+(\d+)  ", tree))
    assert {name: int(status) for name, status in written.items()} == STATUSES


def test_fields_and_text():
    error = NotFound("no such name", where="math:latest", hint="Run adaptrix ls.", code="gone")
    assert str(error) == "math:latest: no such name"
    assert (error.message, error.where, error.hint) == (
        "no such name", "math:latest", "Run adaptrix ls.",
    )  # fmt: skip
    assert error.hints() == ("Run adaptrix ls.",)
    assert error.code == "gone"
    assert NotFound.code == "not_found"
    bare = NotFound("no such name")
    assert (str(bare), bare.hints(), bare.code) == ("no such name", (), "not_found")


def test_problem_codes():
    for code, spec in PROBLEM_CODES.items():
        assert re.fullmatch(r"[a-z0-9_]+", code)
        assert spec.outcome in {"", "FAIL", "INCONCLUSIVE"}
        assert spec.status in STATUSES.values()
        if spec.stops:
            assert spec.severity is Severity.ERROR
            assert spec.outcome
        if spec.severity is Severity.NOTE:
            assert spec.outcome == ""


def test_a_problem_takes_its_severity_and_hint_from_the_table():
    problem = Problem.of("non_finite", "NaN", where="a.b")
    assert problem.severity is Severity.ERROR
    assert problem.hint == PROBLEM_CODES["non_finite"].hint
    assert Problem.of("non_finite", "NaN", hint="Train again.").hint == "Train again."
    with pytest.raises(KeyError):
        Problem.of("no_such_code", "?")


@pytest.mark.parametrize(
    ("codes", "verdict", "status"),
    [
        ((), Verdict.PASS, 0),
        (("ignored_files",), Verdict.PASS, 0),
        (("zero_update",), Verdict.INCONCLUSIVE, 3),
        (("zero_update", "non_finite"), Verdict.FAIL, 1),
    ],
)
def test_verdicts(codes, verdict, status):
    found = verdict_of([Problem.of(code, "") for code in codes])
    assert found is verdict
    assert found.exit_status == status
