"""Pushing to a Hugging Face repository: what PEFT and the Hub expect, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from adaptrix.hub.versions import TagMoved
from adaptrix.registry.registry import Registry
from adaptrix.schema.errors import AccessDenied, NotFound

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = ROOT / "samples" / "adapters"


# Raised inside huggingface_hub 2.4 when it uploads, not by us.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture
def alice(hub, tmp_path, monkeypatch):
    monkeypatch.delenv("ADAPTRIX_TOKEN", raising=False)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    hub.users["hf_t0ken"] = "alice"
    with Registry(tmp_path / "alice") as registry:
        for name in ("math", "code"):
            registry.pull(str(SAMPLES / name), name=name)
        registry.compose([("math", 1.0), ("code", 1.0)], output="mix")
        registry.add_remote("hub", "hf:some-org")
        yield registry


def files_of(hub, name):
    repository = hub.repositories[name]
    return repository.commits[repository.refs["main"]]


def test_peft_loads_what_was_pushed(hub, alice, tmp_path):
    from peft.utils import load_peft_weights
    from safetensors.torch import load

    report = alice.push("mix", "hub", tag="v1")
    files = files_of(hub, "some-org/mix")
    assert (report.status, report.remote) == ("new", "hf:some-org/mix")
    assert files.keys() == {"README.md", "adapter_config.json", "adapter_model.safetensors"}
    manifest = alice.show("mix").manifest
    stored = alice.home.blobs.read(manifest.layer("adapter_model.safetensors").digest)
    assert files["adapter_model.safetensors"] == stored
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    assert load_peft_weights(str(tmp_path)).keys() == load(stored).keys()
    repository = hub.repositories["some-org/mix"]
    assert repository.refs["v1"] == repository.refs["main"]


def test_the_card_names_base_and_library(hub, alice):
    alice.push("mix", "hub")
    text = files_of(hub, "some-org/mix")["README.md"].decode()
    matter = yaml.safe_load(text.split("---")[1])
    assert matter["library_name"] == "peft"
    assert matter["base_model"] == "adaptrix/sample-phi"
    assert "math:latest, weight 1" in text


def test_only_what_changed_travels(hub, alice):
    first = alice.push("mix", "hub")
    again = alice.push("mix", "hub")
    assert (again.status, again.uploaded_bytes) == ("unchanged", 0)
    assert again.skipped_bytes == first.uploaded_bytes
    planned = alice.push("code", "hub/mix", dry_run=True, force=True)
    assert planned.uploaded_bytes > 0
    assert files_of(hub, "some-org/mix").keys() >= {"adapter_config.json"}


def test_weights_of_others_are_not_replaced(hub, alice):
    theirs = {p.name: p.read_bytes() for p in (SAMPLES / "news").iterdir()}
    hub.repository("some-org/math").commit(theirs)
    with pytest.raises(TagMoved):
        alice.push("math", "hub")
    assert files_of(hub, "some-org/math") == theirs
    alice.push("math", "hub", force=True)
    assert files_of(hub, "some-org/math") != theirs


def test_what_was_pulled_may_be_pushed_back(hub, alice):
    source = {p.name: p.read_bytes() for p in (SAMPLES / "instruct").iterdir()}
    hub.repository("some-org/instruct").commit(source)
    alice.pull("hub/instruct")
    report = alice.push("instruct", "hub")
    assert report.status in {"updated", "unchanged"}
    assert alice.pull("hub/instruct", name="again").tensors_digest == (
        alice.show("instruct").manifest.record.tensors_digest
    )


def test_login_is_tried_and_used(hub, alice):
    with pytest.raises(AccessDenied):
        alice.log_in("hub", secret="hf_wr0ng")
    alice.log_in("hub", secret="hf_t0ken")
    alice.push("mix", "hub")
    sent = {authorization for path, authorization in hub.writes if "/commit/" in path}
    assert sent == {"Bearer hf_t0ken"}
    with pytest.raises(NotFound):
        alice.pull("hub/absent")
