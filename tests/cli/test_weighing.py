"""Compositions that need the base: learned weights, Gram matrices, DoRA made plain."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from adaptrix.cli.main import run
from adaptrix.samples import BASE_DIR
from adaptrix.samples.deltas import sample_deltas
from adaptrix.samples.tasks import items

SAMPLES = Path(__file__).resolve().parents[2] / "samples" / "adapters"
HELD_OUT = SAMPLES.parent / "heldout"


@pytest.fixture
def stocked(home, capsys, tmp_path):
    for name in ("math", "code"):
        assert run(["pull", str(SAMPLES / name), "--as", name, "-q"]) == 0
        rows = [{"prompt": one.prompt, "answer": one.answer} for one in items(name, "train", 12)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    both = [(tmp_path / f"{name}.jsonl").read_text() for name in ("math", "code")]
    (tmp_path / "both.jsonl").write_text("\n".join(both))
    capsys.readouterr()
    return tmp_path


def document(capsys, *arguments):
    assert run([*map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def dense_loss(weights, rows):
    """Mean loss per answer token, by transformers alone on dense float64 sums."""
    model = AutoModelForCausalLM.from_pretrained(BASE_DIR, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(BASE_DIR)
    for name, by_layer in weights.items():
        for path, delta in sample_deltas(name).items():
            layer = int(path.split(".")[2])
            parameter = model.get_parameter(f"{path}.weight")
            parameter.data += (by_layer[layer] * delta).float()
    total, count = 0.0, 0
    for row in rows:
        start = len(tokenizer(row["prompt"])["input_ids"])
        ids = tokenizer(f"{row['prompt']} {row['answer']}")["input_ids"] + [tokenizer.eos_token_id]
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0, :-1]
        losses = torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:]), reduction="none")
        total, count = total + float(losses[start - 1 :].sum()), count + len(ids) - start
    return total / count


def test_learned_weights_are_a_recipe(stocked, capsys):
    recipe = stocked / "mix.yaml"
    line = ["weigh", "math=0.7", "code=0.7", "--examples", stocked / "both.jsonl", "-o", recipe,
            "--steps", "8", "--rate", "0.05"]  # fmt: skip
    found = document(capsys, *line)
    rows = [json.loads(text) for text in (stocked / "both.jsonl").read_text().splitlines()]
    weights = {name: {} for name in ("math:latest", "code:latest")}
    for row in found["rows"]:
        weights[row["adapter"]][row["layer"]] = row["weight"]
    plain = {name.partition(":")[0]: by_layer for name, by_layer in weights.items()}
    begun = {name: dict.fromkeys(range(4), 0.7) for name in plain}
    assert found["loss_before"] == pytest.approx(dense_loss(begun, rows), rel=1e-3)
    assert found["loss_after"] == pytest.approx(dense_loss(plain, rows), rel=1e-3)
    assert found["loss_after"] < 0.8 * found["loss_before"]
    text = recipe.read_text()
    assert yaml.safe_load(text)["method"] == "linear"
    assert document(capsys, *line)["loss_after"] == found["loss_after"]
    assert recipe.read_text() == text
    made = document(capsys, "compose", "--recipe", recipe, "-o", "mix")
    assert made["fidelity"] == "rounding"
    again = document(capsys, "compose", "--recipe", recipe, "-o", "other")
    assert again["tensors_digest"] == made["tensors_digest"]
    rules = made["recipe"]["inputs"][0]["rules"]
    assert {tuple(rule["layers"]): float(rule["weight"]) for rule in rules} == {
        (layer, layer): weight for layer, weight in weights["math:latest"].items()
    }


def gram_line(stocked, name, other):
    return ["grams", name, "--with", other, "--examples", stocked / f"{name}.jsonl",
            "-o", stocked / f"{name}.grams"]  # fmt: skip


def test_regmean_from_gram_files(stocked, capsys):
    files = []
    for name, other in (("math", "code"), ("code", "math")):
        found = document(capsys, *gram_line(stocked, name, other))
        assert (found["modules"], found["diagonal"]) == (20, 0)
        files += ["--grams", f"{name}={found['path']}"]
    narrow = document(capsys, *gram_line(stocked, "math", "code")[:-1], stocked / "d.grams",
                      "--widest", "300")  # fmt: skip
    assert narrow["diagonal"] == 4  # fc2
    wide, thin = load_file(stocked / "math.grams"), load_file(stocked / "d.grams")
    fc2 = "model.layers.0.mlp.fc2"
    torch.testing.assert_close(thin[fc2], wide[fc2].diagonal(), rtol=1e-4, atol=1e-4)
    path = "model.layers.0.self_attn.q_proj"
    grams = [load_file(stocked / f"{n}.grams")[path].double() for n in ("math", "code")]
    # An embedding's output normalised: the first layer's input needs no adapter.
    model = AutoModelForCausalLM.from_pretrained(BASE_DIR, dtype=torch.float32)
    tokenizer, wanted = AutoTokenizer.from_pretrained(BASE_DIR), 0
    for text in (stocked / "math.jsonl").read_text().splitlines():
        row = json.loads(text)
        ids = tokenizer(f"{row['prompt']} {row['answer']}")["input_ids"] + [tokenizer.eos_token_id]
        with torch.no_grad():
            inputs = model.model.layers[0].input_layernorm(
                model.model.embed_tokens(torch.tensor(ids))
            )
        wanted = wanted + inputs.double().T @ inputs.double()
    np.testing.assert_allclose(grams[0], wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max()))
    line = ["compose", "math", "code", "-o", "mix", "--method", "regmean", "--param", "alpha=0.8"]
    made = document(capsys, *line, *files)
    assert all(entry["grams"].startswith("sha256:") for entry in made["recipe"]["inputs"])
    shrunk = [0.8 * g + 0.2 * torch.diag(g.diagonal()) for g in grams]
    deltas = [sample_deltas(name)[path] for name in ("math", "code")]
    exact = torch.linalg.solve(
        sum(shrunk), sum(d @ g for d, g in zip(deltas, shrunk, strict=True)).T
    ).T
    assert run(["export", "mix", "--for", "peft", "-o", str(stocked / "out"), "-q"]) == 0
    state = load_file(next((stocked / "out").glob("*.safetensors")))
    key = f"base_model.model.{path}"
    got = state[f"{key}.lora_B.weight"].double() @ state[f"{key}.lora_A.weight"].double()
    config = json.loads((stocked / "out" / "adapter_config.json").read_text())
    assert config["lora_alpha"] / config["r"] == pytest.approx(1.0)
    assert float((got - exact).norm()) <= 1e-3 * float(exact.norm())
    # A rebase needs the same files, and says so.
    capsys.readouterr()
    assert run(["rebase", "mix"]) == 2
    assert "Pass --grams" in capsys.readouterr().err
    assert document(capsys, "rebase", "mix", *files)["status"] == "unchanged"


def test_regmean_without_grams_names_the_module(stocked, capsys):
    assert run(["compose", "math", "code", "-o", "mix", "--method", "regmean"]) == 2
    assert "model.layers.0" in capsys.readouterr().err
    assert run(["compose", "math", "code", "-o", "m", "--grams", "news=x", "-q"]) == 2
    assert run(["compose", "math", "code", "-o", "m", "--grams", "math=gone", "-q"]) == 5
    assert run(["weigh", "math", "--examples", "gone.jsonl", "-o", "x.yaml"]) == 5
    bad = stocked / "bad.jsonl"
    bad.write_text('{"prompt": "a"}\n')
    assert run(["weigh", "math", "--examples", str(bad), "-o", "x.yaml"]) == 2
    assert "bad.jsonl:1" in capsys.readouterr().err


@pytest.fixture
def dora(stocked, capsys):
    """math as a DoRA whose rows keep their length but for the first of each."""
    folder = stocked / "dora"
    shutil.copytree(SAMPLES / "math", folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    config["use_dora"] = True
    (folder / "adapter_config.json").write_text(json.dumps(config))
    state = load_file(folder / "adapter_model.safetensors")
    base = load_file(BASE_DIR / "model.safetensors")
    for path, delta in sample_deltas("math").items():
        magnitude = (base[f"{path}.weight"].double() + delta).norm(dim=1)
        magnitude[0] *= 1.25
        state[f"base_model.model.{path}.lora_magnitude_vector"] = magnitude.float()
    save_file(state, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    assert run(["pull", str(folder), "--as", "dora", "-q"]) == 0
    capsys.readouterr()
    return folder


def test_dora_needs_its_base_and_is_made_plain_with_it(stocked, dora, capsys):
    assert run(["compose", "dora", "code", "-o", "mix"]) == 1
    error = capsys.readouterr().err
    assert "model.layers.0" in error
    assert "--base" in error
    assert run(["compose", "dora", "code", "--plan"]) == 1
    capsys.readouterr()
    planned = document(capsys, "compose", "dora", "code", "--plan", "--base", "sample")
    assert planned["adapters"] == ["dora", "code"]
    made = document(capsys, "compose", "dora", "code", "-o", "mix", "--base", "sample")
    assert made["baked"] == [{"reference": "dora:latest", "modules": 16, "error": 0.0}]
    assert made["recipe"]["inputs"][0]["baked"]["base"] == "sample"
    low = document(capsys, "compose", "dora", "code", "-o", "low", "--base", "sample",
                   "--bake-rank", "4")  # fmt: skip
    assert 0 < low["baked"][0]["error"] < 1
    assert (
        run(["compose", "dora", "code", "-o", "low", "--base", "sample", "--bake-rank", "4"]) == 0
    )
    assert "DoRA modules made plain, relative error" in capsys.readouterr().out
    assert run(["rebase", "mix"]) == 2
    assert "Pass --base sample" in capsys.readouterr().err
    assert document(capsys, "rebase", "mix", "--base", "sample")["status"] == "unchanged"


def changed(stocked, **change):
    folder = stocked / "changed"
    shutil.copytree(SAMPLES / "math", folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | change))
    return run(["pull", str(folder), "--as", "changed", "-q"])


def test_alora_never_gets_as_far_as_a_composition(stocked, capsys):
    assert changed(stocked, alora_invocation_tokens=[1, 2]) == 1
    assert "aLoRA acts only after its invocation tokens" in capsys.readouterr().err
    assert run(["compose", "changed", "code", "-o", "mix"]) == 5


def test_an_adapter_of_a_modified_base_is_carried_but_not_composed(stocked, capsys):
    assert changed(stocked, init_lora_weights="pissa") in {0, 3}
    capsys.readouterr()
    assert run(["compose", "changed", "code", "-o", "mix"]) == 1
    error = capsys.readouterr().err
    assert "model.layers.0" in error
    assert "modified base" in error
