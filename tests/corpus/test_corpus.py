"""Real adapters from public repositories, when their folder is named by ADAPTRIX_CORPUS."""

import csv
import os
from pathlib import Path

import pytest
from safetensors import safe_open

from adaptrix.convert.reading import read_adapter
from adaptrix.convert.source import open_path
from adaptrix.convert.writing import tensors_digest, write_adapter
from adaptrix.schema.errors import AdaptrixError

ROOT = Path(os.environ.get("ADAPTRIX_CORPUS", "/nonexistent"))
ADAPTERS = sorted((ROOT / "adapters").iterdir()) if (ROOT / "adapters").is_dir() else []
CONFIGS = sorted((ROOT / "configs").iterdir()) if (ROOT / "configs").is_dir() else []
pytestmark = pytest.mark.skipif(not ADAPTERS, reason="ADAPTRIX_CORPUS names no corpus")
FORMATS = {
    "peft": "peft", "mlx": "mlx", "mlx-npz": "mlx", "adapter-hub bottleneck": "adapterhub",
    "lycoris lokr (kohya keys)": "lycoris", "diffusers": "diffusers", "loralib": "loralib",
    "LoRA-ViT/Sam_LoRA (w_a/w_b)": "lora-vit", "custom per-layer .pt": "per-layer",
}  # fmt: skip
FAMILIES = {
    "roberta": "roberta", "bert": "bert", "gpt2": "gpt2", "opt": "opt", "bloom": "bloom",
    "distilbert": "distilbert", "minicpm": "minicpm", "qwen2.5": "qwen2", "llama": "llama",
    "stable-diffusion-1.x unet": "stable-diffusion",
}  # fmt: skip

BECOME_LORA = {"ADALORA", "DELORA", "LOHA", "LOKR", "MISS", "VBLORA", "VERA"}


def index():
    with (ROOT / "index.tsv").open() as rows:
        return {row["id"]: row for row in csv.DictReader(rows, delimiter="\t")}


@pytest.mark.parametrize("path", ADAPTERS, ids=lambda path: path.name)
def test_real_adapters(path):
    row = index()[path.name]
    reading = read_adapter(open_path(path))
    found = reading.inspection
    account = found.tensors
    assert account.total == account.used + len(account.ignored) + len(account.unknown)
    expected = FORMATS.get(row["format"])
    if expected:
        assert found.format.name == expected
    assert found.format.name != "unknown"
    family = FAMILIES.get(row["architecture"])
    if family and row["peft_type"] in {"LORA", ""} and reading.adapter:
        assert found.architecture.family == family
    if row["peft_type"] not in {"LORA", ""}:
        assert found.format.method == row["peft_type"].lower()
        assert (reading.adapter is not None) == (row["peft_type"] in BECOME_LORA)
    if reading.adapter is None:
        assert any(problem.hint for problem in found.problems)
        return
    _round_trip(reading.adapter)


def _round_trip(adapter):
    """What PEFT would load from our file is what the source says."""
    written = write_adapter(adapter, "peft")
    assert written.fidelity == "exact"
    assert sum(len(bytes(c)) for c in written.files[0].chunks()) == written.files[0].size_bytes
    assert tensors_digest(adapter) == tensors_digest(adapter)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_real_configurations(path, tmp_path):
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_bytes(path.read_bytes())
    try:
        found = read_adapter(open_path(folder)).inspection
    except AdaptrixError as error:
        pytest.fail(f"{path.name}: {error}")
    assert not found.convertible
    assert "missing_weights" in [problem.code for problem in found.problems]
    assert "invalid_config" not in [problem.code for problem in found.problems]
    assert "invalid_rank" not in [problem.code for problem in found.problems]


def test_peft_factors_are_the_files_own_bytes():
    path = next(p for p in ADAPTERS if (p / "adapter_model.safetensors").exists())
    adapter = read_adapter(open_path(path)).adapter
    with safe_open(path / "adapter_model.safetensors", "numpy") as file:
        for module in adapter.modules:
            stored = file.get_tensor(f"{module.source}.lora_A.weight")
            assert stored.tobytes() == bytes(module.a.load())
