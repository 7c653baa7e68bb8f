"""The configuration of the base that a pull was checked against is kept, and compared."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from adaptrix.loader.base import load_base
from adaptrix.registry.registry import Registry
from adaptrix.schema.base_config import config_digest
from adaptrix.schema.errors import IncompatibleAdapter
from adaptrix.schema.report import Verdict

SAMPLES = Path(__file__).resolve().parents[2] / "samples"
NOTES = ("_name_or_path", "_commit_hash", "transformers_version")


def base_folder(path, **changes):
    path.mkdir()
    config = json.loads((SAMPLES / "base" / "config.json").read_text("utf-8")) | changes
    (path / "config.json").write_text(json.dumps(config, indent=4), "utf-8")
    return path


def expected(folder):
    """The same by hand: floats as text, keys sorted, no blanks."""
    config = json.loads(
        (folder / "config.json").read_text("utf-8"), parse_float=lambda t: str(float(t))
    )
    kept = {key: value for key, value in config.items() if key not in NOTES}
    text = json.dumps(kept, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def recorded(registry, name):
    return registry.show(name).manifest.record.base.config_digest


def test_a_pull_with_a_base_keeps_its_configuration(home, tmp_path):
    folder = base_folder(tmp_path / "base")
    math = str(SAMPLES / "adapters" / "math")
    with Registry(home) as registry:
        plain = registry.pull(math, name="plain")
        registry.pull(math, name="math", base=str(folder))
        assert recorded(registry, "plain") is None
        assert str(recorded(registry, "math")) == expected(folder)
        assert registry.pull(math, name="math", base=str(folder)).status == "unchanged"
        assert registry.pull(math, name="plain").digest == plain.digest


def test_the_loader_and_a_pull_mean_the_same_configuration(home, tmp_path):
    folder = tmp_path / "base"
    shutil.copytree(SAMPLES / "base", folder)
    with Registry(home) as registry:
        registry.pull(str(SAMPLES / "adapters" / "math"), name="math", base=str(folder))
        assert recorded(registry, "math") == load_base(str(folder)).config_digest


def test_what_a_library_notes_about_a_file_is_no_part_of_the_base():
    config = {"model_type": "phi", "layer_norm_eps": 1e-05}
    assert config_digest(config) == config_digest({**config, "transformers_version": "9.9"})
    assert config_digest(config) != config_digest({**config, "layer_norm_eps": 1e-06})


def test_adapters_of_two_configurations_are_not_composed(home, tmp_path):
    one = base_folder(tmp_path / "one")
    two = base_folder(tmp_path / "two", rope_theta=5000.0, transformers_version="4.30")
    with Registry(home) as registry:
        for name, base in (("math", one), ("code", one), ("news", two)):
            registry.pull(str(SAMPLES / "adapters" / name), name=name, base=str(base))
        registry.compose(["math", "code"], output="both")
        assert str(recorded(registry, "both")) == expected(one)
        with pytest.raises(IncompatibleAdapter, match="configurations of the bases differ"):
            registry.compose(["math", "news"], output="never")
        assert registry.verify("math", base=str(one)).verdict is Verdict.PASS
        assert registry.verify("math", base=str(two)).verdict is Verdict.FAIL
