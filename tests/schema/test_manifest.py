import json
from pathlib import Path

import pytest

from adaptrix.schema import media_types
from adaptrix.schema.canonical import canonical_json, float_text
from adaptrix.schema.digest import Digest
from adaptrix.schema.errors import FormatError
from adaptrix.schema.manifest import Manifest, file_descriptor, record_json_schema

ROOT = Path(__file__).parent.parent.parent
SHA = "sha256:" + "a" * 64


@pytest.fixture(scope="module")
def config() -> dict:
    """A config blob written by hand, after the published schema."""
    module = {
        "path": "model.layers.0.mlp.fc1", "kind": "linear", "in_features": 8, "out_features": 32,
        "rank": 4, "alpha": "8.0", "scale": "2.0", "rule": "alpha/r",
    }  # fmt: skip
    return {
        "descriptor": {"family": "phi"},
        "adaptrix": {
            "version": 1, "tensors_digest": SHA, "family": "phi", "method": "lora",
            "parameters": 160, "dtypes": ["float32"], "modules": [module],
            "base": {"name": "microsoft/phi-2"},
            "source": {"kind": "hub", "files": [{"path": "a", "digest": SHA, "size_bytes": 5}]},
            "parents": [{"digest": SHA, "role": "composed_from", "weight": "0.1"}],
        },
    }  # fmt: skip


def layer(**changes: object) -> dict:
    return {
        "mediaType": media_types.WEIGHT_RAW, "digest": SHA, "size": 3,
        "annotations": {media_types.FILEPATH: "adapter_model.safetensors"},
    } | changes  # fmt: skip


def manifest_of(blob: bytes, /, **changes: object) -> bytes:
    document = {
        "schemaVersion": 2,
        "mediaType": media_types.MANIFEST,
        "artifactType": media_types.MODEL,
        "config": {
            "mediaType": media_types.CONFIG,
            "digest": str(Digest.of(blob)),
            "size": len(blob),
        },
        "layers": [layer()],
    }
    return json.dumps(document | changes).encode()


def test_one_written_by_hand(config):
    data = json.dumps(config).encode()
    found = Manifest.parse(manifest_of(data), data)
    assert found.record.modules[0].scale == 2.0
    assert found.record.parents[0].weight == 0.1
    assert found.record.base.config_digest is None
    assert found.layer("adapter_model.safetensors").size_bytes == 3
    assert found.layers[0].digest == Digest.parse(SHA)
    with pytest.raises(FormatError, match=r"README\.md"):
        found.layer("README.md")
    assert found.annotations() == {
        media_types.PEFT_TYPE: "LORA",
        media_types.RANK: "4",
        media_types.TARGET_MODULES: "fc1",
        media_types.FAMILY: "phi",
        media_types.TENSORS_DIGEST: SHA,
        media_types.BASE_NAME: "microsoft/phi-2",
    }


