"""parse ∘ print is the identity, for everything that people or other programs read."""

import json
import string
from contextlib import suppress
from datetime import UTC, datetime

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from adaptrix.schema import media_types
from adaptrix.schema.adapter import ScaleRule
from adaptrix.schema.canonical import canonical_json, float_text
from adaptrix.schema.descriptor import Descriptor
from adaptrix.schema.digest import Digest
from adaptrix.schema.errors import AdaptrixError, FormatError, InvalidReference
from adaptrix.schema.manifest import Manifest, file_descriptor, is_safe_path
from adaptrix.schema.record import (
    AdapterRecord,
    BaseRecord,
    ConversionRecord,
    ModuleRecord,
    ParentRecord,
    SourceFile,
    SourceRecord,
)
from adaptrix.schema.reference import (
    HubSource,
    OciSource,
    PathSource,
    Reference,
    hub_source_of,
    parse_source,
)
from adaptrix.schema.report import Fidelity, Verdict
from adaptrix.schema.tensor import DType
from adaptrix.store.references import ReferenceRecord

digests = st.binary(max_size=8).map(Digest.of)
parts = st.from_regex(r"[a-z0-9]+([._-][a-z0-9]+){0,3}", fullmatch=True).filter(
    lambda part: len(part) < 60 and part.isascii()
)
tags = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}", fullmatch=True).filter(str.isascii)
unicode_text = st.text(max_size=40).filter(lambda text: text.isprintable() or "\n" in text)
finite = st.floats(allow_nan=False, allow_infinity=False)
counts = st.integers(min_value=0, max_value=2**53)


@given(digests)
def test_digest(digest):
    assert Digest.parse(str(digest)) == digest


@given(st.text(max_size=80))
def test_what_parses_as_a_digest_prints_as_itself(text):
    for candidate in (text, f"sha256:{text}"):
        with suppress(InvalidReference):
            assert str(Digest.parse(candidate)) == candidate


references = st.builds(
    Reference,
    parts=st.lists(parts, min_size=1, max_size=3).map(tuple),
    tag=st.none() | tags,
    digest=st.none() | digests,
    ancestor=st.integers(min_value=0, max_value=99_999),
)


@given(references)
def test_reference(reference):
    assert Reference.parse(str(reference)) == reference
    assert parse_source(str(reference)) == reference


hub_parts = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,20}[A-Za-z0-9_])?", fullmatch=True)
revisions = st.from_regex(r"[A-Za-z0-9._][A-Za-z0-9._/-]{0,40}", fullmatch=True)


folders = st.lists(st.from_regex(r"[\w ][\w. -]{0,9}", fullmatch=True), max_size=3).map("/".join)


@given(hub_parts, hub_parts, st.none() | revisions, folders)
def test_hub_source(org, name, revision, folder):
    try:
        source = HubSource(repository=f"{org}/{name}", revision=revision, folder=folder)
    except InvalidReference:
        assume(False)
    assert parse_source(str(source)) == source
    if not folder:
        assert hub_source_of(str(source).removeprefix("hf:")) == source
    assert parse_source(str(source).replace("hf:", "hf://")) == source


hosts = st.sampled_from(["registry.io", "localhost:5000", "127.0.0.1", "[::1]:443", "Host-1.x"])
repositories = st.lists(
    st.from_regex(r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+){0,2}", fullmatch=True).filter(str.isascii),
    min_size=1,
    max_size=4,
).map("/".join)


@given(hosts, repositories, st.none() | tags, st.none() | digests)
def test_oci_source(host, repository, tag, digest):
    source = OciSource(host=host, repository=repository, tag=tag, digest=digest)
    assert parse_source(str(source)) == source


@given(st.text(min_size=1, max_size=60).filter(lambda text: "\0" not in text))
def test_path_source(path):
    source = PathSource(path=path)
    assert parse_source(str(source)) == source
    assert source.path in {path, f"./{path}"}


@given(st.text(max_size=60))
def test_any_text_is_a_source_or_an_invalid_reference(text):
    try:
        source = parse_source(text)
    except InvalidReference:
        return
    assert parse_source(str(source)) == source


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(json_values)
def test_canonical_json(document):
    try:
        data = canonical_json(document)
    except FormatError:
        assume(False)
    assert json.loads(data) == document
    assert canonical_json(json.loads(data)) == data


@given(finite)
def test_float_text(value):
    assert float(float_text(value)).hex() == value.hex()


@given(st.sampled_from(DType))
def test_dtype_names(dtype):
    assert DType.from_long_name(dtype.long_name) is dtype


