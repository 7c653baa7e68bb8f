"""What ``--json`` prints, held against the published schemas by a validator of our own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from adaptrix.cli.commands import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = ROOT / "samples" / "adapters"
SCHEMAS = ROOT / "docs" / "schema"
KINDS = {
    "string": str, "integer": int, "number": (int, float), "boolean": bool, "null": type(None),
    "array": list, "object": dict,
}  # fmt: skip


def violations(value, schema, defs, where="$"):
    """The few keywords of JSON Schema that pydantic writes."""
    if "$ref" in schema:
        yield from violations(value, defs[schema["$ref"].rpartition("/")[2]], defs, where)
        return
    if "anyOf" in schema:
        if all(list(violations(value, option, defs, where)) for option in schema["anyOf"]):
            yield f"{where}: fits no alternative"
        return
    if "const" in schema and value != schema["const"]:
        yield f"{where}: expected {schema['const']}"
    if "enum" in schema and value not in schema["enum"]:
        yield f"{where}: {value!r} is not one of {schema['enum']}"
    kind = schema.get("type")
    wrong_bool = isinstance(value, bool) and kind in {"integer", "number"}
    if kind and (not isinstance(value, KINDS[kind]) or wrong_bool):
        yield f"{where}: {value!r} is no {kind}"
        return
    if kind == "array" and isinstance(schema.get("items"), dict):
        for index, entry in enumerate(value):
            yield from violations(entry, schema["items"], defs, f"{where}[{index}]")
    if kind == "object":
        yield from object_violations(value, schema, defs, where)


def object_violations(value, schema, defs, where):
    known = schema.get("properties", {})
    for name in schema.get("required", []):
        if name not in value:
            yield f"{where}: {name} is missing"
    for name, entry in value.items():
        if name in known:
            yield from violations(entry, known[name], defs, f"{where}.{name}")
        elif known:
            yield f"{where}: {name} is not in the schema"


def schema_of(name):
    return json.loads((SCHEMAS / f"{name}.json").read_text("utf-8"))


def run(home, *arguments, stdin=""):
    settings = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "ADAPTRIX_HOME": str(home)}
    return subprocess.run(
        [sys.executable, "-m", "adaptrix.cli.main", *map(str, arguments), "--json"],
        check=False, capture_output=True, text=True, timeout=120, env=settings, input=stdin,
    )  # fmt: skip


@pytest.fixture(scope="module")
def stocked(tmp_path_factory):
    home = tmp_path_factory.mktemp("documents") / "home"
    for name in ("math", "code"):
        done = run(home, "pull", SAMPLES / name, "--as", name)
        assert done.returncode == 0, done.stderr
    return home


def test_every_command_has_a_published_schema():
    published = {path.stem for path in SCHEMAS.glob("*.json")}
    assert {function.__name__ for function in COMMANDS} <= published


@pytest.mark.parametrize(
    ("schema", "arguments"),
    [
        ("init", ["init"]),
        ("pull", ["pull", SAMPLES / "news", "--as", "news", "--dry-run"]),
        ("inspect", ["inspect", SAMPLES / "qa"]),
        ("inspect", ["inspect", SAMPLES.parent / "base"]),
        ("compose", ["compose", "math", "code", "-o", "mix", "--dry-run"]),
        ("ls", ["ls"]),
        ("search", ["search", "math"]),
        ("search", ["search", "math family:phi rank:1.. size:<1GB", "--limit", "1"]),
        ("similar", ["similar", "math"]),
        ("show", ["show", "math"]),
        ("log", ["log", "math"]),
        ("log", ["log", "math", "--moves"]),
        ("diff", ["diff", "math", "code"]),
        ("reflog", ["reflog"]),
        ("restore", ["restore", "math", "code", "--dry-run"]),
        ("tag", ["tag", "math", "v9"]),
        ("rm", ["rm", "code", "--dry-run"]),
        ("gc", ["gc", "--dry-run"]),
        ("du", ["du"]),
        ("export-layout", ["export", "--oci-layout"]),
        ("export-layout", ["export", "math", "--oci-layout", "-o", "never", "--dry-run"]),
        ("stats", ["stats"]),
        ("verify", ["verify", "math"]),
        ("fsck", ["fsck"]),
        ("fsck", ["fsck", "--full"]),
        ("fsck", ["fsck", "--sample", "50"]),
        ("doctor", ["doctor"]),
        ("reindex", ["reindex"]),
        ("run", ["run", "--adapters", "math", "-p", "a", "--max-new-tokens", "2"]),
        ("run-dry-run", ["run", "--adapters", "math", "--dry-run"]),
        ("run-compare", ["run", "--adapters", "math", "-p", "a", "--compare",
                         "--max-new-tokens", "2"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_documents_are_what_their_schema_says(stocked, schema, arguments):
    done = run(stocked, *arguments)
    wanted = schema_of(schema)
    found = list(violations(json.loads(done.stdout), wanted, wanted.get("$defs", {})))
    assert found == []


def test_documents_of_sharing(stocked, tmp_path):
    calls = [
        ("remote", ["remote", "add", "share", tmp_path / "share"]),
        ("push", ["push", "math", "share"]),
        ("remote", ["remote"]),
        ("ls", ["ls", "share/"]),
        ("search", ["search", "math", "--remote", "share"]),
        ("pull-all", ["pull", "--all", "share"]),
        ("remote", ["remote", "rm", "share"]),
    ]
    for schema, arguments in calls:
        done = run(stocked, *arguments)
        wanted = schema_of(schema)
        found = list(violations(json.loads(done.stdout), wanted, wanted.get("$defs", {})))
        assert found == [], arguments


def test_login_document(tmp_path):
    with sys.modules["loopback_registry"].LoopbackRegistry(user=("me", "s3cret")) as server:
        home = tmp_path / "home"
        run(home, "remote", "add", "team", server.url)
        refused = run(home, "login", "team", "-u", "me", stdin="wr0ng\n")
        assert refused.returncode == 4
        assert "wr0ng" not in refused.stderr + refused.stdout
        assert run(home, "login", "team", "-u", "me").returncode == 2
        done = run(home, "login", "team", "-u", "me", stdin="s3cret\n")
        wanted = schema_of("login")
        assert list(violations(json.loads(done.stdout), wanted, wanted.get("$defs", {}))) == []
        assert "s3cret" not in done.stdout + done.stderr


def test_convert_document(stocked, tmp_path):
    done = run(stocked, "convert", "math", "--to", "mlx", "-o", tmp_path / "out")
    wanted = schema_of("convert")
    assert list(violations(json.loads(done.stdout), wanted, wanted["$defs"])) == []


def test_error_document(stocked):
    done = run(stocked, "show", "absent")
    wanted = schema_of("error")
    assert list(violations(json.loads(done.stderr), wanted, wanted["$defs"])) == []


def test_the_validator_sees_what_is_wrong():
    schema = schema_of("ls")
    broken = {"schema_version": 1, "rows": [{"reference": 3}]}
    found = list(violations(broken, schema, schema["$defs"]))
    assert "$.rows[0].reference: 3 is no string" in found
    assert "$.rows[0]: digest is missing" in found
    assert list(violations({"rows": []}, schema, schema["$defs"])) == [
        "$: schema_version is missing"
    ]
