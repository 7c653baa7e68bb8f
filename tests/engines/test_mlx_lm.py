"""MLX-LM's own loader, on its sample and on what we write: the logits are PEFT's."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from adaptrix.samples import BASE_DIR
from adaptrix.schema.errors import Refused

mx = pytest.importorskip("mlx.core", reason="make test-engines installs it")
utils = pytest.importorskip("mlx_lm.utils", reason="make test-engines installs it")
conftest = sys.modules.get("tests.conftest") or sys.modules["conftest"]
reference = conftest.load_helper("engine_reference", Path(__file__).parent / "reference.py")


def mlx_logits(folder: Path) -> np.ndarray:
    model, _ = utils.load(str(BASE_DIR), adapter_path=str(folder))
    model.apply(lambda array: array.astype(mx.float32))
    return np.array(model(mx.array([reference.IDS])))[0]


def test_mlx_lm_reads_its_sample(agree, tmp_path):
    wanted = reference.peft_logits("code", tmp_path)
    agree(mlx_logits(reference.ADAPTERS / "code"), wanted, reference.base_logits())


@pytest.mark.parametrize("task", ["math", "instruct", "code", "qa"])
def test_mlx_lm_reads_what_we_write(agree, task, tmp_path):
    wanted = reference.peft_logits(task, tmp_path)
    folder = reference.convert(task, "mlx", tmp_path / "mlx")
    agree(mlx_logits(folder), wanted, reference.base_logits())


@pytest.mark.parametrize("case", reference.MADE)
def test_mlx_lm_reads_parts_of_a_model(agree, case, tmp_path):
    source = reference.made(case, tmp_path)
    wanted = reference.peft_logits(source, tmp_path)
    folder = reference.convert(source, "mlx", tmp_path / "mlx")
    agree(mlx_logits(folder), wanted, reference.base_logits())


def test_several_ranks_are_refused_not_lost(tmp_path):
    with pytest.raises(Refused, match="one rank"):
        reference.convert("news", "mlx", tmp_path / "mlx")
