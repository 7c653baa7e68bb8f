"""``--base org/name``: the configuration comes from the Hub, and decides by its structure."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from numpy import float32, zeros
from safetensors.numpy import save_file

SIZES = {
    "model_type": "phi", "architectures": ["PhiForCausalLM"], "hidden_size": 48,
    "intermediate_size": 80, "num_hidden_layers": 3, "num_attention_heads": 4,
    "vocab_size": 64,
}  # fmt: skip


@pytest.fixture
def adapter(tmp_path):
    folder = tmp_path / "adapter"
    folder.mkdir()
    tensors = {}
    for layer in range(3):
        key = f"base_model.model.model.layers.{layer}.mlp.fc1"
        tensors[f"{key}.lora_A.weight"] = zeros((4, 48), float32) + 1
        tensors[f"{key}.lora_B.weight"] = zeros((80, 4), float32) + 1
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["fc1"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def inspect(adapter, tmp_path):
    def run(base, **env):
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "adaptrix.cli.main",
                "inspect",
                adapter,
                "--base",
                base,
                "--json",
            ],
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
            env={
                **os.environ,
                "HF_HOME": str(tmp_path / "hub"),
                "ADAPTRIX_HOME": str(tmp_path),
                **env,
            },
        )
        return done.returncode, json.loads(done.stdout or done.stderr)

    return run


def test_its_structure_decides(hub, inspect):
    hub.repository("any/tiny-phi").commit({"config.json": json.dumps(SIZES).encode()})
    status, document = inspect("any/tiny-phi")
    assert status == 0, document
    assert document["architecture"]["family"] == "phi"
    assert document["architecture"]["confidence"] > 0.99
    # From the Hub's cache afterwards, without asking.
    status, document = inspect("any/tiny-phi", ADAPTRIX_OFFLINE="1")
    assert status == 0
    assert document["architecture"]["family"] == "phi"


def test_another_base_is_refused(hub, inspect):
    other = {**SIZES, "intermediate_size": 96}
    hub.repository("any/other").commit({"config.json": json.dumps(other).encode()})
    status, document = inspect("any/other")
    assert status == 1
    assert "96" in json.dumps(document["problems"])


@pytest.mark.parametrize(
    ("base", "status", "code"),
    [("any/gated", 4, "access_denied"), ("any/nothing", 5, "not_found")],
)
def test_what_cannot_be_fetched_is_said(base, status, code, hub, inspect):
    gated = hub.repository("any/gated")
    gated.commit({"config.json": json.dumps(SIZES).encode()})
    gated.gated, gated.token = True, "hf_somebody_else"
    found, document = inspect(base)
    assert (found, document["error"]["code"]) == (status, code)
    assert base in json.dumps(document)
