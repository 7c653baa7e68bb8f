"""``verify --merged`` on what PEFT's own merge wrote: that passes, anything else does not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from adaptrix.cli.main import run
from adaptrix.samples import BASE_DIR, SAMPLES_DIR
from adaptrix.samples.adapter_training import load_base

# Warnings of PEFT and transformers about each other are not ours.
pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
ADAPTED = "model.layers.1.self_attn.q_proj.weight"
UNTOUCHED = "model.layers.1.self_attn.dense.weight"


def merged_by_peft(task: str, folder: Path, dtype: torch.dtype) -> Path:
    model, _ = load_base()
    tuned = PeftModel.from_pretrained(model.to(dtype), str(SAMPLES_DIR / "adapters" / task))
    tuned.merge_and_unload().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=[torch.float32, torch.float16, torch.bfloat16], ids=str)
def merged(request, tmp_path_factory):
    return merged_by_peft("math", tmp_path_factory.mktemp("merged") / "model", request.param)


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory):
    place = tmp_path_factory.mktemp("merging") / "home"
    for task in ("math", "news"):
        source = str(SAMPLES_DIR / "adapters" / task)
        assert run(["pull", source, "--as", task, "--home", str(place)]) == 0
    return place


def verdict(home, folder, capsys, name="math"):
    capsys.readouterr()
    status = run(["verify", name, "--base", "sample", "--merged", str(folder), "--json",
                  "--home", str(home)])  # fmt: skip
    document = json.loads(capsys.readouterr().out)
    return status, [problem["where"] for problem in document["problems"]]


def changed(merged: Path, folder: Path, change) -> Path:
    shutil.copytree(merged, folder)
    (file,) = folder.glob("*.safetensors")
    tensors = {name: tensor.clone() for name, tensor in load_file(file).items()}
    change(tensors)
    save_file(tensors, file, {"format": "pt"})
    return folder


def test_what_peft_merged_passes(merged, home, capsys):
    assert verdict(home, merged, capsys) == (0, [])


def test_another_adapter_and_the_base_itself_fail(merged, home, capsys):
    status, places = verdict(home, merged, capsys, "news")
    assert status == 1
    assert ADAPTED in places
    status, places = verdict(home, BASE_DIR, capsys)
    assert status == 1
    assert ADAPTED in places


@pytest.fixture(scope="module")
def faint(tmp_path_factory, home):
    """An adapter whose update is below a step of most weights' bfloat16, and PEFT's merge of it."""
    folder = tmp_path_factory.mktemp("faint")
    shutil.copytree(SAMPLES_DIR / "adapters" / "math", folder / "adapter")
    (file,) = (folder / "adapter").glob("*.safetensors")
    tensors = {k: v * 3e-3 if "lora_B" in k else v for k, v in load_file(file).items()}
    save_file(tensors, file, {"format": "pt"})
    assert run(["pull", str(folder / "adapter"), "--as", "faint", "--home", str(home)]) == 0
    model, _ = load_base()
    model = model.to(torch.bfloat16)
    model.save_pretrained(folder / "base")
    tuned = PeftModel.from_pretrained(model, str(folder / "adapter"))
    tuned.merge_and_unload().save_pretrained(folder / "merged")
    return folder


def test_the_base_does_not_pass_for_a_faint_update(faint, home, capsys):
    def verify(folder):
        capsys.readouterr()
        status = run(["verify", "faint", "--base", str(faint / "base"), "--merged", str(folder),
                      "--json", "--home", str(home)])  # fmt: skip
        return status, json.loads(capsys.readouterr().out)["problems"]

    assert verify(faint / "merged") == (0, [])
    status, problems = verify(faint / "base")
    assert status == 1
    # Weights near zero have steps small enough to show it.
    assert ADAPTED in {problem["where"] for problem in problems}


@pytest.mark.parametrize("name", [ADAPTED, UNTOUCHED])
def test_one_value_that_is_wrong_is_found(name, merged, home, capsys, tmp_path):
    def bump(tensors):
        tensors[name][3, 5] += 0.1

    assert verdict(home, changed(merged, tmp_path / "m", bump), capsys) == (1, [name])


def test_no_number_is_no_value(merged, home, capsys, tmp_path):
    def spoil(tensors):
        tensors[ADAPTED][0, 0] = float("nan")

    assert verdict(home, changed(merged, tmp_path / "m", spoil), capsys) == (1, [ADAPTED])


def test_a_missing_and_a_foreign_tensor_are_found(merged, home, capsys, tmp_path):
    def swap(tensors):
        tensors["stranger.weight"] = tensors.pop(UNTOUCHED)

    found = verdict(home, changed(merged, tmp_path / "m", swap), capsys)
    assert found == (1, [UNTOUCHED, "stranger.weight"])


def test_it_takes_the_weights_of_the_base(merged, home, capsys):
    words = ["verify", "math", "--merged", str(merged), "--home", str(home)]
    assert run(words) == 2
    assert "--base" in capsys.readouterr().err
    assert run([*words, "--base", str(BASE_DIR / "config.json")]) == 0
    assert run([*words[:3], "./nowhere", *words[4:], "--base", "sample"]) == 5


def test_what_is_not_compared_is_said(home, capsys, tmp_path):
    model, _ = load_base()
    tuned = get_peft_model(model, LoraConfig(r=2, use_dora=True, target_modules=["q_proj"]))
    with torch.no_grad():
        for name, value in tuned.named_parameters():
            if "lora_B" in name:
                value.fill_(0.01)
    tuned.save_pretrained(tmp_path / "dora")
    place = ["--home", str(home)]
    assert run(["pull", str(tmp_path / "dora"), "--as", "dora", *place]) in {0, 3}
    tuned.merge_and_unload().save_pretrained(tmp_path / "model")
    capsys.readouterr()
    status = run(
        ["verify", "dora", "--base", "sample", "--merged", str(tmp_path / "model"), *place]
    )
    assert status == 3
    assert "unchecked_merge" in capsys.readouterr().err
