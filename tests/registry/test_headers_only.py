"""inspect looks at headers: of a far file few bytes travel, of a near one none is computed."""

from __future__ import annotations

import io
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.numpy import save

from adaptrix.convert.reading import ReadOptions, read_adapter
from adaptrix.convert.source import open_path
from adaptrix.convert.writing import write_adapter
from adaptrix.registry import opening
from adaptrix.registry.registry import Registry
from adaptrix.schema.errors import AdaptrixError

WIDTH, RANK, LAYERS = 2560, 16, 12
CONFIG = {
    "peft_type": "LORA", "r": RANK, "lora_alpha": 32, "target_modules": ["q_proj"],
    "base_model_name_or_path": "microsoft/phi-2", "task_type": "CAUSAL_LM",
}  # fmt: skip


def tensors(value=0.25):
    """4 MB of factors."""
    prefix = "base_model.model.model.layers"
    found = {}
    for layer in range(LAYERS):
        name = f"{prefix}.{layer}.self_attn.q_proj"
        found[f"{name}.lora_A.weight"] = np.full((RANK, WIDTH), value, np.float32)
        found[f"{name}.lora_B.weight"] = np.full((WIDTH, RANK), value, np.float32)
    return found


def safetensors(folder):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_model.safetensors").write_bytes(save(tensors()))
    (folder / "adapter_config.json").write_text(json.dumps(CONFIG))


def torch_zip(folder):
    folder.mkdir()
    whole = io.BytesIO()
    torch.save({name: torch.from_numpy(array) for name, array in tensors().items()}, whole)
    (folder / "adapter_model.bin").write_bytes(whole.getvalue())
    (folder / "adapter_config.json").write_text(json.dumps(CONFIG))


def gguf(folder):
    source = folder.parent / "plain"
    safetensors(source)
    base = {"model_type": "phi", "hidden_size": WIDTH, "intermediate_size": 10240,
            "num_hidden_layers": 32, "num_attention_heads": 32, "vocab_size": 51200}  # fmt: skip
    adapter = read_adapter(open_path(source), ReadOptions(base_config=base)).adapter
    folder.mkdir()
    for file in write_adapter(adapter, "gguf").files:
        (folder / file.path).write_bytes(b"".join(bytes(chunk) for chunk in file.chunks()))


def length(request) -> int:
    """Bytes that a ranged request asks for."""
    first, last = request.headers["range"].removeprefix("bytes=").split("-")
    return int(last) - int(first) + 1


@pytest.mark.parametrize("make", [safetensors, torch_zip, gguf])
def test_only_headers_travel(make, hub, home, tmp_path):
    make(tmp_path / "made")
    files = {path.name: path.read_bytes() for path in (tmp_path / "made").iterdir()}
    weights = max(files, key=lambda name: len(files[name]))
    hub.repository("team/far").commit(files)
    with Registry(home) as registry:
        far = registry.inspect("hf:team/far")
        near = registry.inspect(str(tmp_path / "made"))
    assert far.convertible
    assert far.modules == near.modules
    assert len(far.modules) == LAYERS
    requests = hub.fetched(weights)
    assert sum(map(length, requests)) <= 160 << 10
    assert len(files[weights]) > 3_900_000
    assert len(requests) <= 4


def test_what_is_converted_is_fetched_whole_verified_and_looked_at(hub, home, tmp_path):
    bad = tensors()
    next(iter(bad.values()))[0, 0] = np.nan
    config = json.dumps(CONFIG).encode()
    files = {"adapter_model.safetensors": save(bad), "adapter_config.json": config}
    hub.repository("team/nan").commit(files)
    with Registry(home) as registry:
        found = registry.inspect("hf:team/nan")
        assert "unchecked_values" in [problem.code for problem in found.problems]
        with pytest.raises(AdaptrixError) as caught:
            registry.convert("hf:team/nan", to="mlx", output=tmp_path / "out")
    assert caught.value.code == "non_finite"
    assert not (tmp_path / "out").exists()
    whole = [r for r in hub.fetched("adapter_model.safetensors") if "range" not in r.headers]
    assert len(whole) == 1


def test_values_of_large_files_are_left_to_pull(tmp_path, home, monkeypatch):
    bad = tensors()
    next(iter(bad.values()))[0, 0] = np.inf
    safetensors(tmp_path / "made")
    (tmp_path / "made" / "adapter_model.safetensors").write_bytes(save(bad))
    with Registry(home) as registry:
        small = registry.inspect(str(tmp_path / "made"))
        monkeypatch.setattr(opening, "VALUES_BYTES", 1 << 20)
        large = registry.inspect(str(tmp_path / "made"))
    assert "non_finite" in [problem.code for problem in small.problems]
    assert [problem.code for problem in large.problems] == ["unchecked_values"]


def test_inspect_loads_nothing_that_headers_do_not_need(tmp_path):
    safetensors(tmp_path / "made")
    code = (
        "import sys\n"
        "from adaptrix.registry import opening\n"
        "opening.VALUES_BYTES = 0\n"
        "from adaptrix.cli.main import run\n"
        "assert run(['inspect', sys.argv[1]]) == 0\n"
        "heavy = {'numpy', 'pydantic', 'yaml', 'sqlmodel', 'sqlalchemy', 'httpx', 'torch',\n"
        "         'transformers', 'huggingface_hub', 'safetensors'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "made")],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == "[]"
