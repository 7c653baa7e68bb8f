"""``make corpus``: a row per adapter, whatever the folder holds, and totals."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

conftest = sys.modules.get("tests.conftest") or sys.modules["conftest"]
HERE = Path(__file__).parent
table = conftest.load_helper("corpus_table", HERE / "table.py")
ROOT = Path(os.environ.get("ADAPTRIX_CORPUS", "/nonexistent"))
CONFIG = {
    "peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"],
    "rank_pattern": {"v_proj": 2}, "base_model_name_or_path": "me/llama", "task_type": "CAUSAL_LM",
}  # fmt: skip


def adapter(folder: Path, config: object = CONFIG) -> None:
    folder.mkdir(parents=True)
    path = "base_model.model.model.layers.0.self_attn.q_proj"
    arrays = {
        f"{path}.lora_A.weight": np.ones((4, 8), "f4"),
        f"{path}.lora_B.weight": np.ones((8, 4), "f4"),
    }
    save_file(arrays, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(config))


def corpus(root: Path) -> Path:
    adapter(root / "adapters" / "good")
    adapter(root / "adapters" / "broken")
    (root / "adapters" / "broken" / "adapter_model.safetensors").write_bytes(b"no safetensors")
    (root / "adapters" / "empty").mkdir()
    (root / "adapters" / "loose.bin").write_bytes(b"\x80\x02cos\nsystem\n.")
    (root / "configs").mkdir()
    for name, changes in {
        "one": {},
        "two": {"use_rslora": True},
        "three": {"peft_type": "IA3"},
    }.items():
        (root / "configs" / f"{name}.json").write_text(json.dumps({**CONFIG, **changes}))
    return root


def test_one_bad_adapter_does_not_hide_the_others(tmp_path):
    found = {row.name: row for row in table.rows(corpus(tmp_path) / "adapters")}
    assert (found["good"].verdict, found["good"].modules) == ("PASS", 1)
    assert found["broken"].verdict == "FAIL"
    assert found["broken"].because.startswith("header_too_large")
    assert found["empty"].because.startswith("not_an_adapter")
    assert found["loose.bin"].because.startswith("unsafe_pickle")


def test_a_crash_is_a_row(tmp_path, monkeypatch, capsys):
    def crash(path):
        raise RuntimeError("boom")

    monkeypatch.setattr(table, "read", crash)
    assert table.row(tmp_path, "x").verdict == "CRASH"
    assert "boom" in capsys.readouterr().err


def test_scales_of_configurations(tmp_path):
    root = corpus(tmp_path) / "configs"
    assert table.config_row(root / "one.json").scales == {"q_proj": 2.0, "v_proj": 4.0}
    assert table.config_row(root / "two.json").scales == {"q_proj": 4.0, "v_proj": 8 / 2**0.5}
    assert table.config_row(root / "three.json").method == "ia3"


def test_the_command_prints_rows_and_totals(tmp_path):
    command = [sys.executable, str(HERE / "table.py"), str(corpus(tmp_path))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    assert lines[0].split()[:4] == ["adapter", "format", "method", "family"]
    assert any(line.startswith("4 adapters: 3 FAIL, 1 PASS") for line in lines), done.stdout
    assert any(line.startswith("3 configurations parse, 0 do not") for line in lines)


@pytest.mark.skipif(not (ROOT / "configs").is_dir(), reason="ADAPTRIX_CORPUS names no corpus")
def test_every_real_configuration_gives_the_scales_that_its_numbers_say():
    """alpha over r (or its root), by module, read from the JSON once more here."""
    checked = 0
    for path in sorted((ROOT / "configs").glob("*.json")):
        document = json.loads(path.read_text(encoding="utf-8-sig"))
        row = table.config_row(path)
        kind = str(document.get("peft_type") or "LORA").upper()
        if kind != "LORA" or not document.get("r") or "lora_parameters" in document:
            continue
        ranks, alphas = document.get("rank_pattern") or {}, document.get("alpha_pattern") or {}
        assert row.scales, path.name
        for module, scale in row.scales.items():
            rank = ranks.get(module, document["r"])
            alpha = alphas.get(module, document["lora_alpha"])
            power = 0.5 if document.get("use_rslora") else 1
            assert scale == pytest.approx(alpha / rank**power, rel=1e-15), (path.name, module)
            checked += 1
    assert checked