descriptors = st.builds(
    Descriptor,
    media_type=st.text(min_size=1, max_size=30),
    digest=digests,
    size_bytes=counts,
    annotations=st.dictionaries(st.text(max_size=10), st.text(max_size=10), max_size=3),
)


@given(descriptors)
def test_descriptor(descriptor):
    assert Descriptor.from_json(json.loads(json.dumps(descriptor.to_json()))) == descriptor


words = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
records = st.builds(
    AdapterRecord,
    tensors_digest=digests,
    family=words,
    method=st.sampled_from(["lora", "rslora", "dora"]),
    parameters=counts,
    dtypes=st.lists(words, max_size=2).map(tuple),
    modules=st.lists(
        st.builds(
            ModuleRecord,
            path=words,
            kind=st.just("linear"),
            in_features=counts,
            out_features=counts,
            rank=counts,
            alpha=finite,
            scale=finite,
            rule=st.sampled_from(ScaleRule),
        ),
        max_size=3,
    ).map(tuple),
    base=st.builds(BaseRecord, name=words, revision=words, config_digest=st.none() | digests),
    source=st.builds(
        SourceRecord,
        kind=words,
        repository=words,
        commit=words,
        files=st.lists(
            st.builds(SourceFile, path=words, digest=digests, size_bytes=counts), max_size=2
        ).map(tuple),
    ),
    conversion=st.none()
    | st.builds(
        ConversionRecord,
        format=words,
        layout=words,
        method=words,
        tool=words,
        fidelity=st.sampled_from(Fidelity),
        verdict=st.sampled_from(Verdict),
        confidence=finite,
        evidence=st.lists(words, max_size=2).map(tuple),
    ),
    recipe=st.none() | st.dictionaries(words, st.integers() | words, max_size=2),
    parents=st.lists(
        st.builds(ParentRecord, digest=digests, role=words, weight=st.none() | finite, name=words),
        max_size=2,
    ).map(tuple),
    description=words,
    domain=words,
    training_data=words,
    license=words,
    capabilities=st.lists(words, max_size=2).map(tuple),
    replaced=st.lists(words, max_size=2).map(tuple),
)
paths = st.lists(
    st.text(string.ascii_letters + string.digits + "._- é", min_size=1, max_size=8),
    min_size=1,
    max_size=3,
).map("/".join)
layers = st.lists(
    st.builds(
        file_descriptor,
        paths.filter(is_safe_path),
        st.sampled_from([media_types.WEIGHT_RAW, media_types.DOC_RAW]),
        digests,
        counts,
    ),
    max_size=3,
    unique_by=lambda layer: layer.annotations[media_types.FILEPATH],
).map(tuple)
manifests = st.builds(Manifest, record=records, layers=layers)


@given(manifests)
def test_manifest(manifest):
    again = Manifest.parse(manifest.to_bytes(), manifest.config_bytes())
    assert again == manifest
    assert again.to_bytes() == manifest.to_bytes()
    assert again.digest == Digest.of(manifest.to_bytes()) == manifest.digest


@given(manifests, st.data())
def test_a_changed_manifest_is_another_or_an_error(manifest, data):
    original = manifest.to_bytes()
    at = data.draw(st.integers(0, len(original) - 1))
    changed = bytearray(original)
    changed[at] ^= data.draw(st.integers(1, 255))
    assert Digest.of(changed) != manifest.digest
    with suppress(FormatError):
        Manifest.parse(bytes(changed), manifest.config_bytes())


@given(st.binary(max_size=60), st.binary(max_size=60))
def test_any_bytes_are_a_manifest_or_a_format_error(manifest, config):
    with pytest.raises(FormatError):
        Manifest.parse(manifest, config)


@given(
    st.dictionaries(
        st.sampled_from(["schemaVersion", "mediaType", "artifactType", "config", "layers"]),
        json_values
        | st.sampled_from([2, media_types.MANIFEST, media_types.MODEL])
        | st.fixed_dictionaries({"digest": json_values, "size": json_values}),
    )
)
def test_any_document_is_a_manifest_or_a_format_error(document):
    with pytest.raises(FormatError):
        Manifest.parse(json.dumps(document).encode(), b"{}")


@given(
    st.builds(
        ReferenceRecord,
        name=parts,
        tag=tags,
        digest=st.none() | digests,
        previous=st.none() | digests,
        time=st.datetimes(timezones=st.just(UTC), min_value=datetime(1970, 1, 1)),
        reason=words,
    )
)
def test_reference_record(record):
    assert ReferenceRecord.parse(record.to_bytes()) == record


@given(st.binary(max_size=200))
def test_any_bytes_are_a_record_or_an_error(data):
    with pytest.raises(AdaptrixError):
        ReferenceRecord.parse(data)
