"""Bad input: each with its status and message, and nothing stored or half-written."""

from __future__ import annotations

import json
import os
import pickle
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from adaptrix.registry.registry import Registry
from adaptrix.schema.errors import AdaptrixError
from adaptrix.schema.report import Verdict

ROOT = Path(__file__).resolve().parents[2]
PREFIX = "base_model.model.model.layers.0.self_attn.q_proj"
CONFIG = {
    "peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"],
    "base_model_name_or_path": "microsoft/phi-2", "task_type": "CAUSAL_LM",
}  # fmt: skip


def factors(rank=2, width=8, value=0.5):
    return {
        f"{PREFIX}.lora_A.weight": np.full((rank, width), value, np.float32),
        f"{PREFIX}.lora_B.weight": np.full((width, rank), value, np.float32),
    }


def folder(path, tensors=None, config=CONFIG):
    path.mkdir(parents=True, exist_ok=True)
    if tensors is not None:
        save_file(tensors, path / "adapter_model.safetensors")
    if config is not None:
        (path / "adapter_config.json").write_text(json.dumps(config))
    return path


def raw(header: dict, body: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def weights(path, data: bytes):
    folder(path)
    (path / "adapter_model.safetensors").write_bytes(data)
    return path


class Evil:
    def __reduce__(self):
        return os.system, ("touch CANARY",)


def not_an_adapter(path):
    path.mkdir()
    (path / "notes.txt").write_text("hello")
    return path


def full_checkpoint(path):
    tensors = {
        f"model.layers.{n}.self_attn.q_proj.weight": np.ones((8, 8), np.float32) for n in range(3)
    }
    return folder(path, {**tensors, "model.embed_tokens.weight": np.ones((9, 8), np.float32)}, None)


def overlapping(path):
    entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    return weights(path, raw({"a": entry, "b": entry}, bytes(8)))


def soft_prompt(path):
    config = {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 4, "task_type": "CAUSAL_LM"}
    return folder(path, {"prompt_embeddings": np.ones((4, 8), np.float32)}, config)


def evil_pickle(path):
    folder(path)
    (path / "adapter_model.bin").write_bytes(pickle.dumps(Evil()))
    return path


CASES = {
    "not_an_adapter": (not_an_adapter, 2, "not_an_adapter"),
    "empty_file": (lambda p: weights(p, b""), 2, "empty"),
    "truncated": (lambda p: weights(p, raw({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}, bytes(7))), 2, "truncated"),
    "header_longer_than_file": (lambda p: weights(p, struct.pack("<Q", 10**6) + b"{}"), 2, ""),
    "overlapping": (overlapping, 2, ""),
    "pickle_with_a_call": (evil_pickle, 7, "system"),
    "config_without_weights": (folder, 2, "missing_weights"),
    "weights_without_config": (lambda p: folder(p, factors(), None), 2, "--alpha"),
    "soft_prompt": (soft_prompt, 1, "soft_prompt"),
    "full_checkpoint": (full_checkpoint, 1, "full_checkpoint"),
    "rank_0": (lambda p: folder(p, factors(), {**CONFIG, "r": 0}), 2, "rank"),
    "nan": (lambda p: folder(p, factors(value=np.nan)), 1, "non_finite"),
    "half_missing": (lambda p: folder(p, dict(list(factors().items())[:1])), 1, "unpaired"),
    "missing_path": (lambda p: p / "nowhere", 5, ""),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(CASES))
def test_bad_input_has_its_status_and_stores_nothing(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make, status, word = CASES[name]
    source = make(tmp_path / "source")
    with Registry(tmp_path / "home") as registry:
        with pytest.raises(AdaptrixError) as caught:
            registry.pull(str(source), name="x")
        assert caught.value.exit_status == status, caught.value
        assert word in f"{caught.value} {caught.value.code} {' '.join(caught.value.hints())}"
        assert registry.ls() == ()
        assert list(registry.home.blobs.digests()) == []
    assert not (tmp_path / "CANARY").exists()


def test_alpha_is_the_way_out_of_a_missing_configuration(tmp_path):
    source = folder(tmp_path / "source", factors(), None)
    with Registry(tmp_path / "home") as registry:
        report = registry.pull(str(source), name="x", alpha=4)
        assert registry.open("x").adapter.modules[0].scale.value == 2.0
    assert report.digest is not None


def test_zero_update_is_inconclusive(tmp_path):
    tensors = factors()
    tensors[f"{PREFIX}.lora_B.weight"][:] = 0
    with Registry(tmp_path / "home") as registry:
        report = registry.pull(str(folder(tmp_path / "source", tensors)), name="x")
    assert report.verdict is Verdict.INCONCLUSIVE
    assert report.verdict.exit_status == 3
    assert any("never trained" in f"{p.message} {p.hint}" for p in report.problems)


def test_wrong_base_is_a_failure_that_lists_both(tmp_path):
    source = ROOT / "samples" / "adapters" / "math"
    config = json.loads((ROOT / "samples" / "base" / "config.json").read_text())
    other = tmp_path / "base"
    other.mkdir()
    (other / "config.json").write_text(json.dumps({**config, "hidden_size": 128}))
    with Registry(tmp_path / "home") as registry:
        with pytest.raises(AdaptrixError) as caught:
            registry.pull(str(source), name="x", base=str(other))
    assert caught.value.exit_status == 1
    assert caught.value.code == "wrong_base"


def test_disk_full_leaves_the_store_whole(tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(small)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip("mounting a small tmpfs needs privileges")
    try:
        with Registry(small / "home") as registry:
            with pytest.raises(AdaptrixError) as caught:
                registry.pull(str(ROOT / "samples" / "adapters" / "qa"), name="qa")
            assert caught.value.exit_status == 1
            assert caught.value.code == "disk_full"
            assert registry.ls() == ()
            assert registry.fsck().verdict is Verdict.PASS
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_read_only_home_is_read_and_not_written(tmp_path):
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "tmpfs", str(place)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a tmpfs needs privileges")
    try:
        sample = str(ROOT / "samples" / "adapters" / "math")
        with Registry(place / "home") as registry:
            registry.pull(sample, name="math")
        subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
        with Registry(place / "home") as registry:
            assert [row.reference for row in registry.ls()] == ["math:latest"]
            with pytest.raises(AdaptrixError) as caught:
                registry.pull(str(ROOT / "samples" / "adapters" / "code"), name="code")
            assert caught.value.exit_status == 4
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_two_pulls_at_once_both_succeed(tmp_path):
    code = "import sys; from adaptrix import Registry; r = Registry(sys.argv[1]).pull(sys.argv[2], name='m'); print(r.digest)"
    arguments = [
        sys.executable,
        "-c",
        code,
        str(tmp_path / "home"),
        str(ROOT / "samples" / "adapters" / "math"),
    ]
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    both = [
        subprocess.Popen(
            arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env
        )
        for _ in range(2)
    ]
    results = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], results
    assert results[0][0] == results[1][0]
    with Registry(tmp_path / "home") as registry:
        assert len(registry.home.versions()) == 1
