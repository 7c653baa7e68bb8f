"""Digests beside the work: their result, their error, and their end when the work fails."""

from __future__ import annotations

import hashlib
import json
import threading
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from adaptrix import Registry
from adaptrix.registry.beside import Beside
from adaptrix.schema.errors import StoreError
from adaptrix.store.disk import DiskStore


def test_result_is_what_the_call_returned():
    def hashed(on_bytes):
        on_bytes(3)
        return hashlib.sha256(b"abc").hexdigest()

    with Beside(hashed) as call:
        pass
    assert call.result().startswith("ba7816bf")  # FIPS 180-2, the digest of "abc"


def test_its_error_is_raised_where_the_result_is_wanted():
    def fails(_):
        raise StoreError("the file changed", where="here")

    with Beside(fails) as call:
        pass
    with pytest.raises(StoreError, match="the file changed"):
        call.result()


def test_it_ends_when_the_block_fails():
    pieces, started = [], threading.Event()

    def endless(on_bytes):
        while True:
            pieces.append(1)
            started.set()
            on_bytes(1)

    with pytest.raises(KeyboardInterrupt), Beside(endless):
        started.wait()
        raise KeyboardInterrupt
    count = len(pieces)
    assert "adaptrix-digest" not in {thread.name for thread in threading.enumerate()}
    assert len(pieces) == count


def adapter(folder: Path) -> Path:
    folder.mkdir()
    name = "base_model.model.model.layers.0.self_attn.q_proj"
    draw = np.random.default_rng(1)
    tensors = {
        f"{name}.lora_A.weight": draw.standard_normal((4, 64), dtype=np.float32),
        f"{name}.lora_B.weight": draw.standard_normal((64, 4), dtype=np.float32),
    }
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def test_a_pull_records_the_digests_of_the_files_that_it_read(tmp_path):
    source = adapter(tmp_path / "source")
    with Registry(home=tmp_path / "home") as registry:
        pulled = registry.pull(str(source), name="x")
        record = registry.show("x").manifest.record
    found = {file.path: file.digest.hex for file in record.source.files}
    assert found == {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in source.iterdir()
    }
    assert record.tensors_digest == pulled.tensors_digest


def test_a_pull_that_cannot_write_leaves_no_thread(tmp_path, monkeypatch):
    def full(*_, **__):
        raise StoreError("no room", where="tmp")

    monkeypatch.setattr(DiskStore, "writer", full)
    with Registry(home=tmp_path / "home") as registry, pytest.raises(StoreError, match="no room"):
        registry.pull(str(adapter(tmp_path / "source")), name="x")
    assert "adaptrix-digest" not in {thread.name for thread in threading.enumerate()}
