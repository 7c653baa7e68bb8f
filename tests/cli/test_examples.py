"""Every example of ``--help`` is run as it stands, by someone who has a few adapters."""

from __future__ import annotations

import io
import shlex
import shutil
import sys
from pathlib import Path

import pytest

from adaptrix.cli.commands import COMMANDS
from adaptrix.cli.main import run

SAMPLES = Path(__file__).resolve().parents[2] / "samples"
EXAMPLES = {
    function.__name__: line.strip().removeprefix("Example: ")
    for function in COMMANDS
    for line in (function.__doc__ or "").splitlines()
    if line.strip().startswith("Example: ")
}
ELSEWHERE = {"demo": "it has a test of its own, and takes longer than all the others"}


def files_of(name):
    return {path.name: path.read_bytes() for path in (SAMPLES / "adapters" / name).iterdir()}


@pytest.fixture
def newcomer(tmp_path, monkeypatch, hub):
    """A folder, a home with math (twice over), code and a moved tag; a Hub and a registry."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ADAPTRIX_HOME", str(tmp_path / "home"))
    shutil.copytree(SAMPLES / "adapters" / "math", "my-adapter")
    shutil.copytree(SAMPLES / "adapters" / "code", "mlx-adapter")
    lines = {
        n: (SAMPLES / "heldout" / f"{n}.jsonl").read_text().splitlines()[:2]
        for n in ("math", "code")
    }
    Path("math.jsonl").write_text("\n".join(lines["math"]) + "\n")
    Path("both.jsonl").write_text("\n".join(lines["math"] + lines["code"]) + "\n")
    Path("token.txt").write_text("s3cret\n")
    repository = hub.repository("any/lora-adapter")
    repository.commit(files_of("news"))
    with sys.modules["loopback_registry"].LoopbackRegistry(user=("me", "s3cret")) as server:

        def call(line):
            words = shlex.split(line.replace("https://registry.example/adapters", server.url))
            stdin = io.StringIO()
            if "<" in words:
                stdin = io.StringIO(Path(words[-1]).read_text())
                words = words[: words.index("<")]
            monkeypatch.setattr("sys.stdin", stdin)
            assert words[0] == "adaptrix"
            return run(words[1:])

        assert call("adaptrix pull any/lora-adapter --as math") == 0
        assert call("adaptrix tag math v1") == 0
        repository.commit(files_of("math"))
        assert call("adaptrix pull any/lora-adapter --as math") == 0
        assert call("adaptrix tag math v1") == 0
        assert call("adaptrix pull ./mlx-adapter --as code") == 0
        yield call


def test_a_folder_of_many_adapters_says_how_it_is_read(newcomer, capsys):
    assert newcomer("adaptrix remote add share ./share") == 0
    assert "login" not in capsys.readouterr().err
    assert newcomer("adaptrix push math share") == 0
    assert newcomer("adaptrix pull ./share") == 2
    assert "remote add NAME ./share" in capsys.readouterr().err


def test_every_example_runs_as_it_stands(newcomer, capsys):
    assert EXAMPLES.keys() == {function.__name__ for function in COMMANDS}
    failed = []
    for name, example in EXAMPLES.items():
        if name not in ELSEWHERE:
            capsys.readouterr()
            status = newcomer(example)
            if status != 0:
                failed.append((example, status, capsys.readouterr().err))
    assert failed == []
