"""The repository's promises: rooms and links, light imports, help, one package in a wheel."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = (
    "cli", "compose", "convert", "hub", "loader", "registry", "samples", "schema", "server", "store",
)  # fmt: skip


def test_every_room_has_its_link():
    links = {path.name for path in (ROOT / "src" / "adaptrix").iterdir() if path.is_symlink()}
    for room in ROOMS:
        assert room in links, f"missing link: ln -s ../../{room} src/adaptrix/{room}"
        target = (ROOT / "src" / "adaptrix" / room).resolve()
        assert target == ROOT / room, f"src/adaptrix/{room} leads to {target}"
    assert links == set(ROOMS)


def run(*arguments, env=None, heavy="torch"):
    code = "import sys; from adaptrix.cli.main import run; status = run(sys.argv[1:]); "
    code += "print('TORCH' if {%r, 'transformers'} & set(sys.modules) else 'LIGHT', status)"
    code = code % heavy
    found = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        check=False,
        capture_output=True, text=True, timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src"), **(env or {})},
    )  # fmt: skip
    return found.stdout.strip().splitlines()[-1]


@pytest.mark.parametrize("arguments", [["--help"], ["ls"], ["pull", "--help"], ["du"]])
def test_light_commands_import_neither_torch_nor_transformers(arguments, tmp_path):
    assert run(*arguments, env={"ADAPTRIX_HOME": str(tmp_path / "home")}) == "LIGHT 0"


def test_pulling_a_file_needs_no_torch(tmp_path):
    source = str(ROOT / "samples" / "adapters" / "math")
    home = {"ADAPTRIX_HOME": str(tmp_path / "home")}
    assert run("pull", source, "--as", "math", env=home) == "LIGHT 0"
    # Listing is asked so often that it goes without the SQL toolkit, too.
    assert run("ls", env=home, heavy="sqlalchemy") == "LIGHT 0"


def test_version_is_said_once_and_the_same():
    from adaptrix import __version__

    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert project["version"] == __version__


def test_public_names_are_sorted_few_and_importable():
    import adaptrix

    assert len(adaptrix.__all__) <= 25
    assert adaptrix.__all__ == sorted(adaptrix.__all__)
    for name in adaptrix.__all__:
        assert getattr(adaptrix, name) is not None
    with pytest.raises(AttributeError):
        adaptrix.no_such_name  # noqa: B018


def test_wheel_holds_only_the_package(tmp_path):
    pytest.importorskip("hatchling", reason="hatchling builds the wheel")
    code = f"from hatchling.build import build_wheel; print(build_wheel({str(tmp_path)!r}))"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"adaptrix"}
    for wanted in ("cli/main.py", "schema/errors.py", "samples/base/model.safetensors", "py.typed"):
        assert f"adaptrix/{wanted}" in names
    assert "samples/adapters/qa/adapter.gguf" in "\n".join(names)


def test_readme_begins_with_the_two_commands():
    text = (ROOT / "README.md").read_text("utf-8")
    first = text[: text.index("## Use it")]
    assert first.index("make demo") < first.index("make test")
    assert "DEMO_OUTPUT" not in text


def test_constraints_cover_the_declared_dependencies():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    declared = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    pinned = {
        re.split("==", line)[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines()
        if "==" in line
    }
    for requirement in declared:
        name = re.split(r"[<>=!~\[ ]", requirement)[0].lower().replace("_", "-")
        assert name in pinned, f"{name} has no tested version in constraints.txt"
