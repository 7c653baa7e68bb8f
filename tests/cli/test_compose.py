"""``compose`` and ``rebase`` as commands: recipes, parameters, lineage, refusals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from adaptrix.cli.main import run
from adaptrix.compose.methods import METHODS

SAMPLES = Path(__file__).resolve().parents[2] / "samples" / "adapters"


@pytest.fixture
def stocked(home, capsys):
    for name in ("math", "code"):
        assert run(["pull", str(SAMPLES / name), "--as", name, "-q"]) == 0
    capsys.readouterr()
    return home


def document(capsys, *arguments):
    assert run([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_methods_are_listed_with_their_sources(capsys):
    rows = document(capsys, "compose", "--methods")["rows"]
    assert [row["name"] for row in rows] == list(METHODS)
    assert all(row["reference"] and row["summary"] for row in rows)


def test_a_recipe_file_is_the_same_as_the_line(stocked, capsys, tmp_path):
    recipe = tmp_path / "mix.yaml"
    recipe.write_text(
        yaml.safe_dump(
            {
                "method": "ties",
                "parameters": {"density": 0.4},
                "seed": 3,
                "inputs": [
                    {
                        "adapter": "math",
                        "weight": 0.6,
                        "layers": {"0-1": 0.2},
                        "modules": {"*.mlp.*": 0.0},
                    },
                    "code",
                ],
            }
        )
    )
    one = document(capsys, "compose", "--recipe", str(recipe), "-o", "mix")
    again = document(capsys, "compose", "--recipe", str(recipe), "-o", "other")
    assert one["digest"] == again["digest"]
    assert one["recipe"]["parameters"] == {"density": "0.4", "scale": "1.0"}
    assert one["recipe"]["space"] == "canonical"
    assert [rule["weight"] for rule in one["recipe"]["inputs"][0]["rules"]] == ["0.2", "0.0"]
    # No fc1 or fc2 is left: code has none, and math's weigh nothing.
    shown = document(capsys, "show", "mix")["record"]
    assert not [m for m in shown["modules"] if ".mlp." in m["path"]]
    assert shown["parents"][0]["role"] == "composed_from"


def test_deleting_and_rebuilding_gives_the_same_bytes(stocked, capsys):
    line = ["compose", "math=0.6", "code=0.4", "-o", "mix", "--method", "dare_ties", "--seed", "7"]
    first = document(capsys, *line)
    assert run(["rm", "mix", "--yes", "-q"]) == 0
    capsys.readouterr()
    again = document(capsys, *line)
    assert (again["digest"], again["tensors_digest"]) == (first["digest"], first["tensors_digest"])
    other = document(capsys, *line[:-1], "8")
    assert other["tensors_digest"] != first["tensors_digest"]


def test_rebase_follows_a_parent_that_moved(stocked, capsys):
    before = document(capsys, "compose", "math", "code=0.5", "-o", "mix", "--method", "svd",
                      "--rank", "4")  # fmt: skip
    assert document(capsys, "rebase", "mix")["status"] == "unchanged"
    assert run(["pull", str(SAMPLES / "qa"), "--as", "code", "-q"]) == 0
    capsys.readouterr()
    planned = document(capsys, "rebase", "mix", "--dry-run")
    assert planned["status"] == "planned"
    after = document(capsys, "rebase", "mix")
    assert after["status"] == "updated"
    assert after["tensors_digest"] != before["tensors_digest"]
    record = document(capsys, "show", "mix")["record"]
    assert {parent["role"] for parent in record["parents"]} == {"composed_from", "rebased_from"}
    assert record["parents"][-1]["digest"] == before["digest"]
    assert document(capsys, "rebase", "mix")["status"] == "unchanged"
    assert run(["rebase", "math"]) == 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("inputs: []", "expected a list of adapters"),
        ("inputs: [math]\nmethods: ties", "no such key: 'methods'"),
        ("inputs: [{adapter: math, weight: heavy}]", "expected a number"),
        ("inputs: [{adapter: math, layers: {a-b: 1}}]", "expected N or N-M"),
        ("inputs: [{weight: 1}]", "expected the name of an adapter"),
        ("inputs: [math", "no YAML"),
        ("!!python/object/apply:os.system [ls]", "no YAML"),
    ],
)
def test_bad_recipes_are_refused(stocked, capsys, tmp_path, text, words):
    recipe = tmp_path / "r.yaml"
    recipe.write_text(text)
    assert run(["compose", "--recipe", str(recipe), "-o", "mix"]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["math", "code", "-o", "x", "--method", "none"], 2),
        (["math", "code", "-o", "x", "--param", "rank"], 2),
        (["math", "code", "-o", "x", "--rank", "4"], 2),
        (["math", "code"], 2),
        (["-o", "x"], 2),
        (["math", "math", "-o", "x"], 2),
        (["math", "gone", "-o", "x"], 5),
        (["--recipe", "gone.yaml", "-o", "x"], 5),
    ],
)
def test_refusals_have_their_status(stocked, arguments, status):
    assert run(["compose", *arguments]) == status


@pytest.mark.parametrize(
    ("licences", "carried"),
    [(("mit", "apache-2.0"), "apache-2.0"), (("mit", "gpl-3.0"), "gpl-3.0"),
     (("cc-by-nc-4.0", "gpl-3.0"), None), (("mit", "our-own"), None)],
)  # fmt: skip
def test_licences(stocked, capsys, licences, carried):
    for name, licence in zip(("math", "code"), licences, strict=True):
        run(["pull", str(SAMPLES / name), "--as", name, "--license", licence, "-q"])
    capsys.readouterr()
    status = run(["compose", "math", "code", "-o", "mix", "-q"])
    assert status == (0 if carried else 1)
    if carried is None:
        assert "licences conflict" in capsys.readouterr().err
        assert run(["compose", "math", "code", "-o", "mix", "-q", "--allow-license-conflict"]) == 0
        carried = " AND ".join(sorted(licences))
    capsys.readouterr()
    assert document(capsys, "show", "mix")["record"]["license"] == carried


def test_a_plan_makes_nothing_and_draws(stocked, capsys, tmp_path):
    picture = tmp_path / "plan.png"
    found = document(capsys, "compose", "math", "code=0.5", "--plan", "--plot", str(picture))
    assert found["adapters"] == ["math", "code"]
    assert found["method"] in METHODS
    assert {row["where"] for row in found["pairs"]} == {"all", "q_proj", "v_proj"}
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert run(["compose", "math", "code", "--plan"]) == 0
    text = capsys.readouterr().out
    assert "recommended: --method" in text
    assert len(document(capsys, "ls")["rows"]) == 2
