"""Pulls from a folder and from a loopback Hub, history, and what people say of them."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from adaptrix.registry.registry import Registry
from adaptrix.schema.errors import NotFound, RemoteError
from adaptrix.schema.report import Fidelity, Verdict

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = ROOT / "samples" / "adapters"
NAMES = ("math", "instruct", "news", "code", "qa")


def sample_files(name):
    return {path.name: path.read_bytes() for path in (SAMPLES / name).iterdir()}


@pytest.mark.parametrize("name", NAMES)
def test_samples_from_the_loopback_hub(name, hub, home):
    sha = hub.repository(f"team/{name}").commit(sample_files(name))
    with Registry(home) as registry:
        report = registry.pull(f"team/{name}")
        assert report.verdict is Verdict.PASS
        assert report.fidelity is Fidelity.EXACT
        assert report.architecture == "phi"
        assert report.reference == f"team/{name}:latest"
        source = registry.show(f"team/{name}").manifest.record.source
        assert (source.repository, source.commit) == (f"team/{name}", sha)
        local = registry.pull(str(SAMPLES / name), name="local")
        assert local.tensors_digest == report.tensors_digest


@pytest.mark.parametrize("name", NAMES)
def test_stored_updates_equal_the_dense_float64_ones(name, home):
    from adaptrix.compose.tensors import to_torch
    from adaptrix.samples.deltas import sample_deltas

    wanted = sample_deltas(name)
    with Registry(home) as registry:
        registry.pull(str(SAMPLES / name), name=name)
        modules = registry.open(name).adapter.modules
        assert {module.path for module in modules} == wanted.keys()
        for module in modules:
            b, a = to_torch(module.b).double(), to_torch(module.a).double()
            got = module.scale.value * (b @ a)
            assert torch.allclose(got, wanted[module.path], rtol=1e-14, atol=1e-15), module.path


@pytest.mark.parametrize("name", NAMES)
def test_peft_itself_loads_the_stored_files_and_gives_our_logits(name, home, tmp_path):
    from peft import PeftModel
    from peft.utils import load_peft_weights
    from transformers import AutoModelForCausalLM

    from adaptrix.loader.plan import WeightedAdapter
    from adaptrix.loader.session import Session

    with Registry(home) as registry:
        registry.pull(str(SAMPLES / name), name=name)
        registry.convert(name, to="peft", output=tmp_path / "peft")
        base = AutoModelForCausalLM.from_pretrained(ROOT / "samples" / "base", dtype=torch.float32)
        model = PeftModel.from_pretrained(base, str(tmp_path / "peft")).eval()
        expected = {key.replace(".default", "") for key in model.state_dict() if "lora_" in key}
        assert set(load_peft_weights(str(tmp_path / "peft"))) == expected
        ids = torch.randint(2, 600, (3, 17), generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            wanted = model(input_ids=ids).logits
        adapter = WeightedAdapter(name=name, adapter=registry.open(name).adapter)
        session = Session.open("adaptrix/sample-phi", [adapter], dtype=torch.float32)
        with torch.no_grad():
            got = session.base.model(input_ids=ids).logits
        assert (got - wanted).abs().max() <= 1e-5 * wanted.abs().max()


def test_pulling_again_is_unchanged_and_fetches_no_body(hub, home):
    hub.repository("team/math").commit(sample_files("math"))
    with Registry(home) as registry:
        first = registry.pull("hf:team/math@main", name="m")
        before = len(hub.fetched("adapter_model.safetensors"))
        again = registry.pull("hf:team/math", name="m")
    assert (again.status, again.digest, again.changed) == ("unchanged", first.digest, False)
    assert len(hub.fetched("adapter_model.safetensors")) == before


def test_moved_upstream_makes_a_child_and_a_new_card_alone_does_not_refetch_weights(hub, home):
    repository = hub.repository("team/math")
    repository.commit(sample_files("math"))
    with Registry(home) as registry:
        first = registry.pull("team/math", description="sums", capabilities=["word-problems"])
        repository.commit({**sample_files("math"), "README.md": b"---\nlicense: mit\n---\nnew"})
        second = registry.pull("team/math")
        assert second.status == "updated"
        assert len(hub.fetched("adapter_model.safetensors")) == 1
        record = registry.show("team/math").manifest.record
        assert record.parents[0].digest == first.digest
        assert (record.description, record.license) == ("sums", "mit")
        assert registry.open("team/math~1").digest == first.digest
        assert [row.digest for row in registry.log("team/math")] == [second.digest, first.digest]
        repository.commit(
            {**sample_files("math"), "README.md": b"---\nlicense: mit\n---\nnew", "notes.txt": b"x"}
        )
        assert registry.pull("team/math").status == "unchanged"


def test_what_people_say_is_kept_and_returned_by_the_typed_report(hub, home):
    hub.repository("any/lora-adapter").commit(sample_files("math"))
    with Registry(home) as registry:
        report = registry.pull(
            "any/lora-adapter", name="my_new_adapter", description="adds small numbers",
            capabilities=["sums", "stories"], domain="mathematics", training_data="generated",
        )  # fmt: skip
        record = registry.show("my_new_adapter").manifest.record
    assert report.reference == "my_new_adapter:latest"
    assert record.capabilities == ("sums", "stories")
    assert (record.domain, record.training_data) == ("mathematics", "generated")
    assert record.license == "apache-2.0"


def test_inspect_of_a_remote_source_reads_headers_only(hub, home):
    body = random.Random(2).randbytes(64)
    files = sample_files("math")
    header = int.from_bytes(files["adapter_model.safetensors"][:8], "little")
    assert header < 300_000
    big = {**files, "unrelated.bin": body * 40_000}
    hub.repository("team/math").commit(big)
    with Registry(home) as registry:
        found = registry.inspect("team/math")
    assert found.convertible
    assert not home.exists()
    assert all(request.headers.get("range") for request in hub.fetched("adapter_model.safetensors"))
    assert hub.fetched("unrelated.bin") == []


def test_two_machines_give_one_digest(tmp_path):
    digests = set()
    for place in ("one", "two"):
        with Registry(tmp_path / place) as registry:
            digests.add(registry.pull(str(SAMPLES / "news"), name="n").digest)
    assert len(digests) == 1


def test_faults_of_the_hub_reach_the_user_as_errors(hub, home):
    with Registry(home) as registry:
        with pytest.raises(NotFound):
            registry.pull("no/such")
        hub.repository("team/math").commit(sample_files("math"))
        fault = __import__("sys").modules["loopback_hub"].Fault
        hub.fail("adapter_config.json", *[fault("status", status=503)] * 9)
        with pytest.raises(RemoteError):
            registry.pull("team/math")
        assert registry.ls() == ()


def test_composition_is_exact_and_recorded(home):
    from adaptrix.compose.tensors import to_torch
    from adaptrix.samples.deltas import sample_deltas

    with Registry(home) as registry:
        for name in ("math", "code"):
            registry.pull(str(SAMPLES / name), name=name)
        report = registry.compose([("math", 1.0), ("code", 0.5)], output="mix")
        one, other = sample_deltas("math"), sample_deltas("code")
        for module in registry.open("mix").adapter.modules:
            got = module.scale.value * (to_torch(module.b).double() @ to_torch(module.a).double())
            wanted = one.get(module.path, 0) + 0.5 * other.get(module.path, 0)
            assert torch.allclose(got, wanted, rtol=1e-12, atol=1e-13)
        assert registry.verify("mix").verdict is Verdict.PASS
        assert {p.role for p in registry.show("mix").manifest.record.parents} == {"composed_from"}
        blob = registry.home.manifest(report.digest).layer("adapter_model.safetensors").digest
        assert load_file(registry.home.blobs.path(blob))
        registry.home.close()
        (home / "adaptrix.sqlite3").unlink()
    with Registry(home) as registry:
        registry.reindex()
        assert registry.open("mix").digest == report.digest
        json.dumps(report.recipe)


def test_the_same_adapter_in_another_format_is_recognised(home, tmp_path):
    with Registry(home) as registry:
        first = registry.pull(str(SAMPLES / "math"), name="math")
        registry.convert("math", to="mlx", output=tmp_path / "mlx")
        again = registry.pull(str(tmp_path / "mlx"), name="again")
        assert first.same_as == ()
        assert again.format == "mlx"
        assert again.same_as == ("math:latest",)
        assert again.tensors_digest == first.tensors_digest
        # Its files are the same bytes, so they are stored once.
        usage = registry.du()
        assert usage.ratio == pytest.approx(usage.version_bytes / usage.file_bytes)
        assert usage.ratio > 1.9


def test_the_same_tensors_with_another_scale_are_another_adapter(home, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(SAMPLES / "math", copy)
    config = json.loads((copy / "adapter_config.json").read_text())
    config["lora_alpha"] = 2 * config["lora_alpha"]
    (copy / "adapter_config.json").write_text(json.dumps(config))
    with Registry(home) as registry:
        registry.pull(str(SAMPLES / "math"), name="math")
        assert registry.pull(str(copy), name="louder").same_as == ()