def test_what_is_written_is_an_oci_manifest_in_canonical_form(config):
    data = json.dumps(config).encode()
    manifest = Manifest.parse(manifest_of(data), data)
    document = json.loads(manifest.to_bytes())
    assert (document["schemaVersion"], document["mediaType"]) == (2, media_types.MANIFEST)
    assert document["artifactType"] == "application/vnd.cncf.model.manifest.v1+json"
    assert document["config"]["mediaType"] == "application/vnd.cncf.model.config.v1+json"
    assert manifest.to_bytes() == canonical_json(document)
    written = json.loads(manifest.config_bytes())
    # ModelPack v0.0.7 requires these three objects.
    assert set(written) == {"descriptor", "config", "modelfs", "adaptrix"}
    assert written["modelfs"] == {"type": "layers", "diffIds": [SHA]}
    assert written["config"]["paramSize"] == "160"
    assert written["adaptrix"]["modules"][0]["scale"] == "2.0"


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"schemaVersion": 1}, "manifest.schemaVersion"),
        ({"mediaType": "application/vnd.oci.image.index.v1+json"}, "manifest.mediaType"),
        ({"artifactType": None}, "manifest.artifactType"),
        ({"config": None}, "manifest.config"),
        ({"config": {}}, "manifest.config.mediaType"),
        ({"config": layer(size=3)}, "manifest.config"),
        ({"layers": None}, "manifest.layers"),
        ({"layers": {}}, "manifest.layers"),
        ({"layers": ["x"]}, "manifest.layers[0]"),
        ({"layers": [layer(), layer(size="12")]}, "manifest.layers[1].size"),
        ({"layers": [layer(size=-1)]}, "manifest.layers[0].size"),
        ({"layers": [layer(size=True)]}, "manifest.layers[0].size"),
        ({"layers": [layer(size=1.5)]}, "manifest.layers[0].size"),
        ({"layers": [layer(digest="sha512:00")]}, "manifest.layers[0].digest"),
        ({"layers": [layer(digest=None)]}, "manifest.layers[0].digest"),
        ({"layers": [layer(mediaType=5)]}, "manifest.layers[0].mediaType"),
        ({"layers": [layer(annotations=[1])]}, "manifest.layers[0].annotations"),
        ({"layers": [layer(annotations={"a": 1})]}, "manifest.layers[0].annotations[a]"),
        ({"layers": [layer(annotations=None)]}, "manifest.layers[0].annotations"),
        ({"layers": [layer(), layer()]}, "manifest.layers[1].annotations"),
    ],
)
def test_a_wrong_manifest_names_the_field(config, changes, where):
    data = json.dumps(config).encode()
    with pytest.raises(FormatError) as caught:
        Manifest.parse(manifest_of(data, **changes), data)
    assert caught.value.where.startswith(where)
    assert caught.value.exit_status == 2


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/etc/passwd",
        "../x",
        "a/../b",
        "a//b",
        "a/",
        ".",
        "a\\b",
        "C:x",
        "a\nb",
        "a\0",
        "x" * 256,
    ],
)
def test_unsafe_file_names(config, path):
    data = json.dumps(config).encode()
    bad = layer(annotations={media_types.FILEPATH: path})
    with pytest.raises(FormatError, match="relative path"):
        Manifest.parse(manifest_of(data, layers=[bad]), data)


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"version": 2}, "config.adaptrix.version"),
        ({"tensors_digest": "sha256:xyz"}, "config.adaptrix"),
        ({"parameters": "many"}, "config.adaptrix.parameters"),
        ({"modules": [{}]}, "config.adaptrix.modules.0.path"),
        ({"parents": [{"digest": SHA, "role": "x", "weight": "nan"}]}, "config.adaptrix.parents.0"),
        ({"parents": [{"digest": SHA, "role": "x", "weight": "inf"}]}, "config.adaptrix.parents.0"),
        ({"capabilities": "sums"}, "config.adaptrix.capabilities"),
        ({"source": None}, "config.adaptrix.source"),
    ],
)
def test_a_wrong_record_names_the_field(config, changes, where):
    data = json.dumps(config | {"adaptrix": config["adaptrix"] | changes}).encode()
    with pytest.raises(FormatError) as caught:
        Manifest.parse(manifest_of(data), data)
    assert caught.value.where.startswith(where)


@pytest.mark.parametrize("record", [None, [], "x"])
def test_a_config_without_a_record(record):
    data = json.dumps({"adaptrix": record}).encode()
    with pytest.raises(FormatError, match=r"config\.adaptrix"):
        Manifest.parse(manifest_of(data), data)


def test_another_config(config):
    data = json.dumps(config).encode()
    with pytest.raises(FormatError, match="expected sha256"):
        Manifest.parse(manifest_of(data), data + b" ")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "not JSON"), (b"\xff", "not JSON"), (b"[" * 100_000, "not JSON"),
        (b"[]", "expected an object"), (b'{"a":1,"a":2}', "'a' is written twice"),
        (b" " * (4 << 20) + b"{}", "at most"),
    ],
)  # fmt: skip
def test_bytes_that_are_no_document(data, words):
    with pytest.raises(FormatError, match=words):
        Manifest.parse(data, b"{}")


def test_the_published_schema_is_the_schema():
    published = json.loads((ROOT / "docs/schema/adapter-record.json").read_text())
    assert published == record_json_schema()
    assert published["properties"]["tensors_digest"]["pattern"] == "^sha256:[0-9a-f]{64}$"


def test_canonical_json():
    assert (
        canonical_json({"b": [1, True, None], "a": "ü\n"})
        == '{"a":"ü\\n","b":[1,true,null]}'.encode()
    )
    for bad in (1.5, [{"a": 0.0}], {1: 2}, {"a": b"x"}, {"a": {1}}, float("nan")):
        with pytest.raises(TypeError):
            canonical_json(bad)
    with pytest.raises(FormatError, match="not valid Unicode") as caught:
        canonical_json({"description": "caf\udce9"})
    assert caught.value.exit_status == 2


@pytest.mark.parametrize(("value", "text"), [(2, "2.0"), (0.1, "0.1"), (1e-45, "1e-45")])
def test_float_text(value, text):
    assert float_text(value) == text


def test_a_file_has_both_names():
    found = file_descriptor("a/b", "x/y", Digest.parse(SHA), 3)
    assert found.annotations == {
        "org.cncf.model.filepath": "a/b",
        "org.opencontainers.image.title": "a/b",
    }
