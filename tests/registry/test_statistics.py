"""The log of conversions: counted as they really went, never in anybody's way."""

import json
import os
import sqlite3
import time
from contextlib import closing
from statistics import median

import numpy as np
import pytest
from safetensors.numpy import save

from adaptrix.registry.registry import Registry
from adaptrix.registry.statistics import report_of
from adaptrix.schema.errors import AdaptrixError, NotFound, Refused
from adaptrix.store.conversions import MAX_ROWS, Conversion, log_conversion, read_conversions
from adaptrix.store.home import INDEX_FILE

Q = "base_model.model.model.layers.0.self_attn.q_proj"
PAIR = {f"{Q}.lora_A.weight": np.ones((2, 16), "f4"), f"{Q}.lora_B.weight": np.ones((16, 2), "f4")}


@pytest.fixture
def sources(tmp_path):
    kinds = {
        "good": (PAIR, {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"],
                        "base_model_name_or_path": "microsoft/phi-2"}),
        "soft": ({"prompt_embeddings": np.ones((2, 4), "f4")}, {"peft_type": "PROMPT_TUNING"}),
    }  # fmt: skip
    for name, (tensors, config) in kinds.items():
        folder = tmp_path / name
        folder.mkdir()
        (folder / "adapter_model.safetensors").write_bytes(save(tensors))
        (folder / "adapter_config.json").write_text(json.dumps(config))
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "adapter_model.safetensors").write_bytes(save(PAIR)[:-4])
    return tmp_path


def rows(counts):
    return {row.name: (row.count, row.done) for row in counts}


def test_every_attempt_counts_as_it_ended(sources):
    with Registry(sources / "home") as registry:
        assert registry.stats().conversions == 0
        assert registry.stats().success_rate is None
        registry.pull(str(sources / "good"), name="good")
        registry.pull(str(sources / "good"), name="again", dry_run=True)
        for name in ("soft", "cut", "absent"):
            with pytest.raises(AdaptrixError):
                registry.pull(str(sources / name), name=name)
        registry.convert("good", to="gguf", output=sources / "out.gguf")
        with pytest.raises(Refused):
            registry.convert(str(sources / "soft"), to="gguf", output=sources / "no.gguf")
        found = registry.stats()
        registry.reindex()
        assert registry.stats() == found
    assert (found.conversions, found.done, found.refused, found.failed) == (6, 2, 3, 1)
    assert found.success_rate == 2 / 6
    assert rows(found.by_verb) == {"pull": (4, 1), "convert": (2, 1)}
    assert rows(found.by_format) == {"peft": (4, 2)}
    assert rows(found.by_method) == {"lora": (2, 2), "prompt_tuning": (2, 0)}
    assert rows(found.by_architecture)["phi"] == (2, 2)
    assert rows(found.by_fidelity) == {"exact": (2, 2), "refused": (2, 0)}
    assert rows(found.refusals) == {"soft_prompt": (2, 0), "truncated": (1, 0)}
    assert rows(found.failures) == {"not_found": (1, 0)}
    assert found.slowest in {"good", str(sources / "good")}
    assert 0 < found.median_s <= found.slowest_s
    assert found.bytes == 2 * 2 * 2 * 16 * 4
    assert found.since <= found.until


def entry(**more):
    plain = {
        "time": "2026-01-01T00:00:00+00:00", "verb": "pull", "source": "x", "target": "peft",
        "outcome": "done", "code": "", "format": "peft", "method": "lora", "architecture": "phi",
        "fidelity": "exact", "verdict": "PASS", "modules": 1, "bytes": 8, "seconds": 1.0,
    }  # fmt: skip
    return Conversion(**{**plain, **more})


def test_times_are_of_those_that_ended_well():
    seconds = [0.5, 3.0, 1.0, 2.0]
    log = tuple(entry(source=f"s{s}", seconds=s) for s in seconds)
    log += (entry(outcome="refused", code="ia3", seconds=99.0),)
    found = report_of(log)
    assert found.median_s == median(seconds)
    assert (found.slowest_s, found.slowest) == (3.0, "s3.0")
    assert found.success_rate == 4 / 5


def test_a_locked_index_costs_a_moment_and_the_row(sources):
    with Registry(sources / "home") as registry:
        registry.pull(str(sources / "good"), name="good")
        index = sources / "home" / INDEX_FILE
        with closing(sqlite3.connect(index)) as other:
            other.execute("BEGIN IMMEDIATE")
            started = time.monotonic()
            with pytest.raises(Refused):
                registry.pull(str(sources / "soft"), name="soft")
            assert time.monotonic() - started < 5
        assert registry.stats().conversions == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_home_that_cannot_be_written_keeps_no_log(sources):
    home = sources / "home"
    with Registry(home) as registry:
        registry.pull(str(sources / "good"), name="good")
    for path in (home, home / INDEX_FILE):
        path.chmod(0o555)
    try:
        with Registry(home) as registry:
            registry.convert("good", to="mlx", output=sources / "out")
            assert registry.stats().conversions == 1
    finally:
        home.chmod(0o755)


def test_no_home_no_log(sources):
    with Registry(sources / "none") as registry:
        registry.convert(str(sources / "good"), to="mlx", output=sources / "out")
        assert registry.stats().conversions == 0
        with pytest.raises(NotFound):
            registry.convert("./nothing", to="mlx", output=sources / "out2")
    assert not (sources / "none").exists()


def test_the_log_is_bounded_and_an_index_without_one_is_read(tmp_path):
    path = tmp_path / INDEX_FILE
    assert not log_conversion(path, entry())
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE other (x)")
    assert read_conversions(path) == ()
    assert log_conversion(path, entry(source="first"))
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE conversions SET sequence = 5")
        connection.execute(f"UPDATE sqlite_sequence SET seq = {MAX_ROWS + 4}")
    assert log_conversion(path, entry(source="second"))
    assert [row.source for row in read_conversions(path)] == ["second"]
