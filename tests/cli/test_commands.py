"""The real command line as a subprocess: statuses, streams, JSON, and no surprises."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from adaptrix.cli.commands import COMMANDS, LATER

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = ROOT / "samples" / "adapters"


def adaptrix(*arguments, home=None, stdin="", **env):
    settings = {**os.environ, "PYTHONPATH": str(ROOT / "src"), **env}
    if home is not None:
        settings["ADAPTRIX_HOME"] = str(home)
    return subprocess.run(
        [sys.executable, "-m", "adaptrix.cli.main", *map(str, arguments)],
        check=False, input=stdin, capture_output=True, text=True, timeout=120, env=settings,
    )  # fmt: skip


@pytest.fixture(scope="module")
def stocked(tmp_path_factory):
    home = tmp_path_factory.mktemp("stocked") / "home"
    for name in ("math", "code"):
        done = adaptrix("pull", SAMPLES / name, "--as", name, "--domain", "demo", home=home)
        assert done.returncode == 0, done.stderr
    return home


@pytest.mark.parametrize("name", [function.__name__ for function in (*COMMANDS, *LATER)])
def test_every_command_has_help_with_an_example(name):
    from typer.main import get_command

    from adaptrix.cli.main import app

    command = get_command(app).commands[name]
    assert "Example: adaptrix " in command.help
    assert name in command.help


@pytest.mark.parametrize("name", [function.__name__ for function in LATER])
def test_commands_of_later_say_so(name, home):
    done = adaptrix(name, "anything", home=home)
    assert done.returncode == 2
    assert "not there yet" in done.stderr
    assert done.stdout == ""


def test_version_and_help():
    assert adaptrix("--version").stdout.startswith("adaptrix 0.")
    assert adaptrix("--help").returncode == 0
    assert adaptrix("no-such-command").returncode == 2


def test_completion_script_is_printed():
    done = adaptrix(
        "--show-completion", SHELL="/bin/bash", _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1"
    )
    assert done.returncode in {0, 1, 2}
    assert "Traceback" not in done.stderr


def test_pull_json_carries_what_the_contract_says(tmp_path):
    done = adaptrix("pull", SAMPLES / "instruct", "--as", "i", "--json", home=tmp_path / "home")
    document = json.loads(done.stdout)
    assert done.returncode == 0
    wanted = {"schema_version", "reference", "digest", "tensors_digest", "bytes", "format",
              "architecture", "fidelity", "verdict", "problems"}  # fmt: skip
    assert wanted <= document.keys()
    assert document["reference"] == "i:latest"
    assert document["digest"].startswith("sha256:")
    assert document["layout"] == "phi-l2"
    assert document["fidelity"] == "exact"


def test_pulling_again_changes_nothing_and_says_so(stocked):
    done = adaptrix("pull", SAMPLES / "math", "--as", "math", "--json", home=stocked)
    document = json.loads(done.stdout)
    assert document["status"] == "unchanged"
    assert document["changed"] is False


def test_inspect_json(stocked):
    done = adaptrix("inspect", SAMPLES / "math", "--json", home=stocked)
    document = json.loads(done.stdout)
    assert document["architecture"]["family"] == "phi"
    assert document["architecture"]["confidence"] > 0.99
    account = document["tensors"]
    assert account["total"] == account["used"] + len(account["ignored"]) + len(account["unknown"])
    assert document["convertible"] is True
    stored = json.loads(adaptrix("inspect", "math", "--json", home=stocked).stdout)
    assert [m["scale"] for m in stored["modules"]] == [m["scale"] for m in document["modules"]]


def test_ls_show_log_tag_rm(stocked):
    rows = json.loads(adaptrix("ls", "--json", home=stocked).stdout)["rows"]
    assert {row["reference"] for row in rows} >= {"math:latest", "code:latest"}
    assert "math:latest" in adaptrix("ls", "-q", home=stocked).stdout.split()
    shown = json.loads(adaptrix("show", "math", "--json", home=stocked).stdout)
    assert shown["record"]["domain"] == "demo"
    assert shown["record"]["license"] == "apache-2.0"
    assert adaptrix("tag", "math", "v1", home=stocked).returncode == 0
    assert adaptrix("rm", "math:v1", home=stocked).returncode == 2
    assert adaptrix("rm", "math:v1", "--yes", home=stocked).returncode == 0
    assert adaptrix("rm", "math:v1", "--yes", home=stocked).returncode == 5
    assert "pull a local path" in adaptrix("log", "math", "--moves", home=stocked).stdout
    assert adaptrix("verify", "math", home=stocked).returncode == 0
    assert adaptrix("fsck", home=stocked).returncode == 0
    assert adaptrix("search", "math", home=stocked).returncode == 0


def test_compose_and_lineage(stocked):
    done = adaptrix("compose", "math=0.5", "code=1", "-o", "mix", "--json", home=stocked)
    document = json.loads(done.stdout)
    assert done.returncode == 0
    assert [entry["weight"] for entry in document["recipe"]["inputs"]] == ["0.5", "1.0"]
    rows = json.loads(adaptrix("log", "mix", "--json", home=stocked).stdout)["rows"]
    assert [row["weight"] for row in rows] == [None, 0.5, 1.0]
    again = adaptrix("compose", "math=0.5", "code=1", "-o", "mix", "--json", home=stocked)
    assert json.loads(again.stdout)["digest"] == document["digest"]
    assert json.loads(again.stdout)["status"] == "unchanged"


def test_run_answers_from_the_composed_skills(stocked):
    prompt = "problem : tom has 3 apples and gets 4 more . how many in all ? answer :"
    done = adaptrix("run", "--adapters", "math", "-p", prompt, "--json", home=stocked)
    document = json.loads(done.stdout)
    assert document["text"].strip() == "3 + 4 = 7"
    assert document["mode"] == "merged"
    assert document["dtype"] == "float16"
    assert document["survival"].keys() == {"median", "worst", "worst_module"}
    attached = adaptrix("run", "--adapters", "math", "-p", "-", "--mode", "attached",
                        home=stocked, stdin=prompt)  # fmt: skip
    assert attached.stdout.strip() == "3 + 4 = 7"


def test_run_without_prompt_or_terminal_is_a_usage_error(stocked):
    done = adaptrix("run", "--adapters", "math", home=stocked)
    assert done.returncode == 2
    assert "Pass -p" in done.stderr


def test_run_refuses_a_wrong_base(stocked, tmp_path):
    config = json.loads((ROOT / "samples" / "base" / "config.json").read_text("utf-8"))
    config["hidden_size"] = 128
    (tmp_path / "config.json").write_text(json.dumps(config))
    done = adaptrix("run", "--adapters", "math", "--base", tmp_path, "--dry-run", home=stocked)
    assert done.returncode == 1
    assert "math:latest was made for adaptrix/sample-phi" in done.stderr


def test_errors_are_one_json_document_on_stderr(stocked):
    done = adaptrix("show", "nothing-here", "--json", home=stocked)
    assert done.returncode == 5
    assert done.stdout == ""
    error = json.loads(done.stderr)["error"]
    assert error.keys() == {"code", "message", "hint", "where"}
    usage = adaptrix("pull", "--json", home=stocked)
    assert usage.returncode == 2
    assert json.loads(usage.stderr)["error"]["code"] == "usage"


def test_hostile_text_is_escaped(tmp_path):
    done = adaptrix("inspect", "./no\x1b[31m\u202e", home=tmp_path / "home")
    assert done.returncode == 5
    assert "\x1b" not in done.stderr
    assert "\u202e" not in done.stderr


def test_output_survives_a_narrow_encoding(stocked):
    done = adaptrix("inspect", SAMPLES / "math", home=stocked, PYTHONIOENCODING="ascii")
    assert done.returncode == 0


def test_offline_is_said(tmp_path):
    done = adaptrix("pull", "any/lora", home=tmp_path / "home", ADAPTRIX_OFFLINE="1")
    assert done.returncode == 6
    assert "offline" in done.stderr


def test_read_only_home_reads_and_refuses_to_write(tmp_path, stocked):
    missing = tmp_path / "file"
    missing.write_text("not a folder")
    done = adaptrix("ls", home=missing)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_export_writes_another_layout_as_convert_does(stocked, tmp_path):
    done = adaptrix("export", "math", "--for", "peft", "--target-layout", "llama",
                    "-o", tmp_path / "x", home=stocked)  # fmt: skip
    assert done.returncode == 1
    assert "no layout of an adapter for phi" in done.stderr
    both = adaptrix("export", "math", "--oci-layout", "--target-layout", "split",
                    "-o", tmp_path / "x", home=stocked)  # fmt: skip
    assert both.returncode == 2
    assert "go with --for" in both.stderr
    source = phi3(tmp_path / "phi3")
    pulled = adaptrix("pull", source, "--as", "fused", "--base", source, home=stocked)
    assert pulled.returncode == 0, pulled.stderr
    for verb, option in (("export", "--for"), ("convert", "--to")):
        line = [verb, "fused", option, "peft", "--target-layout", "split"]
        done = adaptrix(*line, "-o", tmp_path / verb, home=stocked)
        assert done.returncode == 0, done.stderr
    files = [
        sorted(p.read_bytes() for p in (tmp_path / v).iterdir()) for v in ("export", "convert")
    ]
    assert files[0] == files[1]
    assert b"q_proj" in files[0][-1] + files[0][0]


def phi3(folder):
    """Phi-3's fused projections, with the configuration of their base."""
    rng = np.random.default_rng(0)
    tensors = {}
    for layer in range(2):
        name = f"base_model.model.model.layers.{layer}.self_attn.qkv_proj"
        tensors[f"{name}.lora_A.weight"] = rng.standard_normal((2, 16)).astype("f4")
        tensors[f"{name}.lora_B.weight"] = rng.standard_normal((48, 2)).astype("f4")
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["qkv_proj"]}
    base = {"model_type": "phi3", "hidden_size": 16, "intermediate_size": 32, "vocab_size": 64,
            "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2}  # fmt: skip
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(config))
    (folder / "config.json").write_text(json.dumps(base))
    return folder
