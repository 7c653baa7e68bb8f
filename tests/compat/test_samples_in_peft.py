"""PEFT's own reader on the samples as they are committed: what it runs is what we run."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
from peft.utils import load_peft_weights

from adaptrix import Session, WeightedAdapter, open_path, read_adapter
from adaptrix.samples import SAMPLES_DIR
from adaptrix.samples.adapter_training import load_base
from adaptrix.samples.legacy_phi import LegacyPhi

conftest = sys.modules.get("tests.conftest") or sys.modules["conftest"]
proof = conftest.load_helper(
    "phi2_proof", Path(__file__).parents[2] / "benchmarks" / "phi2_proof.py"
)
IDS = torch.arange(32).reshape(2, 16) * 7 % 100

# Warnings of PEFT and transformers about each other are not ours.
pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


@torch.inference_mode()
def pefts_logits(folder: Path, model: torch.nn.Module) -> torch.Tensor:
    config = LoraConfig.from_pretrained(str(folder))
    if isinstance(model, LegacyPhi):
        config.task_type = None  # it cannot generate, which PEFT asks of a causal model
    tuned = get_peft_model(model, config)
    result = set_peft_model_state_dict(tuned, load_peft_weights(str(folder), device="cpu"))
    assert not result.unexpected_keys
    assert not [key for key in result.missing_keys if "lora_" in key]
    found = tuned.eval()(IDS)
    return getattr(found, "logits", found)


@pytest.mark.parametrize("task", ["math", "news", "instruct"])
def test_peft_runs_the_committed_file_as_we_do(task):
    folder = SAMPLES_DIR / "adapters" / task
    model, _ = load_base()
    # The instruct sample is of the old remote code: PEFT needs a model with those names.
    theirs = LegacyPhi(model).eval() if task == "instruct" else load_base()[0]
    wanted = pefts_logits(folder, theirs)
    with torch.inference_mode():
        untouched = model(IDS).logits
        adapter = read_adapter(open_path(folder)).adapter
        Session.open(
            proof.wrapped(model), [WeightedAdapter(name=task, adapter=adapter)], mode="attached"
        )
        got = model(IDS).logits
    scale = wanted.abs().max()
    assert (got - wanted).abs().max() <= 1e-5 * scale
    assert (untouched - wanted).abs().max() > 0.01 * scale
