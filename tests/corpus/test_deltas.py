"""Every real adapter that converts: ΔW of every module is that of its raw file, in float64."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from adaptrix.convert.arrays import to_numpy_f64
from adaptrix.convert.reading import ReadOptions, read_adapter
from adaptrix.convert.source import open_path
from adaptrix.convert.writing import write_adapter

conftest = sys.modules.get("tests.conftest") or sys.modules["conftest"]
raw = conftest.load_helper("corpus_raw", Path(__file__).parent / "raw.py")
ROOT = Path(os.environ.get("ADAPTRIX_CORPUS", "/nonexistent"))
ADAPTERS = sorted((ROOT / "adapters").iterdir()) if (ROOT / "adapters").is_dir() else []
pytestmark = pytest.mark.skipif(not ADAPTERS, reason="ADAPTRIX_CORPUS names no corpus")
EXACT = 1e-12
ROUNDED = 1e-6


def dense(module) -> np.ndarray:
    """``s·B·A`` in float64, ``(out, in)``."""
    a, b = (to_numpy_f64(t) for t in (module.a, module.b))
    return module.scale.value * b.reshape(b.shape[0], -1) @ a.reshape(a.shape[0], -1)


def close(got: np.ndarray, wanted: np.ndarray, tolerance: float) -> bool:
    if got.shape != wanted.shape:
        return False
    return bool(
        np.abs(got - wanted).max(initial=0) <= tolerance * max(np.abs(wanted).max(), 1e-300)
    )


def sources():
    """Folders; where a folder holds several adapters, its files."""
    for path in ADAPTERS:
        reading = read_adapter(open_path(path), ReadOptions(check_values=False))
        if reading.inspection.format.name in raw.ELSEWHERE:
            continue
        if any(p.code == "multiple_adapters" for p in reading.inspection.problems):
            yield from sorted(p for p in path.iterdir() if p.suffix in {".safetensors", ".pt"})
        else:
            yield path


@pytest.mark.parametrize("path", list(sources()), ids=lambda p: p.name)
def test_every_update_is_that_of_the_raw_file(path):
    reading = read_adapter(open_path(path))
    stored = reading.adapter
    form = reading.inspection.format.name
    given = {}
    if stored is None and form in raw.ALPHA:
        # A scale that no file holds: the question is whether the given one is used as said.
        reading = read_adapter(open_path(path), ReadOptions(alpha=16.0))
        stored, given = reading.adapter, {"alpha": 16.0}
    if stored is None:
        pytest.skip(f"refused: {reading.inspection.problems[0].code}")
    assert form in raw.RAW, f"write down the formula of {form} in raw.py"
    wanted = raw.RAW[form](path, **given)
    tolerance = EXACT if reading.inspection.fidelity == "exact" else ROUNDED
    _compare({m.path: dense(m) for m in stored.modules}, wanted, tolerance, named=form in raw.NAMED)


def _compare(got: dict, wanted: dict, tolerance: float, *, named: bool) -> None:
    assert wanted
    if named:
        assert got.keys() == wanted.keys()
        for path, update in got.items():
            assert close(update, wanted[path], tolerance), path
        return
    # Names are translated: each update is that of one module of the file, and all are used.
    left = dict(wanted)
    for path, update in got.items():
        same = [name for name, other in left.items() if close(update, other, tolerance)]
        assert same, path
        del left[same[0]]
    assert not left


def _is_lora(path: Path) -> bool:
    config = raw.config_of(path)
    early = bool(config.get("enable_lora")) or config.get("merge_weights") is not None
    return config.get("peft_type") == "LORA" and not early


@pytest.mark.parametrize("path", [p for p in ADAPTERS if _is_lora(p)], ids=lambda p: p.name)
def test_peft_itself_computes_the_same_updates(path):
    models = conftest.load_helper("corpus_models", Path(__file__).parent / "models.py")
    updates = models.peft_updates(path)
    stored = read_adapter(open_path(path)).adapter
    assert {m.path for m in stored.modules} == updates.keys()
    for module in stored.modules:
        wanted = updates[module.path]
        got = dense(module).reshape(wanted.shape)
        assert close(got, wanted, 1e-5), module.path


@pytest.mark.parametrize("path", ADAPTERS, ids=lambda p: p.name)
def test_what_is_written_as_peft_has_the_same_updates(path, tmp_path):
    stored = read_adapter(open_path(path)).adapter
    if stored is None or stored.format in raw.ELSEWHERE:
        pytest.skip("refused, or compared in test_diffusion.py")
    for file in write_adapter(stored, "peft").files:
        (tmp_path / file.path).write_bytes(b"".join(bytes(chunk) for chunk in file.chunks()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wanted = raw.peft(tmp_path)
    _compare({m.path: dense(m) for m in stored.modules}, wanted, EXACT, named=True)
