"""What somebody new gets wrong: each says what is wrong, what to do, and the right status."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from adaptrix.cli.main import run
from adaptrix.hub.selection import select_adapter_files

SAMPLES = Path(__file__).resolve().parents[2] / "samples" / "adapters"


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("ADAPTRIX_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


def said(capsys, *arguments):
    capsys.readouterr()
    status = run(list(arguments))
    out, err = capsys.readouterr()
    return status, out, err


@pytest.mark.parametrize(
    "line",
    [
        "pull nope", "inspect nope", "convert nope --to peft -o out", "inspect nope:v1",
        "export nope --for peft -o out", "reflog nope", "restore nope", "show nope",
    ],
)  # fmt: skip
def test_a_name_that_is_nowhere_is_not_found(line, capsys):
    status, out, err = said(capsys, *line.split())
    assert (status, out) == (5, "")
    assert "nope" in err
    assert "hint: " in err


@pytest.mark.parametrize("verb", [["inspect"], ["pull", "--as", "x"], ["verify"]])
def test_a_base_that_is_nowhere_is_never_taken_for_one_that_fits(verb, capsys):
    assert run(["pull", str(SAMPLES / "math"), "--as", "math"]) == 0
    source = "math" if verb == ["verify"] else str(SAMPLES / "math")
    status, out, err = said(capsys, verb[0], source, *verb[1:], "--base", "nope")
    assert (status, out) == (5, "")
    assert "no such base model" in err


def test_a_folder_of_several_adapters_names_them(capsys):
    status, out, _ = said(capsys, "inspect", str(SAMPLES), "--json")
    (problem,) = json.loads(out)["problems"]
    assert status == 3
    assert problem["code"] == "multiple_adapters"
    assert "code, instruct, math, news, qa" in problem["message"]
    status, _, err = said(capsys, "pull", str(SAMPLES))
    assert status == 2
    assert "code, instruct, math, news, qa" in err


def test_a_run_with_states_of_training_only_names_them(capsys, tmp_path):
    for step in (10, 20):
        shutil.copytree(SAMPLES / "math", tmp_path / "run" / f"checkpoint-{step}")
    _, _, err = said(capsys, "pull", "./run")
    assert "checkpoint-10, checkpoint-20" in err
    shutil.rmtree(tmp_path / "run" / "checkpoint-20")
    status, _, err = said(capsys, "pull", "./run")
    assert status == 2
    assert "hint: Give checkpoint-10 itself." in err
    assert run(["pull", "./run/checkpoint-10", "--as", "math"]) == 0


def test_folders_are_named_only_where_none_is_chosen():
    weights = "adapter_model.safetensors"
    cases = {
        (weights, f"a/{weights}"): (),
        (f"a/{weights}", f"checkpoint-5/{weights}"): (),
        (f"b/{weights}", f"a/{weights}"): ("a", "b"),
        (f"checkpoint-5/{weights}", "README.md"): ("checkpoint-5",),
        ("README.md",): (),
    }
    for names, folders in cases.items():
        selection = select_adapter_files(dict.fromkeys(names, 10))
        assert selection.folders == folders, names
        assert not folders or not any(n.endswith(weights) for n in selection.wanted)


@pytest.mark.parametrize("hours", ["-1", "nan"])
def test_gc_takes_no_time_before_now(hours, capsys):
    status, out, err = said(capsys, "gc", "--grace-hours", hours)
    assert (status, out) == (2, "")
    assert "0 or more" in err


def test_an_unknown_format_is_not_blamed_on_a_flag_that_was_not_given(capsys):
    assert run(["pull", str(SAMPLES / "math"), "--as", "math"]) == 0
    status, _, err = said(capsys, "export", "math", "--for", "nope", "-o", "out")
    assert status == 2
    assert "--to" not in err
    assert "peft" in err


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("ls zz*", "nothing of that name"), ("reflog", "no name has moved"),
        ("remote", "remote add NAME URL"),
    ],
)  # fmt: skip
def test_an_empty_list_says_so_on_stderr(line, words, capsys):
    assert said(capsys, *line.split())[:2] == (0, "")
    assert words in said(capsys, *line.split())[2]
    assert said(capsys, *line.split(), "-q") == (0, "", "")
    assert json.loads(said(capsys, *line.split(), "--json")[1])["rows"] == []


def test_help_says_in_full_what_the_commands_do(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    status, out, _ = said(capsys, "--help")
    assert status == 0
    listed = out.partition("Commands:\n")[2].partition("\n\n")[0]
    assert "..." not in listed
    assert "gc " in listed
    assert all(len(line) <= 60 for line in listed.splitlines())


def carried(folder):
    """IA³ on one module: factors of an activation."""
    folder.mkdir()
    save_file(
        {"base_model.model.model.layers.0.mlp.down_proj.ia3_l": np.ones((1, 1024), np.float32)},
        folder / "adapter_model.safetensors",
    )
    config = {"peft_type": "IA3", "target_modules": ["down_proj"], "feedforward_modules": [],
              "base_model_name_or_path": "org/never-fetched"}  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def for_diffusion(folder):
    """Two modules of Stable Diffusion's UNet."""
    folder.mkdir()
    block = "unet.down_blocks.0.attentions.0.transformer_blocks.0"
    tensors = {}
    for leaf, width in (("attn1.to_q", 320), ("attn2.to_k", 768)):
        tensors[f"{block}.{leaf}.lora_A.weight"] = np.ones((2, width), np.float32)
        tensors[f"{block}.{leaf}.lora_B.weight"] = np.ones((320, 2), np.float32)
    save_file(tensors, folder / "pytorch_lora_weights.safetensors")
    return folder


def test_what_is_not_run_here_is_refused_before_a_base_is_looked_for(capsys, tmp_path):
    assert run(["pull", str(carried(tmp_path / "a")), "--as", "ia3", "--carry"]) in {0, 3}
    status, out, err = said(capsys, "run", "--adapters", "ia3", "-p", "x")
    assert (status, out) == (1, "")
    assert "kept as it is" in err
    assert "--for peft" in err
    status, _, err = said(capsys, "pull", str(for_diffusion(tmp_path / "b")), "--as", "sd")
    assert status in {0, 3}
    assert "hint: adaptrix export sd --for diffusers -o FOLDER" in err
    status, _, err = said(capsys, "run", "--adapters", "sd", "-p", "x", "--base", "sample")
    assert status == 1
    assert "not run here" in err
    assert run(["export", "sd", "--for", "diffusers", "-o", "out"]) == 0


def test_one_adapter_without_a_declared_base_wants_one(capsys, tmp_path):
    shutil.copytree(SAMPLES / "math", tmp_path / "math")
    path = tmp_path / "math" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": None}))
    assert run(["pull", "./math", "--as", "math"]) in {0, 3}
    status, _, err = said(capsys, "run", "--adapters", "math", "-p", "x")
    assert status == 1
    assert "math:latest: it declares no base model" in err
    assert "hint: Pass --base." in err


def test_a_run_that_is_refused_imports_no_model_code(tmp_path):
    carry = [str(carried(tmp_path / "a")), "--as", "ia3", "--carry"]
    assert run(["pull", *carry]) in {0, 3}
    for name in ("nope", "ia3"):
        code = f"""
import sys
from adaptrix.cli.main import run
assert run(["run", "--adapters", {name!r}, "-p", "x"]) in (1, 5)
assert "torch" not in sys.modules, "torch"
assert "transformers" not in sys.modules, "transformers"
"""
        done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True)
        assert done.returncode == 0, done.stderr
