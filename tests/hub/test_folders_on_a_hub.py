"""A repository with an adapter in each of several folders: one of them is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from adaptrix.registry.registry import Registry
from adaptrix.schema.errors import AdaptrixError, NotFound

SAMPLES = Path(__file__).resolve().parents[2] / "samples" / "adapters"


@pytest.fixture
def repository(hub):
    found = hub.repository("any/dpo")
    found.commit(
        {
            f"{folder}/{path.name}": path.read_bytes()
            for folder, sample in (("runs/default", "math"), ("runs/reference", "code"))
            for path in (SAMPLES / sample).iterdir()
            if path.is_file()
        }
    )
    return found


def pull(home, source, **options):
    return Registry(home).pull(source, **options)


def test_none_is_guessed(repository, home):
    with pytest.raises(AdaptrixError) as caught:
        pull(home, "hf:any/dpo")
    assert "runs/default" in str(caught.value)
    assert "runs/reference" in str(caught.value)
    assert "hf:org/repo/folder" in str(caught.value.hint)


@pytest.mark.parametrize(
    "source",
    ["hf:any/dpo/runs/reference", "https://huggingface.co/any/dpo/tree/main/runs/reference"],
)
def test_the_one_that_is_named_is_pulled(source, repository, hub, home):
    report = pull(home, source)
    wanted = pull(home, str(SAMPLES / "code"), name="code")
    assert report.reference == "any/dpo-reference:latest"
    assert report.tensors_digest == wanted.tensors_digest
    assert not hub.fetched("runs/default/adapter_model.safetensors")
    record = Registry(home).show("any/dpo-reference").manifest.record
    assert {file.path.rpartition("/")[0] for file in record.source.files} == {"runs/reference"}
    assert pull(home, source).status == "unchanged"


def test_another_folder_of_the_same_commit_is_another_version(repository, home):
    first = pull(home, "hf:any/dpo/runs/reference", name="dpo")
    second = pull(home, "hf:any/dpo/runs/default", name="dpo")
    assert first.tensors_digest != second.tensors_digest
    assert second.status != "unchanged"


def test_inspect_reads_the_headers_of_that_folder(repository, hub, home):
    found = Registry(home).inspect("hf:any/dpo/runs/default")
    assert found.verdict == "PASS"
    assert not hub.fetched("runs/reference/adapter_model.safetensors")


def test_a_folder_that_is_nowhere(repository, home):
    with pytest.raises(NotFound, match="no such folder"):
        pull(home, "hf:any/dpo/runs/nothing")
