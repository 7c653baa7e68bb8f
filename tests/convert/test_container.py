"""Containers are known by what they hold; names decide only who is lying."""

import io
import json
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch

from adaptrix.convert.container import open_container
from adaptrix.convert.source import MemorySource, open_path
from adaptrix.schema.errors import AdaptrixError, FormatError, PolicyRefused

CORPUS = os.environ.get("ADAPTRIX_CORPUS", "")


def files():
    torch_file, npz = io.BytesIO(), io.BytesIO()
    torch.save({"a": torch.ones(2)}, torch_file)
    np.savez(npz, a=np.ones(2))
    return {
        "safetensors": safetensors.numpy.save({"a": np.ones(2)}),
        "pickle": torch_file.getvalue(),
        "npz": npz.getvalue(),
    }


@pytest.mark.parametrize("name", ["a.safetensors", "a.bin", "a.json", "README", "a.gguf", "a.npz"])
@pytest.mark.parametrize("kind", ["safetensors", "pickle", "npz"])
def test_the_content_decides_under_any_name(kind, name):
    file = open_container(MemorySource(name, files()[kind]))
    assert (file.kind, file.name, list(file.tensors)) == (kind, name, ["a"])


NOT_TENSORS = {
    "adapter_config.json": json.dumps({"r": 8, "peft_type": "LORA"}).encode(),
    "index.json": b'{"a123":{"weight_map": {}}}',
    "README.md": b"# A card\n\ncode\nis here\n",
    "words.txt": b"cos is a word\nsystem\nNothing.\n",
    "tiny": b"{",
    "image.png": b"\x89PNG\r\n\x1a\n" + bytes(50),
    "model.keras": b"\x89HDF\r\n\x1a\n" + bytes(50),
    "numbers.txt": b"1\n2\n3\n",
    "binary": bytes(range(256)),
}


@pytest.mark.parametrize("name", NOT_TENSORS)
def test_what_is_no_tensor_file_is_none(name):
    assert open_container(MemorySource(name, NOT_TENSORS[name])) is None


def test_a_zip_of_something_else_is_none():
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as new:
        new.writestr("word/document.xml", "<x/>")
    assert open_container(MemorySource("a.docx", out.getvalue())) is None


@pytest.mark.parametrize("suffix", ["safetensors", "bin", "pt", "pth", "ckpt", "gguf", "npz"])
@pytest.mark.parametrize("content", [b"<!DOCTYPE html><html>Sign in</html>", bytes(1000), b"{}"])
def test_a_weight_file_that_holds_something_else_is_an_error(suffix, content):
    with pytest.raises(FormatError):
        open_container(MemorySource(f"adapter_model.{suffix}", content))


def test_empty_files_and_lfs_pointers_are_named_as_such():
    with pytest.raises(FormatError) as caught:
        open_container(MemorySource("adapter_model.safetensors", b""))
    assert (caught.value.code, caught.value.exit_status) == ("empty_file", 2)
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n"
    with pytest.raises(FormatError) as caught:
        open_container(MemorySource("adapter_model.safetensors", pointer))
    assert caught.value.code == "lfs_pointer"


def test_a_pickle_in_the_clothes_of_another_format_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path}/canary",)

    for name in ("adapter_model.safetensors", "adapter_config.json", "x.gguf", "x.npz"):
        for protocol in range(6):
            content = pickle.dumps(Evil(), protocol=protocol)
            with pytest.raises(PolicyRefused):
                open_container(MemorySource(name, content))
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not CORPUS, reason="ADAPTRIX_CORPUS names no folder of real adapters")
def test_every_file_of_the_corpus_opens_or_is_refused():
    kinds = set()
    for path in sorted(p for p in Path(CORPUS).rglob("*") if p.is_file()):
        source = open_path(path).files[path.name]
        try:
            file = open_container(source)
        except AdaptrixError as error:
            pytest.fail(f"{path}: {error}")
        if file is None:
            assert path.suffix not in {".safetensors", ".bin", ".pt", ".npz", ".gguf"}
            continue
        kinds.add(file.kind)
        for tensor in file.tensors.values():
            assert len(tensor.load()) == tensor.size_bytes
        if file.kind == "pickle":
            _compare_with_torch(path, file.tensors)
    assert {"safetensors", "pickle", "npz"} <= kinds


def _compare_with_torch(path, tensors):
    def walk(value, prefix=""):
        if isinstance(value, torch.Tensor):
            yield prefix or "0", value
        elif isinstance(value, dict | list | tuple):
            items = value.items() if isinstance(value, dict) else enumerate(value)
            for key, child in items:
                yield from walk(child, f"{prefix}.{key}" if prefix else str(key))

    expected = dict(walk(torch.load(path, map_location="cpu", weights_only=True)))
    assert expected.keys() == tensors.keys()
    for name, value in expected.items():
        flat = value.detach().contiguous().reshape(-1).view(torch.uint8)
        assert bytes(tensors[name].load()) == flat.numpy().tobytes()


def test_a_zip_of_a_folder_says_that_it_is_to_be_extracted(tmp_path):
    with zipfile.ZipFile(tmp_path / "lora.zip", "w") as archive:
        archive.writestr("lora/adapter_model.safetensors", b"x")
        archive.writestr("lora/adapter_config.json", "{}")
    with pytest.raises(FormatError, match="zip archive") as caught:
        open_container(MemorySource("lora.zip", (tmp_path / "lora.zip").read_bytes()))
    assert (caught.value.code, caught.value.hint) == ("compressed", "Extract it first: unzip.")
