"""Artifacts about a version: listed by the registry, or under the fallback tag."""

from __future__ import annotations

import sys

import pytest

from adaptrix.hub.oci_referrers import attach, referrers
from adaptrix.hub.versions import visible_tags
from adaptrix.schema.digest import Digest
from adaptrix.schema.errors import FormatError

makers = sys.modules["oci_makers"]
registries = sys.modules["loopback_registry"]
docker = sys.modules["docker_registry"]


def stocked(url):
    registry = makers.client(url)
    registry.push_blob("math", makers.blob_of(makers.EMPTY), makers.opened(makers.EMPTY))
    registry.push_manifest("math", makers.manifest_of(), tag="v1", expected=None)
    return registry


def about(subject, number):
    blob = {
        "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": str(subject),
        "size": len(makers.manifest_of()),
    }  # fmt: skip
    return makers.manifest_of(subject=blob, annotations={"number": str(number)})


@pytest.fixture(params=["with", "without", "docker"])
def url(request, tmp_path):
    if request.param == "docker":
        if docker.DOCKER_REGISTRY is None:
            pytest.skip("no docker-registry here")
        with docker.DockerRegistry(tmp_path / "registry") as server:
            yield server.url
        return
    with registries.LoopbackRegistry(has_referrers=request.param == "with") as server:
        yield server.url


def test_what_is_attached_is_listed(url):
    registry = stocked(url)
    subject = registry.resolve("math", "v1")
    assert referrers(registry, "math", subject) == ()
    digests = [attach(registry, "math", about(subject, number)) for number in range(3)]
    assert attach(registry, "math", about(subject, 0)) == digests[0]
    found = referrers(registry, "math", subject)
    assert sorted(entry["digest"] for entry in found) == sorted(map(str, digests))
    assert {entry["artifactType"] for entry in found} == {"application/x.test"}
    assert visible_tags(registry.tags("math")) == ("v1",)


def test_without_a_subject_it_is_about_nothing(registry_server):
    with pytest.raises(FormatError):
        attach(stocked(registry_server.url), "math", makers.manifest_of())
    assert referrers(stocked(registry_server.url), "math", Digest.of(b"none")) == ()
