import pytest

from adaptrix.schema.digest import Digest
from adaptrix.schema.errors import InvalidReference
from adaptrix.schema.reference import (
    HubSource,
    OciSource,
    PathSource,
    Reference,
    hub_source_of,
    parse_source,
)

SHA = "sha256:" + "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("math", Reference(parts=("math",))),
        ("team/math:v1.2", Reference(parts=("team", "math"), tag="v1.2")),
        ("hub/team/math", Reference(parts=("hub", "team", "math"))),
        (f"math@{SHA}", Reference(parts=("math",), digest=Digest.parse(SHA))),
        (f"m:t@{SHA}~3", Reference(parts=("m",), tag="t", digest=Digest.parse(SHA), ancestor=3)),
        ("math~2", Reference(parts=("math",), ancestor=2)),
    ],
)
def test_references(text, reference):
    assert Reference.parse(text) == parse_source(text) == reference
    assert str(reference) == text


def test_short_forms():
    assert str(Reference.parse("math~")) == "math~1"
    assert Reference.parse("math").tag_or_default == "latest"
    assert Reference.parse("team/math:v1").name == "team/math"
    assert Reference.parse("team/math:v1").tag_or_default == "v1"


@pytest.mark.parametrize(
    "text",
    [
        "", " ", " math", "math ", "Math", "ma th", "a//b", "/", "a/b/c/d", "a--b", "-a", "a-",
        "math:", "math:a b", "math:" + "x" * 129, "math@", "math@sha256:12", "math@md5:00", "a@b",
        "math~x", "math~-1", "math~999999", "тeam", "m\u0000", "math:v\n", "a" * 201, "..", "a/..",
        "math:v1:v2", "%2e%2e", "a%2fb",
    ],
)  # fmt: skip
def test_what_is_no_reference(text):
    with pytest.raises(InvalidReference) as caught:
        Reference.parse(text)
    assert caught.value.exit_status == 2
    assert "\n" not in str(caught.value)


def test_a_negative_ancestor():
    with pytest.raises(InvalidReference):
        Reference(parts=("a",), ancestor=-1)


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("hf:org/math", HubSource(repository="org/math")),
        ("hf://org/math@main", HubSource(repository="org/math", revision="main")),
        ("hf:Org/Math-1.0@refs/pr/3", HubSource(repository="Org/Math-1.0", revision="refs/pr/3")),
        ("https://huggingface.co/org/math", HubSource(repository="org/math")),
        ("http://www.huggingface.co/org/math/", HubSource(repository="org/math")),
        ("https://hf.co/org/math?x=1#files", HubSource(repository="org/math")),
        (
            "https://huggingface.co/org/math/tree/v1",
            HubSource(repository="org/math", revision="v1"),
        ),
        (
            "https://huggingface.co/org/math/blob/main/a/adapter_model.bin",
            HubSource(repository="org/math", revision="main", folder="a"),
        ),
        (
            "https://huggingface.co/org/math/blob/main/adapter_model.bin",
            HubSource(repository="org/math", revision="main"),
        ),
        (
            "https://huggingface.co/org/math/tree/main/runs/checkpoint-100",
            HubSource(repository="org/math", revision="main", folder="runs/checkpoint-100"),
        ),
        ("hf:org/math/a b/c@v1", HubSource(repository="org/math", revision="v1", folder="a b/c")),
        (
            "https://huggingface.co/org/math/tree/refs%2Fpr%2F1",
            HubSource(repository="org/math", revision="refs/pr/1"),
        ),
        (
            "https://huggingface.co/org/math/tree/refs/pr/1",
            HubSource(repository="org/math", revision="refs/pr/1"),
        ),
        ("oci://h.io/a/b:v1", OciSource(host="h.io", repository="a/b", tag="v1")),
        ("oci://[::1]:5/a", OciSource(host="[::1]:5", repository="a")),
        (
            f"oci://localhost:5000/a@{SHA}",
            OciSource(host="localhost:5000", repository="a", digest=Digest.parse(SHA)),
        ),
        ("./a b ", PathSource(path="./a b ")),
        ("/abs/x", PathSource(path="/abs/x")),
        ("~/x", PathSource(path="~/x")),
        ("..", PathSource(path="..")),
        ("C:\\x", PathSource(path="C:\\x")),
        ("C:/x", PathSource(path="C:/x")),
        ("\\\\host\\share", PathSource(path="\\\\host\\share")),
        ("./a://b", PathSource(path="./a://b")),
    ],
)
def test_sources(text, source):
    assert parse_source(text) == source
    assert parse_source(str(source)) == source


@pytest.mark.parametrize(
    "text",
    [
        "hf:", "hf:math", "hf:org/a/../b", "hf:org/a//b", "hf:org/a/b/", "hf:datasets/org/x", "hf:org/math@", "hf:org/a..b", "hf:a--b/c",
        "hf:org/math@../../x", "hf:org/math@a b", "hf:org/math@" + "x" * 300, "oci://", "oci://h",
        "oci://h/", "oci:///a", "oci://h/A", "oci://h/a:", "oci://h/a@", "oci://h/a:b/c",
        "https://example.org/a/b", "ftp://x", "file:///etc/passwd", "https://huggingface.co/org",
        "https://huggingface.co/datasets/org/x", "https://huggingface.co/spaces/x",
        "https://huggingface.co/org/math/tree/main/%2e%2e",
        "https://huggingface.co/org/math/settings", "https://huggingface.co/org/math/tree",
        "https://huggingface.co/org/math/tree/%2e%2e%2fx", "./a\0b",
    ],
)  # fmt: skip
def test_what_is_no_source(text):
    with pytest.raises(InvalidReference):
        parse_source(text)


def test_a_path_never_becomes_another_kind_of_source():
    for text in ("math", "org/math", "hf:org/math", "oci://h/a", "https://hf.co/a/b", " x"):
        assert PathSource(path=text).path == f"./{text}"
    for bad in ("", "a\0"):
        with pytest.raises(InvalidReference):
            PathSource(path=bad)


def test_bare_hub_names():
    assert hub_source_of("org/math@v1") == HubSource(repository="org/math", revision="v1")
    with pytest.raises(InvalidReference):
        hub_source_of("math")
    with pytest.raises(InvalidReference, match="hf:org/math/a"):
        hub_source_of("org/math/a")


@pytest.mark.parametrize(
    "text", ["", "sha256:", "sha256:" + "A" * 64, "a" * 64, "sha256:" + "a" * 65, "sha512:00"]
)
def test_what_is_no_digest(text):
    with pytest.raises(InvalidReference):
        Digest.parse(text)


def test_digest():
    # FIPS 180-4, the example "abc".
    abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert Digest.of(b"abc").hex == abc
    assert Digest.of(memoryview(b"abc")).short == abc[:12]
    assert Digest("0" * 64) < Digest("1" * 64)
